"""Counts over all workers: in total, by key, and a rate; against a dict, and from many threads."""

from __future__ import annotations

import ipaddress
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane._limits import LimitFace

SECOND = 10**9
UNCOUNTED, OVER = 0, -1


def table(most: int = 0, rate: int = 0, keys: int = 8, seed: bytes | None = None) -> LimitFace:
    return LimitFace(most, rate, keys, seed or os.urandom(16))


def test_key_is_counted_up_to_its_bound_and_again_when_one_ends() -> None:
    limits = table(most=3)
    cells = [limits.take(7) for _ in range(3)]
    assert len(set(cells)) == 1
    assert cells[0] > 0
    assert limits.take(7) == OVER
    assert limits.take(8) > 0
    limits.give(cells[0])
    assert limits.take(7) == cells[0]
    assert limits.take(7) == OVER


def test_table_agrees_with_a_dict_over_noise() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    limits = table(most=4, keys=64)  # far more room than keys: none goes uncounted
    keys = [(chance.randrange(2**64), chance.randrange(2**64)) for _ in range(40)]
    held: dict[tuple[int, int], list[int]] = {key: [] for key in keys}
    for _ in range(20000):
        key = chance.choice(keys)
        if held[key] and chance.random() < 0.5:
            limits.give(held[key].pop())
            continue
        cell = limits.take(*key)
        assert (cell == OVER) == (len(held[key]) == 4)
        if cell > 0:
            held[key].append(cell)
    assert sorted(limits.counts[0]) == sorted(len(cells) for cells in held.values() if cells)


def test_key_whose_bucket_is_full_of_others_is_let_in_uncounted() -> None:
    limits = table(most=1, keys=1)  # 1024 cells
    cells = [limits.take(key) for key in range(20000)]
    assert UNCOUNTED in cells
    assert OVER not in cells
    counted = [cell for cell in cells if cell]
    assert len(counted) == len(set(counted)) == len(limits.counts[0])
    assert len(counted) > 1000
    for cell in counted:
        limits.give(cell)
    assert limits.counts[0] == []
    assert all(limits.take(key) > 0 for key in range(200))


def test_table_that_bounds_nothing_is_off() -> None:
    assert table().counts == ([], 0)


def test_nothing_is_given_back_that_was_not_taken() -> None:
    limits = table(most=1)
    cell = limits.take(1)
    limits.give(cell)
    for wrong in (0, cell):
        with pytest.raises(ValueError, match="nothing is counted"):
            limits.give(wrong)


# --- the rate -------------------------------------------------------------------------------------


def test_rate_lets_a_seconds_worth_in_at_once_and_then_so_many_a_second() -> None:
    limits = table(rate=10)
    cell = limits.take(5)
    now = 50 * SECOND
    assert [limits.spend(cell, now) for _ in range(11)] == [True] * 10 + [False]
    assert limits.spend(cell, now + SECOND // 10 - 1) is False
    assert limits.spend(cell, now + SECOND // 10) is True
    granted = sum(limits.spend(cell, now + SECOND + n * SECOND // 1000) for n in range(10000))
    assert 99 <= granted <= 110


def test_look_at_the_rate_spends_nothing() -> None:
    limits = table(rate=2)
    cell = limits.take(5)
    assert all(limits.spend(cell, SECOND, look=True) for _ in range(50))
    assert [limits.spend(cell, SECOND) for _ in range(3)] == [True, True, False]
    assert limits.spend(cell, SECOND, look=True) is False


def test_rate_is_remembered_when_nothing_of_its_key_is_open() -> None:
    limits = table(rate=3)
    for wanted in (True, True, True, False, False):
        cell = limits.take(9, now_ns=SECOND)
        assert limits.spend(cell, SECOND) is wanted
        limits.give(cell)


def test_key_that_takes_over_a_cell_owes_nothing() -> None:
    limits = table(rate=1, keys=1)
    for key in range(5000):
        cell = limits.take(key, now_ns=SECOND)
        assert limits.spend(cell, SECOND) is True
        limits.give(cell)


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::1", "0.0.0.1", False),
        ("::1", "127.0.0.1", False),
    ],
)
def test_address_is_a_key_whole_or_by_its_64(one: str, other: str, same: bool) -> None:
    keys = [LimitFace.key(ipaddress.ip_address(text).packed) for text in (one, other)]
    assert (keys[0] == keys[1]) is same


# --- many threads ---------------------------------------------------------------------------------


def test_threads_never_go_over_a_bound_and_leave_nothing_behind() -> None:
    """`churn` aborts the process when it finds a count over its bound."""
    limits = table(most=2, keys=1)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: limits.churn(n % 2, 200000), range(4)))
    assert all(0 < by_key <= 200000 and 0 < total <= 200000 for by_key, total in done)
    assert limits.counts == ([], 0)


def test_threads_that_bring_a_new_key_at_once_share_its_count() -> None:
    limits = table(most=1000, keys=20000)  # with 512, one table in 14 has a full bucket
    with ThreadPoolExecutor(4) as pool:
        for key in range(300):
            cells = list(pool.map(lambda _, key=key: limits.take(key), range(4)))
            assert len(set(cells)) == 1
            assert cells[0] > 0
    assert limits.counts[0] == [4] * 300
