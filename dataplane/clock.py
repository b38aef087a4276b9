"""The control plane's clock, as heartbeats tell it.

A token's times are of the clock that issued it, so they are judged by that one (S08), not by
whatever this machine takes the time to be. Each heartbeat says what the control plane's clock
showed when it was sent; it was sent some unknown time before it is read here, so the difference to
our own clock is never too large and is closest in the heartbeat that took least. Hence the largest
difference of the last WINDOW heartbeats. It is taken to CLOCK_BOOTTIME, which nobody sets and which
goes on while the machine sleeps, so that it holds while there is no link. Until the first heartbeat
there is only the system's clock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import structlog

WINDOW = 8  # heartbeats, one a second: a clock that was put back is followed after so long
SKEW_SECONDS = 5.0  # between the two machines' clocks: more is said in the log

log = structlog.get_logger()


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Seconds since 1970 by the control plane's clock.  `changed` is told each new offset."""

    def __init__(
        self,
        changed: Callable[[float], None] = lambda offset: None,
        steady: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._changed, self._steady, self._wall = changed, steady, wall
        self._heard: deque[float] = deque(maxlen=WINDOW)
        self._skewed = False
        self.offset: float | None = None  # to CLOCK_BOOTTIME; None: no heartbeat so far

    def now(self) -> float:
        return self._wall() if self.offset is None else self._steady() + self.offset

    def hear(self, now: float) -> None:
        """A heartbeat that said `now` has just been read."""
        self._heard.append(now - self._steady())
        offset = max(self._heard)
        if offset != self.offset:
            self.offset = offset
            self._changed(offset)
            self._say_skew(self.now() - self._wall())

    def _say_skew(self, ahead: float) -> None:
        skewed = abs(ahead) > SKEW_SECONDS
        if skewed and not self._skewed:
            log.warning("clock.skew", control_plane_ahead_s=round(ahead, 3))
        self._skewed = skewed
