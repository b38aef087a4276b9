"""The endpoint that judges by: it keeps the rules and sees each that is broken, at its byte."""

from __future__ import annotations

import zlib

import pytest

from tests.compliance.autobahn.endpoint import SYNC_TAIL, Deflate, Endpoint, agreed, choose, unmask

KEY = b"\x37\xfa\x21\x3d"


def masked(first: int, payload: bytes) -> bytes:
    return bytes((first, 0x80 | len(payload))) + KEY + unmask(payload, KEY)


def server(deflate: Deflate | None = None) -> tuple[Endpoint, bytearray]:
    out = bytearray()
    return Endpoint(out.extend, client=False, deflate=deflate), out


def close(code: int) -> bytes:
    return b"\x88\x02" + code.to_bytes(2, "big")


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_endpoint_echoes_what_is_whole_however_it_is_cut(step: int) -> None:
    endpoint, out = server()
    data = masked(0x01, "grü".encode()) + masked(0x89, b"p") + masked(0x80, b"\xc3\x9fe")
    data += masked(0x82, b"") + masked(0x88, b"\x03\xe8bye") + b"ignored"
    for at in range(0, len(data), step):
        endpoint.feed(data[at : at + step])
    text = "grüße".encode()
    assert bytes(out) == b"\x8a\x01p\x81\x07" + text + b"\x82\x00" + close(1000)
    assert (endpoint.messages, endpoint.violation, endpoint.closed) == (2, None, True)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02", 1002),  # not masked
        (b"\xc1\x80", 1002),
        (b"\x83\x80", 1002),
        (b"\x09\x80", 1002),
        (b"\x89\xfe", 1002),
        (b"\x80\x80", 1002),
        (masked(0x01, b"a") + b"\x81\x80", 1002),
        (b"\x82\xfe\x00\x7d", 1002),
        (b"\x82\xff\x80" + bytes(7), 1002),
        (masked(0x88, b"\x03"), 1002),
        (masked(0x88, b"\x03\xed"), 1002),
        (masked(0x88, b"\x03\xe8\xff"), 1007),
        (b"\x81\x85" + KEY + unmask(b"\xce\xba\xe1\xbd\xff", KEY)[:5], 1007),
        (masked(0x81, b"\xce"), 1007),
    ],
)
def test_endpoint_fails_with_the_code_at_the_byte_that_breaks_a_rule(
    data: bytes, code: int
) -> None:
    endpoint, out = server()
    endpoint.feed(data[:-1])
    assert endpoint.violation is None
    endpoint.feed(data[-1:])
    assert endpoint.violation is not None and endpoint.closed
    at = out.index(b"\x88")
    assert out[at + 2 : at + 4] == code.to_bytes(2, "big")


def test_client_endpoint_masks_and_refuses_a_masked_frame() -> None:
    out = bytearray()
    endpoint = Endpoint(out.extend, client=True)
    endpoint.feed(b"\x82\x03abc")
    assert out[:2] == b"\x82\x83" and unmask(bytes(out[6:]), bytes(out[2:6])) == b"abc"
    endpoint.feed(masked(0x82, b"abc"))
    assert endpoint.violation == "masked by a server"


def test_endpoint_inflates_judges_and_compresses_again() -> None:
    endpoint, out = server(Deflate())
    packer = zlib.compressobj(wbits=-15)
    for text in ("grüße" * 3, "grüße" * 3):
        packed = packer.compress(text.encode()) + packer.flush(zlib.Z_SYNC_FLUSH)
        endpoint.feed(masked(0xC1, packed.removesuffix(SYNC_TAIL)))
    first, size = out[0], out[1]
    assert first == 0xC1
    unpacked = zlib.decompressobj(-15).decompress(bytes(out[2 : 2 + size]) + SYNC_TAIL)
    assert (unpacked.decode(), endpoint.messages) == ("grüße" * 3, 2)
    bad = packer.compress(b"\xff") + packer.flush(zlib.Z_SYNC_FLUSH)
    endpoint.feed(masked(0xC1, bad.removesuffix(SYNC_TAIL)))
    assert endpoint.violation == "text is not UTF-8"


def test_extensions_are_agreed_as_offered() -> None:
    offer = "x, permessage-deflate; server_max_window_bits=8, permessage-deflate; "
    offer += "server_no_context_takeover; server_max_window_bits=10; client_max_window_bits"
    assert choose(offer) == (
        Deflate(10, True, False),
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
    )
    assert choose("permessage-deflate; unknown=1") is None
    assert agreed("permessage-deflate; client_max_window_bits=12") == Deflate(12)
    assert agreed("") is None
