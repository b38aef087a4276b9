"""An established WebSocket: frames both ways, and every way it can end.  _relay.pyx."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.dataplane.engine_kit import (
    BINARY,
    CLOSE,
    CONSUMER,
    CONTINUATION,
    CREDENTIAL,
    MASK,
    PING,
    PONG,
    ROUTE,
    SERVICE,
    TEXT,
    Frame,
    Line,
    Rig,
    close,
    frame,
    handshake,
    plugin,
    request,
    route,
    service,
    switching,
    text_id,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.memory import rss_kib
from tests.dataplane.snapshots import uid

SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 4095, 4096, 16384, 65535, 65536, 65537, 70000]
FROM_CLIENT = pytest.param("client", id="from-client")
FROM_UPSTREAM = pytest.param("upstream", id="from-upstream")
both_ways = pytest.mark.parametrize("source", [FROM_CLIENT, FROM_UPSTREAM])
Make = Callable[..., bytes]


def ends(rig: Rig, source: str, *fields: bytes) -> tuple[Line, Line, Make]:
    """A session as (sending end, receiving end, how the sender makes frames)."""
    client, upstream = rig.session(*fields)
    if source == "client":
        return client, upstream, up
    return upstream, client, frame


def bye(line: Line, code: int | None = 1000, *, masks: bool = False) -> None:
    line.send(close(code, mask=MASK if masks else None))


def finish(client: Line, upstream: Line) -> None:
    """An orderly end begun by the client."""
    bye(client, masks=True)
    assert upstream.frame().code == 1000
    bye(upstream)
    assert client.frame().code == 1000
    assert client.rest() == b"" == upstream.rest()


def payload_of(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# --- passing on -----------------------------------------------------------------------------------


@both_ways
def test_frame_of_any_size_arrives_byte_for_byte(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    for size in SIZES:
        for opcode in (TEXT, BINARY):
            sent = make(opcode, payload_of(size))
            sender.send(sent)
            assert receiver.frame().raw == sent
    counters = rig.counters()
    way = "in" if source == "client" else "out"
    assert counters[f"messages_{way}"] == 2 * len(SIZES)
    assert counters[f"bytes_{way}"] == 2 * sum(SIZES)
    other = "out" if source == "client" else "in"
    assert counters[f"messages_{other}"] == counters[f"bytes_{other}"] == 0


@both_ways
def test_frames_arrive_wherever_they_are_cut(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    whole = make(TEXT, b"ab", fin=False) + make(PING, b"p") + make(CONTINUATION, payload_of(130))
    for cut in range(1, len(whole)):
        sender.send(whole[:cut])
        sender.send(whole[cut:])
        assert receiver.exactly(len(whole)) == whole


@both_ways
def test_frames_arrive_byte_by_byte(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    whole = make(BINARY, payload_of(300)) + make(PONG, b"") + make(TEXT, b"") + make(TEXT, b"x")
    for byte in whole:
        sender.send(bytes([byte]))
    assert receiver.exactly(len(whole)) == whole


@both_ways
def test_header_is_held_until_it_is_whole_and_payload_is_not(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sent = make(BINARY, payload_of(70000))
    header = 14 if source == "client" else 10
    sender.send(sent[: header - 1])
    assert receiver.silent()
    sender.send(sent[header - 1 : header + 1])
    assert receiver.exactly(header + 1) == sent[: header + 1]
    sender.send(sent[header + 1 :])
    assert receiver.exactly(len(sent) - header - 1) == sent[header + 1 :]


@both_ways
def test_fragments_and_control_frames_between_them_arrive_in_order(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    parts = [
        make(TEXT, b"one", fin=False),
        make(PING, b"mid"),
        make(CONTINUATION, b"", fin=False),
        make(PONG, payload_of(125)),
        make(CONTINUATION, payload_of(66000), fin=False),
        make(CONTINUATION, b"end"),
        make(BINARY, b"", fin=False),
        make(CONTINUATION, b""),
    ]
    sender.send(*parts)
    assert [f.raw for f in receiver.frames(len(parts))] == parts
    way = "in" if source == "client" else "out"
    assert rig.count(f"messages_{way}") == 2
    assert rig.count(f"bytes_{way}") == 3 + 66000 + 3


@both_ways
def test_sixteen_frames_in_one_segment_arrive(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sent = [make(TEXT, payload_of(n * 13)) for n in range(16)]
    sender.send(*sent)
    assert [f.raw for f in receiver.frames(16)] == sent
    assert rig.count("messages_in" if source == "client" else "messages_out") == 16


def test_both_ways_at_once(rig: Rig) -> None:
    rig.open_route()
    pairs = [rig.session() for _ in range(20)]
    for round_ in range(10):
        for client, upstream in pairs:
            client.send(up(BINARY, payload_of(3000 + round_)))
            upstream.send(frame(BINARY, payload_of(5000 + round_)))
        for client, upstream in pairs:
            assert upstream.frame().payload == payload_of(3000 + round_)
            assert client.frame().payload == payload_of(5000 + round_)
    assert rig.count("messages_in") == rig.count("messages_out") == 200
    for client, upstream in pairs:
        finish(client, upstream)


@both_ways
def test_compressed_frames_pass_when_compression_was_agreed(rig: Rig, source: str) -> None:
    rig.open_route()
    client = rig.client(handshake(b"/", b"Sec-WebSocket-Extensions: permessage-deflate"))
    upstream = rig.upstream.accept()
    assert upstream.head().get("Sec-WebSocket-Extensions") == "permessage-deflate"
    upstream.send(switching(b"Sec-WebSocket-Extensions: permessage-deflate"))
    assert client.head().get("Sec-WebSocket-Extensions") == "permessage-deflate"
    sender, receiver, make = (
        (client, upstream, up) if source == "client" else (upstream, client, frame)
    )
    sent = make(TEXT, b"\xaa", rsv=4, fin=False) + make(CONTINUATION, b"\xbb")
    sender.send(sent)
    assert receiver.exactly(len(sent)) == sent
    sender.send(make(PING, b"", rsv=4))
    codes = {receiver.frame().code, sender.frame().code}
    assert 1002 in codes


@pytest.mark.parametrize(
    "agreed",
    [
        b"x-other, Permessage-Deflate;client_no_context_takeover",
        b'x-other;a="b,c\\"d," ,permessage-deflate',
    ],
)
def test_compression_may_be_agreed_behind_another_extension(rig: Rig, agreed: bytes) -> None:
    rig.open_route()
    client = rig.client(handshake(b"/", b"Sec-WebSocket-Extensions: x-other, permessage-deflate"))
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching(b"Sec-WebSocket-Extensions: " + agreed))
    assert client.head().get("Sec-WebSocket-Extensions") == agreed.decode()
    client.send(up(TEXT, b"\xaa", rsv=4))
    assert upstream.frame().payload == b"\xaa"


@pytest.mark.parametrize(
    "other", [b"x-other", b"permessage-deflate-2", b'x-other;a=", permessage-deflate"']
)
def test_s63_rsv1_is_not_for_an_extension_that_is_not_compression(rig: Rig, other: bytes) -> None:
    rig.open_route()
    client = rig.client(handshake(b"/", b"Sec-WebSocket-Extensions: " + other))
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching(b"Sec-WebSocket-Extensions: " + other))
    assert client.head().get("Sec-WebSocket-Extensions") == other.decode()
    client.send(up(TEXT, b"\xaa", rsv=4))
    assert upstream.frame().code == 1001
    upstream.close()
    assert client.frame().code == 1002


# --- Close ----------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        struct.pack("!H", 1000),
        struct.pack("!H", 1000) + b"done",
        struct.pack("!H", 4999) + "grün".encode(),
        struct.pack("!H", 3000) + b"r" * 123,
        struct.pack("!H", 1012),
    ],
)
def test_close_is_passed_on_byte_for_byte_and_so_is_its_answer(
    rig: Rig, source: str, payload: bytes
) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    back = frame if source == "client" else up
    sender.send(make(TEXT, b"last"), make(CLOSE, payload))
    assert receiver.frame().payload == b"last"
    assert receiver.frame().raw == make(CLOSE, payload)
    receiver.send(back(BINARY, b"still"), back(CLOSE, payload[:2]))
    assert sender.frame().payload == b"still"
    assert sender.frame().raw == back(CLOSE, payload[:2])
    assert sender.rest() == b"" == receiver.rest()
    record = rig.record("ended")
    code = struct.unpack("!H", payload[:2])[0] if payload else 1005
    assert record["ended_by"] == source
    assert record["why"] == f"closed by the {source}"
    assert (record["client_code"], record["upstream_code"]) == (code, code)
    assert rig.count("closes") == {
        (close_name(code), "client"): 1,
        (close_name(code), "upstream"): 1,
    }


def close_name(code: int) -> int:
    """The name under which a code is counted."""
    return code if code < 3000 else 3000 if code < 4000 else 4000


@both_ways
def test_close_arrives_wherever_it_is_cut(rig: Rig, source: str) -> None:
    rig.open_route()
    sent = (up if source == "client" else frame)(CLOSE, struct.pack("!H", 1001) + b"going")
    for cut in range(1, len(sent)):
        sender, receiver, _ = ends(rig, source)
        sender.send(sent[:cut])
        sender.send(sent[cut:])
        assert receiver.frame().raw == sent
        sender.close()
        receiver.close()


@both_ways
def test_nothing_behind_a_close_is_passed_on(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sender.send(make(CLOSE, b""), make(TEXT, b"after"), b"\xff\xff\xff not a frame")
    assert receiver.frame().raw == make(CLOSE, b"")
    receiver.send((frame if source == "client" else up)(CLOSE, b""))
    assert receiver.rest() == b""
    assert rig.record("ended")["messages_from_" + source] == 0


@both_ways
def test_close_within_a_fragmented_message_ends_it(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sender.send(make(TEXT, b"half", fin=False), make(CLOSE, struct.pack("!H", 1000)))
    assert receiver.frame().payload == b"half"
    assert receiver.frame().code == 1000


def test_both_sides_close_at_once(rig: Rig) -> None:
    rig.open_route()
    client, upstream = rig.session()
    client.send(close(1000, b"mine", mask=MASK))
    upstream.send(close(1001, b"yours"))
    assert upstream.frame().payload == struct.pack("!H", 1000) + b"mine"
    assert client.frame().payload == struct.pack("!H", 1001) + b"yours"
    assert client.rest() == b"" == upstream.rest()


def test_s71_close_that_is_not_answered_ends_within_five_seconds() -> None:
    with new_rig(1) as rig:
        rig.open_route()
        began = time.monotonic()
        for source in ("client", "upstream"):
            sender, receiver, make = ends(rig, source)
            sender.send(make(CLOSE, struct.pack("!H", 1000)))
            assert receiver.frame().code == 1000
        for line in (*rig.lines, *rig.upstream.lines):
            assert line.rest() == b""
        assert 4 < time.monotonic() - began < 6
        why = {rig.record("ended")["why"] for _ in range(2)}
        assert why == {"closed by the client", "closed by the upstream"}


# --- a side is lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("state", ["idle", "in a message", "in a frame header"])
def test_upstream_hears_1001_when_the_client_is_lost(rig: Rig, how: str, state: str) -> None:
    rig.open_route()
    client, upstream = rig.session()
    if state == "in a message":
        client.send(up(TEXT, b"half", fin=False))
        assert upstream.frame().payload == b"half"
    elif state == "in a frame header":
        client.send(up(TEXT, b"never")[:3])
    end_of(client, how)
    assert upstream.frame() == Frame(CLOSE, struct.pack("!H", 1001), True, True, upstream_raw(1001))
    bye(upstream)
    assert upstream.rest() == b""
    record = rig.record("ended")
    assert (record["ended_by"], record["why"]) == ("client", "client went away")
    assert (record["client_code"], record["upstream_code"]) == (None, 1001)


class AnyBytes:
    """Equal to any frame of this size: a mask is nobody's to know."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and len(other) == self.size

    __hash__ = None  # type: ignore[assignment]


def upstream_raw(code: int) -> Any:
    return AnyBytes(2 + 4 + 2)


def end_of(line: Line, how: str) -> None:
    if how == "half":
        line.shut()
    elif how == "reset":
        line.reset()
    else:
        line.close()


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("state", ["idle", "in a message", "in a frame header"])
def test_client_hears_1011_when_the_upstream_is_lost(rig: Rig, how: str, state: str) -> None:
    rig.open_route()
    client, upstream = rig.session()
    if state == "in a message":
        upstream.send(frame(TEXT, b"half", fin=False))
        assert client.frame().payload == b"half"
    elif state == "in a frame header":
        upstream.send(frame(TEXT, payload_of(200))[:2])
    end_of(upstream, how)
    heard = client.frame()
    assert heard.raw == close(1011, b"upstream went away")
    bye(client, masks=True)
    assert client.rest() == b""
    record = rig.record("ended")
    assert (record["ended_by"], record["why"]) == ("upstream", "upstream went away")
    assert (record["client_code"], record["upstream_code"]) == (1011, None)
    assert rig.count("closes") == {(1011, "client"): 1}


@both_ways
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_no_close_is_put_into_a_frame_that_its_lost_sender_left_torn(
    rig: Rig, source: str, how: str
) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sent = make(BINARY, payload_of(1000))
    sender.send(sent[:500])
    assert receiver.exactly(500) == sent[:500]
    end_of(sender, how)
    assert receiver.rest() == b""
    receiver.close()
    record = rig.record("ended")
    assert record["why"] == f"{source} went away"
    assert (record["client_code"], record["upstream_code"]) == (None, None)


@both_ways
def test_what_came_before_the_loss_still_arrives(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sent = [make(BINARY, payload_of(50000)) for _ in range(20)]
    for one in sent[:-1]:
        sender.send(one)
        assert receiver.frame().raw == one
    sender.send(sent[-1])
    sender.close()
    assert receiver.frame().raw == sent[-1]
    assert receiver.frame().code == (1001 if source == "client" else 1011)


def test_client_that_half_closes_still_hears_the_upstreams_close(rig: Rig) -> None:
    rig.open_route()
    client, upstream = rig.session()
    client.send(close(1000, mask=MASK))
    client.shut()
    assert upstream.frame().code == 1000
    upstream.send(frame(TEXT, b"last words"), close(1000))
    assert client.frame().payload == b"last words"
    assert client.frame().code == 1000
    assert client.rest() == b""


# --- a side breaks a rule -------------------------------------------------------------------------


def violations(make: Make, wrong: Make) -> dict[str, bytes]:
    """What no peer may send: `make` makes the sender's frames, `wrong` those of the other role."""
    return {
        "wrong masking": wrong(TEXT, b"x"),
        "rsv1": make(TEXT, b"x", rsv=4),
        "rsv2": make(TEXT, b"x", rsv=2),
        "rsv3": make(TEXT, b"x", rsv=1),
        **{f"opcode {code}": make(code) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
        "fragmented ping": make(PING, b"", fin=False),
        "fragmented pong": make(PONG, b"", fin=False),
        "fragmented close": make(CLOSE, b"", fin=False),
        "long ping": make(PING, payload_of(126)),
        "long pong": make(PONG, payload_of(126)),
        "long close": make(CLOSE, struct.pack("!H", 1000) + payload_of(124)),
        "stray continuation": make(CONTINUATION, b"x"),
        "interrupted message": make(TEXT, b"a", fin=False) + make(TEXT, b"b"),
        "length of 16 bits not needed": make(TEXT)[:1] + lengths(make, "!BH", 126, 5),
        "length of 64 bits not needed": make(TEXT)[:1] + lengths(make, "!BQ", 127, 65535),
        "length over 63 bits": make(TEXT)[:1] + lengths(make, "!BQ", 127, 1 << 63),
        "length over 62 bits": make(TEXT)[:1] + lengths(make, "!BQ", 127, (1 << 62) + 1),
        "close of one byte": make(CLOSE, b"\x03"),
        "close code 0": make(CLOSE, struct.pack("!H", 0)),
        "close code 999": make(CLOSE, struct.pack("!H", 999)),
        "close code 1004": make(CLOSE, struct.pack("!H", 1004)),
        "close code 1005": make(CLOSE, struct.pack("!H", 1005)),
        "close code 1006": make(CLOSE, struct.pack("!H", 1006)),
        "close code 1015": make(CLOSE, struct.pack("!H", 1015)),
        "close code 2999": make(CLOSE, struct.pack("!H", 2999)),
        "close code 5000": make(CLOSE, struct.pack("!H", 5000)),
    }


def lengths(make: Make, form: str, short: int, size: int) -> bytes:
    flag = 0x80 if make is up else 0
    return struct.pack(form, flag | short, size) + (MASK if make is up else b"")


@both_ways
@pytest.mark.parametrize("what", list(violations(up, frame)))
def test_s62_s63_s65_violator_hears_1002_and_the_other_is_ended(
    rig: Rig, source: str, what: str
) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    wrong = frame if source == "client" else up
    broken = violations(make, wrong)[what]
    before = [make(TEXT, b"before"), make(PING, b"p")]
    sender.send(*before, broken)
    assert [f.raw for f in receiver.frames(2)] == before
    if what == "interrupted message":
        assert receiver.frame().payload == b"a"
    other = receiver.frame()
    assert other.code == (1001 if source == "client" else 1011)
    receiver.send((frame if source == "client" else up)(CLOSE, other.payload[:2]))
    heard = sender.frame()
    assert heard.raw[:1] == b"\x88" and heard.code == 1002
    assert heard.payload[2:] == b"protocol error"
    sender.send(make(TEXT, b"more"), make(CLOSE, heard.payload[:2]))
    sender.shut()
    assert receiver.rest() == b"" == sender.rest()
    record = rig.record("ended")
    assert (record["ended_by"], record["why"]) == (source, "protocol error")
    codes = {"client": record["client_code"], "upstream": record["upstream_code"]}
    assert codes.pop(source) == 1002
    assert list(codes.values()) == [other.code]


@both_ways
@pytest.mark.parametrize("length", [(1 << 62) + 1, 1 << 63, (1 << 64) - 1], ids=hex)
def test_s65_length_that_is_none_ends_the_session_without_allocating(
    source: str, length: int
) -> None:
    """100 at once, and none of them makes anything grow."""
    with new_rig(1) as rig:
        rig.open_route()
        opened = [ends(rig, source) for _ in range(100)]
        before = rss_kib()
        for sender, _, make in opened:
            sender.send(bytes([0x80 | BINARY]) + lengths(make, "!BQ", 127, length), b"payload")
        for _, receiver, _ in opened:
            assert receiver.frame().code == (1001 if source == "client" else 1011)
        assert rss_kib() - before < 256
        for sender, receiver, _ in opened:
            receiver.close()
            assert sender.frame().code == 1002


@both_ways
def test_s67_close_reason_that_is_not_utf8_is_1007(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sender.send(make(CLOSE, struct.pack("!H", 1000) + b"\xff"))
    assert receiver.frame().code == (1001 if source == "client" else 1011)
    receiver.close()
    assert sender.frame().code == 1007


@both_ways
def test_violation_is_decided_wherever_it_is_cut(rig: Rig, source: str) -> None:
    rig.open_route()
    make = up if source == "client" else frame
    whole = make(TEXT, b"ok") + make(BINARY, b"", rsv=2)
    for cut in range(1, len(whole)):
        sender, receiver, _ = ends(rig, source)
        sender.send(whole[:cut])
        sender.send(whole[cut:])
        assert receiver.frame().payload == b"ok"
        assert receiver.frame().code in (1001, 1011)
        receiver.close()
        assert sender.frame().code == 1002
        sender.close()


@both_ways
def test_violator_that_keeps_sending_still_hears_its_code(rig: Rig, source: str) -> None:
    """Closing with input unread would send a reset, which can cost it the Close."""
    rig.open_route()
    for _ in range(20):
        sender, receiver, make = ends(rig, source)
        sender.send(make(3))
        assert receiver.frame().code in (1001, 1011)
        receiver.send((frame if source == "client" else up)(CLOSE, b""))
        receiver.rest()
        sender.send(*[make(BINARY, payload_of(1000)) for _ in range(20)])
        assert sender.frame().code == 1002
        sender.close()


@pytest.mark.parametrize(
    ("source", "limit"), [("client", 1048576), ("upstream", 16777216)], ids=["client", "upstream"]
)
@pytest.mark.parametrize("fragmented", [False, True])
def test_s64_message_over_the_limit_is_1009_before_its_payload(
    rig: Rig, source: str, limit: int, fragmented: bool
) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    if fragmented:
        sender.send(make(BINARY, b"x" * 600, fin=False), make(PING, b"not counted"))
        assert receiver.frame().payload == b"x" * 600
        assert receiver.frame().opcode == PING
        first = bytes([CONTINUATION])
    else:
        first = bytes([0x80 | BINARY])
    over = limit + 1 - (600 if fragmented else 0)
    sender.send(first + lengths(make, "!BQ", 127, over))
    other = receiver.frame()
    assert other.payload == struct.pack("!H", 1001)
    receiver.close()
    heard = sender.frame()
    assert heard.payload == struct.pack("!H", 1009) + b"Payload Too Large"
    sender.close()
    record = rig.record("ended")
    assert record["why"] == "Payload Too Large"
    assert record["ended_by"] == source


def test_message_of_exactly_the_limit_passes(rig: Rig) -> None:
    rig.open_route()
    client, upstream = rig.session()
    whole = up(BINARY, b"\0" * 1048576)
    sent = 0
    while sent < len(whole):
        client.send(whole[sent : sent + 65536])
        upstream.exactly(min(65536, len(whole) - sent))
        sent += 65536
    client.send(up(TEXT, b"next"))
    assert upstream.frame().payload == b"next"
    assert rig.count("bytes_in") == 1048576 + 4


# --- the gateway ends -----------------------------------------------------------------------------


def test_drain_says_1012_to_clients_and_1001_to_upstreams(rig: Rig) -> None:
    rig.open_route()
    pairs = [rig.session() for _ in range(30)]
    idle = rig.connect()
    idle.send(request(b"/"))
    assert idle.answer()[0].status == 426
    rig.engine.drain(0.3)
    for client, upstream in pairs:
        assert client.frame().raw == close(1012, b"gateway is shutting down")
        assert upstream.frame().payload == struct.pack("!H", 1001)
        bye(client, 1012, masks=True)
        bye(upstream, 1001)
        assert client.rest() == b"" == upstream.rest()
    assert idle.rest() == b""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", rig.port), 5)
    ended = [rig.record("ended") for _ in pairs]
    assert {(r["ended_by"], r["why"]) for r in ended} == {("gateway", "gateway is shutting down")}
    assert {(r["client_code"], r["upstream_code"]) for r in ended} == {(1012, 1001)}


def test_drain_is_spread_over_its_time() -> None:
    with new_rig(1) as rig:
        rig.open_route()
        pairs = [rig.session() for _ in range(20)]
        began = time.monotonic()
        rig.engine.drain(1.0)
        heard = []
        for client, _ in pairs:  # the oldest goes first
            client.frame()
            heard.append(time.monotonic() - began)
        assert heard[0] < 0.4
        assert heard[-1] > 0.6
        assert sum(1 for at in heard if 0.2 < at < 0.8) >= 5


@both_ways
def test_drain_waits_for_the_frame_in_hand(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    sent = make(BINARY, payload_of(1000))
    sender.send(sent[:400])
    assert receiver.exactly(400) == sent[:400]
    rig.engine.drain(0)
    assert sender.frame().code == (1012 if source == "client" else 1001)
    assert receiver.silent()
    sender.send(sent[400:900])
    assert receiver.exactly(500) == sent[400:900]
    sender.send(sent[900:], make(TEXT, b"too late"))
    assert receiver.exactly(len(sent) - 900) == sent[900:]
    assert receiver.frame().code == (1001 if source == "client" else 1012)
    sender.send(make(CLOSE, b""))
    receiver.send((frame if source == "client" else up)(CLOSE, b""))
    assert receiver.rest() == b"" == sender.rest()


@both_ways
def test_drain_cuts_a_frame_that_is_never_completed(source: str) -> None:
    with new_rig(1) as rig:
        rig.open_route()
        sender, receiver, make = ends(rig, source)
        sender.send(make(BINARY, payload_of(1000))[:400])
        receiver.exactly(400)
        began = time.monotonic()
        rig.engine.drain(0)
        assert sender.frame().code == (1012 if source == "client" else 1001)
        assert receiver.rest() == b""
        assert 0.9 < time.monotonic() - began < 2
        receiver.close()
        sender.close()
        record = rig.record("ended")
        codes = {"client": record["client_code"], "upstream": record["upstream_code"]}
        assert codes.pop(source) == (1012 if source == "client" else 1001)
        assert list(codes.values()) == [None]


def test_drain_cuts_frames_torn_both_ways_together() -> None:
    with new_rig(1) as rig:
        rig.open_route()
        client, upstream = rig.session()
        client.send(up(BINARY, payload_of(1000))[:400])
        upstream.send(frame(BINARY, payload_of(1000))[:400])
        client.exactly(400)
        upstream.exactly(400)
        began = time.monotonic()
        rig.engine.drain(0)
        assert client.rest() == b"" == upstream.rest()
        assert 0.9 < time.monotonic() - began < 3
        client.close()
        upstream.close()
        record = rig.record("ended")
        assert (record["client_code"], record["upstream_code"]) == (None, None)


def test_frame_completed_late_leaves_time_to_answer_the_close() -> None:
    """The second for the frame is not the time for the peers' answers."""
    with new_rig(1) as rig:
        rig.open_route()
        client, upstream = rig.session()
        sent = frame(BINARY, payload_of(1000))
        upstream.send(sent[:400])
        client.exactly(400)
        began = time.monotonic()
        rig.engine.drain(0)
        assert upstream.frame().code == 1001
        until(lambda: time.monotonic() - began > 0.6)
        upstream.send(sent[400:])
        client.exactly(len(sent) - 400)
        assert client.frame().code == 1012
        until(lambda: time.monotonic() - began > 1.5)
        assert client.silent() and upstream.silent()
        bye(client, 1012, masks=True)
        bye(upstream, 1001)
        assert client.rest() == b"" == upstream.rest()


def test_stop_cuts_and_leaves_its_records() -> None:
    with new_rig(2) as rig:
        rig.open_route()
        pairs = [rig.session() for _ in range(5)]
        rig.engine.stop()
        assert rig.engine.join(10)
        for client, upstream in pairs:
            assert client.rest() == b"" == upstream.rest()
        records = [fields for kind, fields in rig.engine.records() if kind == "ended"]
        assert [r["why"] for r in records] == ["gateway is shutting down"] * 5


# --- back-pressure --------------------------------------------------------------------------------


def fill_up(sender: Line, piece: bytes) -> int:
    """Send the piece again and again until the gateway takes no more.  How often it went."""
    sender.sock.settimeout(0.5)
    sent = 0
    rest = b""
    try:
        while sent < 4000:
            rest = rest or piece
            rest = rest[sender.sock.send(rest) :]
            sent += not rest
    except TimeoutError:
        pass
    sender.sock.settimeout(10)
    sender.rest_of_piece = rest  # type: ignore[attr-defined]
    return sent


@both_ways
def test_s69_stalled_reader_stops_the_sender_and_loses_nothing(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    before = rss_kib()
    piece = make(BINARY, payload_of(60000))
    sent = fill_up(sender, piece)
    rest: bytes = sender.rest_of_piece  # type: ignore[attr-defined]
    assert 1 <= sent < 1000, "the sender was never stopped"
    assert rss_kib() - before < 2048
    whole = sent + bool(rest)
    receiver.sock.settimeout(10)
    heard = []
    sender.sock.setblocking(False)
    while len(heard) < whole:
        heard.append(receiver.frame().raw)
        while rest:
            try:
                rest = rest[sender.sock.send(rest) :]
            except BlockingIOError:
                break
    assert set(heard) == {piece}
    sender.sock.settimeout(10)
    sender.send(make(TEXT, b"after"))
    assert receiver.frame().payload == b"after"


@both_ways
def test_stalled_reader_that_is_lost_ends_the_session_at_once(rig: Rig, source: str) -> None:
    rig.open_route()
    sender, receiver, make = ends(rig, source)
    receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    fill_up(sender, make(BINARY, payload_of(60000)))
    began = time.monotonic()
    receiver.reset()
    assert sender.frame().code == (1011 if source == "client" else 1001)
    sender.shut()
    assert sender.rest() == b""
    assert rig.record("ended")["why"].endswith("went away")
    assert time.monotonic() - began < 3


@both_ways
def test_last_words_of_a_side_that_reads_no_more_still_arrive(rig: Rig, source: str) -> None:
    rig.open_route()
    leaver, flooder, make = ends(rig, source)
    leaver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    fill_up(flooder, (frame if source == "client" else up)(BINARY, payload_of(60000)))
    leaver.send(make(TEXT, b"enough"), make(CLOSE, struct.pack("!H", 4000)))
    leaver.close()  # with input unread: a reset
    assert flooder.frame().payload == b"enough"
    assert flooder.frame().code == 4000
    assert rig.count("closes")[4000, "upstream" if source == "client" else "client"] == 1


def test_one_stalled_session_does_not_hold_up_another() -> None:
    with new_rig(1) as rig:
        rig.open_route()
        sender, receiver, _ = ends(rig, "upstream")
        receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        fill_up(sender, frame(BINARY, payload_of(60000)))
        client, upstream = rig.session()
        for n in range(100):
            client.send(up(TEXT, b"%d" % n))
            assert upstream.frame().payload == b"%d" % n


# --- what is left behind --------------------------------------------------------------------------


def test_close_record_has_every_field(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token(scope="email", user_id="u")
    client, upstream = rig.session(b"Authorization: Bearer " + token)
    client.send(up(TEXT, b"12345"), up(BINARY, b"x" * 300, fin=False), up(CONTINUATION, b"yz"))
    upstream.frames(3)
    upstream.send(frame(TEXT, b"1234567"), frame(PING, b"not counted"))
    client.frames(2)
    client.send(close(4000, b"secret reason", mask=MASK))
    upstream.frame()
    upstream.send(close(1000))
    client.frame()
    record = rig.record("ended")
    assert 0 <= record.pop("duration_s") < 10
    assert len(record.pop("request_id")) == 32
    assert record == {
        "ended_by": "client",
        "why": "closed by the client",
        "client_code": 1000,
        "upstream_code": 4000,
        "messages_from_client": 2,
        "messages_from_upstream": 1,
        "bytes_from_client": 307,
        "bytes_from_upstream": 7,
        "route": text_id(ROUTE),
        "service": text_id(SERVICE),
        "consumer": text_id(CONSUMER),
        "credential": text_id(CREDENTIAL),
        "client": client.local,
    }
    assert rig.count("closes") == {(1000, "client"): 1, (4000, "upstream"): 1}
    assert rig.count("sessions_total") == 1


def test_record_of_a_session_without_a_token_names_nobody(rig: Rig) -> None:
    rig.open_route()
    finish(*rig.session())
    record = rig.record("ended")
    assert record["consumer"] is None
    assert record["credential"] is None


# --- configuration under traffic ------------------------------------------------------------------


def test_ten_thousand_table_swaps_under_traffic_close_nothing_and_leave_memory_flat() -> None:
    with new_rig(2) as rig:
        parts = (
            service(rig.upstream.port),
            plugin(),
            *[route(id=uid(100 + n), paths=[f"/other-{n}"]) for n in range(20)],
        )
        rig.publish(*parts, route(paths=["/"]))
        token = rig.token()
        pairs = [rig.session(b"Authorization: Bearer " + token) for _ in range(20)]
        kept = rig.tables[-1]

        def swap(count: int) -> None:
            for n in range(count):
                changed = route(id=uid(99), paths=[f"/changing-{n % 7}"])
                rig.publish(*parts, route(paths=["/"]), changed)
                del rig.tables[:-1]
                rig.engine.sweep()
                client, upstream = pairs[n % len(pairs)]
                client.send(up(TEXT, b"%d" % n))
                assert upstream.frame().payload == b"%d" % n
                upstream.send(frame(TEXT, b"%d" % n))
                assert client.frame().payload == b"%d" % n

        swap(1000)
        settled = rss_kib()
        swap(9000)
        assert rss_kib() - settled < 1024
        assert rig.count("live_sessions") == 20
        assert rig.count("closes") == {}
        assert {box.users() for box in kept.boxes.values()} == {0, 20}
        for client, upstream in pairs:
            finish(client, upstream)
        rig.tables.append(kept)


def test_session_keeps_the_policy_of_a_route_that_went_away(rig: Rig) -> None:
    rig.open_route()
    client, upstream = rig.session()
    rig.publish(service(rig.upstream.port), route(paths=["/new"], oauth2=None))
    assert rig.client(handshake()).answer()[0].status == 404
    client.send(up(TEXT, b"on"))
    assert upstream.frame().payload == b"on"
    finish(client, upstream)
    assert rig.record("refused")["status"] == 404
    assert rig.record("ended")["route"] == text_id(ROUTE)
