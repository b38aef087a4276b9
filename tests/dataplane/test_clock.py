"""The control plane's clock, from heartbeats that take their time."""

from __future__ import annotations

import random

import pytest
import structlog

from dataplane.clock import SKEW_SECONDS, WINDOW, Clock


class Time:
    """Our two clocks, and the control plane's, which is `ahead` of our wall clock."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.steady, self.wall, self.ahead = 100.0, 1_000_000.0, ahead
        self.told: list[float] = []
        self.clock = Clock(self.told.append, lambda: self.steady, lambda: self.wall)

    def passes(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds

    @property
    def theirs(self) -> float:
        return self.wall + self.ahead

    def beat(self, delay: float = 0.001) -> None:
        """A heartbeat that is under way for `delay`."""
        sent = self.theirs
        self.passes(delay)
        self.clock.hear(sent)
        self.passes(1.0 - delay)

    def error(self) -> float:
        return abs(self.clock.now() - self.theirs)


def test_without_a_heartbeat_there_is_the_systems_clock() -> None:
    time = Time(ahead=50)
    assert time.clock.now() == time.wall
    assert time.told == []


@pytest.mark.parametrize("ahead", [0.0, -3600.0, 3600.0, 0.4])
def test_s08_first_heartbeat_sets_the_clock(ahead: float) -> None:
    time = Time(ahead)
    time.beat(0.02)
    assert time.error() == pytest.approx(0.02)
    assert time.told == [time.clock.offset]


def test_s08_slow_heartbeats_do_not_set_it_back() -> None:
    time, dice = Time(ahead=7), random.Random(1)
    time.beat(0.005)
    for _ in range(WINDOW - 1):
        time.beat(dice.uniform(0.005, 0.99))
        assert time.error() < 0.006


def test_s08_best_of_a_window_counts_while_each_is_late() -> None:
    time, dice = Time(), random.Random(2)
    for _ in range(100):
        time.beat(dice.uniform(0.0, 0.9))
    assert time.error() < 0.9


@pytest.mark.parametrize("step", [-30.0, 30.0])
def test_clock_that_was_set_is_followed_within_the_window(step: float) -> None:
    time = Time()
    for _ in range(WINDOW):
        time.beat()
    time.ahead += step
    for _ in range(WINDOW):
        time.beat()
    assert time.error() < 0.01


def test_our_wall_clock_may_be_set_as_one_likes() -> None:
    time = Time()
    time.beat()
    time.wall += 500
    time.ahead -= 500
    assert time.error() < 0.01
    time.passes(3600)  # without a link
    assert time.error() < 0.01


def test_clocks_far_apart_are_said_once() -> None:
    with structlog.testing.capture_logs() as logs:
        time = Time(ahead=SKEW_SECONDS + 1)
        for delay in (0.3, 0.2, 0.1):  # each better than the one before
            time.beat(delay)
    assert [entry["event"] for entry in logs] == ["clock.skew"]
    assert logs[0]["control_plane_ahead_s"] == pytest.approx(SKEW_SECONDS + 0.7)


def test_clocks_close_together_are_not_worth_a_word() -> None:
    with structlog.testing.capture_logs() as logs:
        Time(ahead=SKEW_SECONDS - 1).beat()
    assert logs == []
