"""Slabs, buffers, the timer wheel, rings and grace periods, each against a model.  _core.pyx."""

from __future__ import annotations

import gc
import random
import re
import weakref
from collections import deque
from itertools import pairwise

import pytest

from dataplane._core import BufferFace, MaskFace, Reclaimer, RingFace, SlabFace, WheelFace
from tests.dataplane.engine_kit import CLOSE, Rig, handshake, request, until
from tests.dataplane.engine_kit import rig as new_rig
from tests.harness import ROOT

TICK_MS = 100
SEED = 7


# --- buffers --------------------------------------------------------------------------------------


def test_buffer_holds_what_a_bytearray_holds() -> None:
    chance = random.Random(SEED)
    buffer, model = BufferFace(), bytearray()
    for _ in range(20000):
        if chance.random() < 0.55:
            data = chance.randbytes(chance.choice([0, 1, 7, 511, 512, 513, 4000]))
            fits = len(model) + len(data) <= 20000
            assert buffer.append(data, 20000) == fits
            model += data if fits else b""
        else:
            size = chance.randint(0, len(model))
            buffer.consume(size)
            del model[:size]
        assert buffer.content == bytes(model)
        assert buffer.capacity <= 65536


def test_buffer_that_empties_owns_no_memory() -> None:
    buffer = BufferFace()
    assert buffer.append(b"x" * 1000, 1000)
    assert buffer.capacity >= 1000
    buffer.consume(1000)
    assert (buffer.capacity, buffer.content) == (0, b"")


def test_buffer_refuses_what_is_over_the_bound_and_keeps_what_it_has() -> None:
    buffer = BufferFace()
    assert buffer.append(b"abc", 5)
    assert not buffer.append(b"defg", 5)
    assert not buffer.append(b"x" * 6, 5)
    assert buffer.append(b"de", 5)
    assert buffer.content == b"abcde"


# --- the wheel ------------------------------------------------------------------------------------


def test_wheel_fires_each_timer_once_and_at_most_a_tick_late() -> None:
    chance = random.Random(SEED)
    now = 123456789
    wheel = WheelFace(now, 300)
    model: dict[int, int] = {}
    for _ in range(5000):
        for _ in range(chance.randint(0, 5)):
            number = chance.randrange(300)
            if chance.random() < 0.3:
                wheel.cancel(number)
                model.pop(number, None)
            else:
                # Past, near, and more than once round the wheel (51.2 s).
                model[number] = now + chance.choice([-50, 0, 1, 99, 100, 101, 5000, 60000, 200000])
                wheel.arm(number, model[number])
        now += chance.choice([1, 20, 99, 100, 101, 350, 700])
        fired = wheel.run(now)
        assert len(set(fired)) == len(fired)
        for number in fired:
            assert model.pop(number) <= now
        assert not [n for n, deadline in model.items() if deadline + 2 * TICK_MS <= now]
        assert wheel.armed == len(model)


@pytest.mark.parametrize("gap", [60_000, 600_000, 3_600_000])
def test_wheel_catches_up_after_a_long_sleep(gap: int) -> None:
    wheel = WheelFace(1000, 50)
    for number in range(50):
        wheel.arm(number, 1000 + number * 1000)
    wheel.arm(49, 1000 + gap + 5000)
    assert sorted(wheel.run(1000 + gap)) == list(range(49))
    assert wheel.run(1000 + gap + 4000) == []
    assert wheel.run(1000 + gap + 5200) == [49]


def test_wheel_lets_a_worker_sleep_until_the_next_slot_that_holds_a_timer() -> None:
    wheel = WheelFace(5000, 3)
    revolution = 51200
    assert wheel.sleep_ms(5030) == revolution - 30
    wheel.arm(0, 9000)
    assert wheel.sleep_ms(5030) == 9100 - 5030  # a timer fires at the end of its tick
    wheel.arm(1, 5999)
    assert wheel.sleep_ms(5030) == 6000 - 5030
    wheel.cancel(1)
    wheel.cancel(1)
    assert wheel.sleep_ms(5100) == 9100 - 5100
    assert wheel.run(9100) == [0]
    assert (wheel.armed, wheel.sleep_ms(9130)) == (0, revolution - 30)
    wheel.arm(2, 9100 + 2 * revolution)  # met once a revolution
    assert 0 < wheel.sleep_ms(9100) <= revolution


def test_wheel_never_lets_a_worker_sleep_past_a_timer() -> None:
    """Sleeping as long as it says fires each timer at most a tick late."""
    chance = random.Random(SEED)
    now = 777
    wheel = WheelFace(now, 64)
    due: dict[int, int] = {}
    for _ in range(2000):
        for _ in range(chance.randrange(3)):
            number = chance.randrange(64)
            if chance.random() < 0.3:
                wheel.cancel(number)
                due.pop(number, None)
            else:
                due[number] = now + chance.choice((5, 400, 7000, 51150, 51300, 130000))
                wheel.arm(number, due[number])
        now += wheel.sleep_ms(now)
        for number in wheel.run(now):
            assert now - 100 <= due.pop(number) <= now
        assert all(at + 100 >= now for at in due.values())
    assert wheel.armed == len(due)


# --- slabs and rings ------------------------------------------------------------------------------


def test_slab_gives_distinct_zeroed_structs_up_to_its_ceiling() -> None:
    slab = SlabFace(1000)
    taken = [slab.take() for _ in range(1000)]
    assert None not in taken
    addresses = sorted(item for item in taken if item is not None)
    assert all(b - a >= 24 for a, b in pairwise(addresses))
    assert slab.take() is None
    chance = random.Random(SEED)
    for _ in range(5000):
        item = addresses.pop(chance.randrange(len(addresses)))
        slab.give(item)
        again = slab.take()
        assert again == item  # the last one given is warm
        addresses.append(again)
    assert slab.taken == 1000
    for item in addresses:
        slab.give(item)
    assert slab.taken == 0


@pytest.mark.parametrize("ceiling", [1, 255, 256, 257])
def test_slab_reaches_its_ceiling_exactly(ceiling: int) -> None:
    slab = SlabFace(ceiling)
    assert [slab.take() is None for _ in range(ceiling + 1)] == [False] * ceiling + [True]


def test_ring_is_a_bounded_queue() -> None:
    chance = random.Random(SEED)
    ring, model = RingFace(16), deque[int]()
    for value in range(20000):
        if chance.random() < 0.5:
            assert ring.put(value) == (len(model) < 16)
            if len(model) < 16:
                model.append(value)
        else:
            assert ring.take() == (model.popleft() if model else None)


# --- grace periods --------------------------------------------------------------------------------


class Owner:
    """Something that is alive or not."""


def test_reclaimer_without_workers_frees_at_the_next_sweep() -> None:
    reclaimer, owner = Reclaimer(), Owner()
    alive = weakref.ref(owner)
    reclaimer.retire_object(owner)
    del owner
    assert alive() is not None and len(reclaimer) == 1
    assert reclaimer.sweep() == 1
    gc.collect()
    assert alive() is None and len(reclaimer) == 0


def test_sleeping_worker_holds_nothing_up() -> None:
    """Its turn is even while it sleeps: what is retired then may go at once."""
    with new_rig(1) as rig:
        rig.open_route(paths=["/known"])
        rig.client(request(b"/no")).answer()

        def at_once() -> bool:
            rig.engine.reclaimer.retire_object(Owner())
            return rig.engine.sweep() > 0

        until(at_once)  # on a busy machine its turn may last beyond its answer
        assert sum(at_once() for _ in range(200)) > 150


def test_working_worker_holds_up_what_it_may_still_read() -> None:
    """A flood keeps the worker at work: then what is retired must wait, at times."""
    with new_rig(1) as rig:
        rig.open_route(paths=["/known"])
        clients = [rig.connect() for _ in range(20)]

        def waits() -> bool:
            for client in clients:
                client.send(request(b"/no") * 20)
            rig.engine.reclaimer.retire_object(Owner())
            rig.engine.reclaimer.sweep()
            waited = len(rig.engine.reclaimer) > 0
            for client in clients:
                for _ in range(20):
                    client.answer()
            return waited

        until(waits, 30)


def test_slot_used_again_is_told_apart_from_its_earlier_lives(rig: Rig) -> None:
    """An answer for a connection that has ended does not reach the next one in its slot."""
    rig.guarded_route()
    for number in range(50):
        token = rig.token(number, put=False)
        client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
        old = rig.question()[1]
        client.reset()
        rig.idle()
        client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
        new = rig.question()[1]
        assert new != old
        rig.engine.answer_token(old, "unknown")
        rig.engine.answer_token(new, "unavailable")
        assert client.answer()[0].status == 503
        client.close()


# --- mask keys ------------------------------------------------------------------------------------

KEYS = 100_000
SIGMAS = 6  # one false alarm in 500 million looks


def far_from(found: float, expected: float, variance: float) -> bool:
    return abs(found - expected) > SIGMAS * variance**0.5


def ones(value: int) -> int:
    return value.bit_count()


def test_s70_hundred_thousand_mask_keys_show_no_relation() -> None:
    """Nor do two workers': they are compared bit by bit, with themselves later, and by bytes."""
    raw = MaskFace().take(KEYS)
    other = MaskFace().take(KEYS)
    keys = [int.from_bytes(raw[at : at + 4], "big") for at in range(0, len(raw), 4)]
    bits = 32 * KEYS
    stream, others = int.from_bytes(raw, "big"), int.from_bytes(other, "big")
    assert not far_from(ones(stream), bits / 2, bits / 4)
    assert not far_from(ones(stream ^ others), bits / 2, bits / 4)
    for lag in range(1, 257):  # 32 is a key, 2,048 a syscall's worth
        for by in (lag, 32 * lag):
            together = (stream ^ (stream >> by)) & ((1 << (bits - by)) - 1)
            assert not far_from(ones(together), (bits - by) / 2, (bits - by) / 4), by
    for bit in range(32):
        assert not far_from(sum(key >> bit & 1 for key in keys), KEYS / 2, KEYS / 4), bit
    counts = [raw.count(byte) for byte in range(256)]
    expected = len(raw) / 256
    assert not far_from(sum((n - expected) ** 2 / expected for n in counts), 255, 2 * 255)
    # Of 100,000 out of 2^32 about one is there twice, of their steps as well; and sums or
    # differences that come back would be a counter's, or those of a linear generator.
    steps = [(b - a) % 2**32 for a, b in pairwise(keys)]
    bends = [(b - a) % 2**32 for a, b in pairwise(steps)]
    for found in (keys, steps, bends, [a ^ b for a, b in pairwise(keys)]):
        assert len(found) - len(set(found)) <= 12
    runs, other_runs = ({of[at : at + 16] for at in range(0, len(of), 16)} for of in (raw, other))
    assert not runs & other_runs


def test_s70_mask_keys_come_from_the_kernels_generator() -> None:
    """And all that frames of ours have for a mask is that."""
    folder = ROOT / "dataplane"
    body = (folder / "_core.pyx").read_text().partition("cdef void worker_mask(")[2]
    assert "getrandom(" in body.partition("\n\n\n")[0]
    found = 0
    for name in ("_relay", "_heartbeat"):  # _walk turns the keys of frames that pass
        text = (folder / f"{name}.pyx").read_text()
        for made in re.finditer(r"frame_write_(?:close|header)\(.*, (\w+)\)\n", text):
            before = text[: made.start()].rpartition("\ncdef ")[2]
            assert made[1] == "NULL" or f"worker_mask(worker, {made[1]})" in before, made[0]
            found += made[1] != "NULL"
    assert found == 2


def test_s70_every_frame_of_ours_to_an_upstream_has_a_key_of_its_own() -> None:
    with new_rig(2) as rig:
        rig.open_route()
        pairs = [rig.session() for _ in range(100)]
        rig.engine.drain(0)
        keys = set()
        for _, upstream in pairs:
            said = upstream.frame()
            assert (said.opcode, said.masked, said.code) == (CLOSE, True, 1001)
            keys.add(said.raw[2:6])
        assert len(keys) == len(pairs)
