"""The messages of the link: there and back, in pieces, damaged."""

import os
import zlib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from dataplane import wire

ID = b"i" * 16
DIGEST = b"d" * 32
EPOCH = b"e" * 16

TO_DATA: list[Any] = [
    wire.Welcome(b"n" * 32, b"p" * 32, version="1.0"),
    wire.Refused("why"),
    wire.Chunk(3, 0, 1, DIGEST, b"data"),
    wire.Tokens([wire.Token(DIGEST, ID, 1.5, ID, "email", "u", 4)]),
    wire.Revocations([wire.Revocation(1, "token", DIGEST, 2.5)]),
    wire.Answer(9),
    wire.Answer(9, wire.Token(DIGEST, ID, 0.0)),
    wire.TokenReply(9, 200, [(b"a", b"b")], b"{}"),
    wire.TokenReplies([wire.TokenReply(n, 200, [(b"a", b"b")], b"{}") for n in range(2)]),
    wire.Heartbeat(EPOCH, 3, 4, 5.5),
]
TO_CONTROL: list[Any] = [
    wire.Hello(ID, "name", b"n" * 32, EPOCH, 3, 4, software="x"),
    wire.Proof(b"p" * 32),
    wire.Ack(3),
    wire.Nack(3, "why"),
    wire.Question(9, DIGEST),
    wire.TokenRequest(9, ID, ID, "::1", True, "POST", "/oauth2/token", None, b"q", [(b"a", b"b")]),
    wire.TokenRequests([wire.TokenRequest(9, ID, ID, "::1", True, "POST", "/t", body=b"b")]),
    wire.Counters(1, 2, 3.5),
]


def snapshot(version: int = 3, routes: int = 2) -> wire.Snapshot:
    service = wire.Service(ID, "ws", "up.test", 80)
    found = [
        wire.Route(os.urandom(16), ["ws"], os.urandom(20).hex(), service=ID) for _ in range(routes)
    ]
    return wire.Snapshot(EPOCH, version, b"k" * 32, services=[service], routes=found)


@pytest.mark.parametrize("message", TO_DATA, ids=lambda m: type(m).__name__)
def test_message_to_data_plane_arrives_as_it_was(message: Any) -> None:
    assert wire.decode_to_data(wire.encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        wire.decode_to_control(wire.encode(message))


@pytest.mark.parametrize("message", TO_CONTROL, ids=lambda m: type(m).__name__)
def test_message_to_control_plane_arrives_as_it_was(message: Any) -> None:
    assert wire.decode_to_control(wire.encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        wire.decode_to_data(wire.encode(message))


@pytest.mark.parametrize("message", [*TO_DATA, *TO_CONTROL], ids=lambda m: type(m).__name__)
def test_decoder_refuses_a_message_cut_anywhere(message: Any) -> None:
    whole = wire.encode(message)
    decode = wire.decode_to_data if message in TO_DATA else wire.decode_to_control
    for end in range(len(whole)):
        with pytest.raises(msgspec.MsgspecError):
            decode(whole[:end])


def test_decoder_passes_over_fields_of_a_later_minor_version() -> None:
    later = {"type": "Ack", "version": 3, "mood": "fine"}
    assert wire.decode_to_control(msgspec.msgpack.encode(later)) == wire.Ack(3)


def test_snapshot_of_equal_content_packs_to_equal_bytes() -> None:
    one = snapshot()
    assert wire.pack_snapshot(one) == wire.pack_snapshot(msgspec.structs.replace(one))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"routes": [wire.Route(ID, ["ws"], service=b"x" * 16)]}, "a service"),
        ({"routes": [wire.Route(ID, ["ws"], oauth2=b"x" * 16)]}, "an oauth2 plugin"),
        ({"routes": [wire.Route(ID, ["ws"], size_limit=b"x" * 16)]}, "a websocket-size-limit"),
        ({"routes": [wire.Route(ID, ["ws"], session=b"x" * 16)]}, "a websocket-session"),
        ({"credentials": [wire.Credential(ID, "c", b"x" * 16)]}, "a consumer"),
    ],
)
def test_snapshot_tells_what_leads_nowhere(changed: dict[str, Any], said: str) -> None:
    assert snapshot().problems() == []
    (problem,) = msgspec.structs.replace(snapshot(), **changed).problems()
    assert said in problem


@pytest.mark.parametrize("routes", [0, 1, 5000])
def test_assembler_puts_chunks_together(routes: int) -> None:
    packed = wire.pack_snapshot(snapshot(routes=routes))
    chunks = list(wire.split_snapshot(3, packed))
    assert len(chunks) == max(1, -(-sum(len(c.data) for c in chunks) // wire.CHUNK_BYTES))
    assembler = wire.SnapshotAssembler()
    assert [assembler.add(chunk) for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert assembler.add(chunks[-1]) == packed


def chunks_of(version: int = 3) -> list[wire.Chunk]:
    made = list(wire.split_snapshot(version, wire.pack_snapshot(snapshot(version, 5000))))
    assert len(made) >= 3
    return made


def test_assembler_drops_an_unfinished_snapshot_for_a_new_one() -> None:
    assembler = wire.SnapshotAssembler()
    assembler.add(chunks_of(3)[0])
    found = [assembler.add(chunk) for chunk in chunks_of(4)]
    assert found[-1] is not None and wire.unpack_snapshot(found[-1]).version == 4


@pytest.mark.parametrize(
    "order",
    [[1], [0, 2], [0, 1, 1], [0, 0, 2]],
    ids=["no-start", "hole", "twice", "start-twice-then-hole"],
)
def test_assembler_refuses_chunks_out_of_order(order: list[int]) -> None:
    chunks = chunks_of()
    assembler = wire.SnapshotAssembler()
    with pytest.raises(ValueError, match="out of order"):
        for index in order:
            assembler.add(chunks[index])


def test_assembler_refuses_a_chunk_of_another_version_in_between() -> None:
    assembler = wire.SnapshotAssembler()
    assembler.add(chunks_of(3)[0])
    with pytest.raises(ValueError, match="out of order"):
        assembler.add(chunks_of(4)[1])


@pytest.mark.parametrize("count", [0, -1, wire.CHUNKS_MAX + 1])
def test_assembler_refuses_a_count_beyond_its_bounds(count: int) -> None:
    with pytest.raises(ValueError, match="chunks"):
        wire.SnapshotAssembler().add(wire.Chunk(1, 0, count, DIGEST, b""))


def test_assembler_refuses_more_than_it_may_unpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SNAPSHOT_BYTES_MAX", 1000)
    (chunk,) = wire.split_snapshot(1, b"a" * 1001)
    with pytest.raises(ValueError, match="too large"):
        wire.SnapshotAssembler().add(chunk)


def test_assembler_refuses_what_does_not_unpack() -> None:
    with pytest.raises(ValueError, match="does not unpack"):
        wire.SnapshotAssembler().add(wire.Chunk(1, 0, 1, DIGEST, b"junk"))
    with pytest.raises(ValueError, match="cut short"):
        wire.SnapshotAssembler().add(wire.Chunk(1, 0, 1, DIGEST, zlib.compress(b"a" * 99)[:-1]))


def test_s90_assembler_detects_every_flipped_byte() -> None:
    packed = wire.pack_snapshot(snapshot())
    (chunk,) = wire.split_snapshot(3, packed)
    for place in range(len(chunk.data)):
        data = bytearray(chunk.data)
        data[place] ^= 0x10
        damaged = msgspec.structs.replace(chunk, data=bytes(data))
        try:
            # Bits that zlib does not read may differ without changing what was sent.
            assert wire.SnapshotAssembler().add(damaged) == packed
        except ValueError:
            continue
    changed = msgspec.structs.replace(chunk, digest=b"x" * 32)
    with pytest.raises(ValueError, match="digests differ"):
        wire.SnapshotAssembler().add(changed)


def test_proof_differs_by_secret_role_and_nonces() -> None:
    said = [
        wire.prove(secret, role, hello, welcome)
        for secret in (b"one", b"two")
        for role in ("control", "data")
        for hello in (b"h" * 32, b"H" * 32)
        for welcome in (b"w" * 32, b"W" * 32)
    ]
    assert len(set(said)) == 16
    assert all(len(proof) == 32 for proof in said)
    assert wire.prove(b"one", "data", b"h" * 32, b"w" * 32) in said


def test_every_message_stands_in_the_theory_of_operation() -> None:
    """docs/link.md has a row for each."""
    text = (Path(__file__).parents[2] / "docs" / "link.md").read_text()
    messages = (*get_args(wire.ToData), *get_args(wire.ToControl))
    assert [m.__name__ for m in messages if f"| {m.__name__} |" not in text] == []


def test_token_check_depends_on_key_and_random_part() -> None:
    random_part = "A" * wire.TOKEN_RANDOM_CHARS
    check = wire.token_check(b"key", random_part)
    assert len(check) == wire.TOKEN_CHECK_CHARS
    assert set(check) <= set(wire.TOKEN_ALPHABET)
    assert check == wire.token_check(b"key", random_part)
    assert check != wire.token_check(b"kex", random_part)
    assert check != wire.token_check(b"key", "B" * wire.TOKEN_RANDOM_CHARS)
    assert wire.token_digest(random_part + check) != wire.token_digest(random_part)
