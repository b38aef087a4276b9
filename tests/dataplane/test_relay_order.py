"""Who hears what first when a side breaks a rule.  frames.md, how to do it, 1."""

from __future__ import annotations

import time

import pytest

from tests.dataplane.engine_kit import CLOSE, MASK, TEXT, Rig, close, frame, up

BAD_FROM_CLIENT = up(TEXT, b"bad", rsv=2)
BAD_FROM_UPSTREAM = frame(TEXT, b"bad", rsv=2)


@pytest.mark.parametrize("source", ["client", "upstream"])
def test_innocent_side_is_heard_out_before_the_violator_hears_its_code(
    rig: Rig, source: str
) -> None:
    rig.open_route()
    client, upstream = rig.session()
    if source == "client":
        violator, innocent, make = client, upstream, up
        bad, code, answer = BAD_FROM_CLIENT, 1001, frame
    else:
        violator, innocent, make = upstream, client, frame
        bad, code, answer = BAD_FROM_UPSTREAM, 1011, up
    violator.send(make(TEXT, b"before") + bad)
    assert innocent.frame().payload == b"before"
    assert innocent.frame().code == code
    assert violator.silent()
    innocent.send(answer(TEXT, b"an answer to what came before"))
    assert violator.frame().payload == b"an answer to what came before"
    innocent.send(close(code, mask=MASK if source == "upstream" else None))
    began = time.monotonic()
    heard = violator.frame()
    assert time.monotonic() - began < 1
    violator.close()
    assert (heard.opcode, heard.code) == (CLOSE, 1002)
    assert rig.record("ended")[f"{source}_code"] == 1002


@pytest.mark.parametrize("source", ["client", "upstream"])
def test_violator_hears_its_code_when_the_innocent_side_only_ends(rig: Rig, source: str) -> None:
    rig.open_route()
    client, upstream = rig.session()
    violator, innocent = (client, upstream) if source == "client" else (upstream, client)
    violator.send(BAD_FROM_CLIENT if source == "client" else BAD_FROM_UPSTREAM)
    assert innocent.frame().opcode == CLOSE
    innocent.close()
    assert violator.frame().code == 1002


def test_violator_hears_its_code_when_the_innocent_side_stays_silent(rig: Rig) -> None:
    rig.open_route()
    client, upstream = rig.session()
    client.send(BAD_FROM_CLIENT)
    assert upstream.frame().code == 1001
    assert client.frame().code == 1002  # after HEAR_OUT_MS


@pytest.mark.parametrize(("source", "code"), [("client", 1011), ("upstream", 1001)])
def test_close_that_a_lost_peer_cannot_answer_is_answered_for_it(
    rig: Rig, source: str, code: int
) -> None:
    rig.open_route()
    client, upstream = rig.session()
    closer, lost = (client, upstream) if source == "client" else (upstream, client)
    closer.send(close(1000, mask=MASK if source == "client" else None))
    assert lost.frame().code == 1000
    lost.close()
    assert closer.frame().code == code
    assert rig.record("ended")["ended_by"] == source


@pytest.mark.parametrize(("source", "code"), [("client", 1011), ("upstream", 1001)])
def test_close_that_is_answered_by_a_violation_is_answered_by_us(
    rig: Rig, source: str, code: int
) -> None:
    rig.open_route()
    client, upstream = rig.session()
    closer, violator = (client, upstream) if source == "client" else (upstream, client)
    closer.send(close(1000, mask=MASK if source == "client" else None))
    assert violator.frame().code == 1000
    violator.send(BAD_FROM_UPSTREAM if source == "client" else BAD_FROM_CLIENT)
    assert closer.frame().code == code
    assert closer.rest() == b"" == violator.rest()
    assert rig.record("ended")["ended_by"] == source
