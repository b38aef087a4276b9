"""Request heads read by us and by llhttp, httptools and h11.

We may reject more than they do.  We never accept what both llhttp and h11 reject, nor what two of
the three reject, and never disagree with one that accepts on where the head or the body ends.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from typing import Any

import h11
import httptools
import llhttp  # type: ignore[import-untyped]
import pytest

from dataplane import _http
from dataplane._http import HttpRefused

CASES = 100_000
NEXT = b"GET /next HTTP/1.1\r\nHost: next.example\r\n\r\n"

METHODS = [b"GET"] * 6 + [b"POST", b"PUT", b"OPTIONS", b"HEAD", b"DELETE", b"PATCH"]
TARGETS = [
    b"/", b"/a", b"/chat?room=1", b"/a/../b", b"/%41%2f", b"//x//y", b"/a;b", b"/?a=b&c=%zz", b"*",
    b"http://a.example/x", b"https://a.example", b"http://b.example/", b"/a#b", b"/a b", b"/\\",
    b"/%", b"/\xc3\xa9", b"", b"a.example:80", b"/a?b?c", b"/\"<>{}|^`", b"/\x7f",
    b"ws://a.example/",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1"] * 12 + [
    b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"http/1.1", b"HTTP/1.10", b"HTTP/1", b"",
]  # fmt: skip
ENDS = [b"\r\n"] * 150 + [
    b"\n", b"\r", b"\r\r\n", b"\r\n ", b" \r\n", b"\t\r\n", b"\n\r\n", b"\0\r\n",
]  # fmt: skip
HOSTS = [b"Host: a.example"] * 12 + [
    b"Host:a.example:80", b"host: A.EXAMPLE", b"Host: [::1]:8000", b"Host: ", b"Host: a b",
    b"Host: a.example\r\nHost: a.example", b"Host : a.example", b"Host: a/b", b"X: no host",
]  # fmt: skip
FIELDS = [
    b"Upgrade: websocket", b"Connection: Upgrade", b"Connection: keep-alive, close",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13", b"Accept: */*",
    b"Authorization: Bearer abc", b"Cookie: a=b; c=d", b"X-Forwarded-For: 1.2.3.4", b"Empty:",
    b"Tabs:\t a\tb \t", b"High: \xe9\xff", b"Long: " + b"x" * 70, b"Expect: 100-continue",
    b"Content-Length: 5", b"Content-Length: 0", b"Content-Length:5", b"Content-Length: 05",
    b"Content-Length: +5", b"Content-Length: 5,5", b"Content-Length:  5", b"Content-Length: 5 ",
    b"Content-Length: -1", b"Content-Length: 0x5", b"Content-Length: 5 5", b"Content-Length:",
    b"Content-Length: 99999999999999999999", b"Content_Length: 5", b"Content-Length : 5",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: xchunked", b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding:", b"Transfer-Encoding: chunked;a", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding : chunked", b"\"Quoted\": x", b"Sp ace: x", b": x", b"NoColon", b" Fold: x",
    b"Ctl: a\x0bb", b"Nul: a\0b", b"Cr: a\rb", b"Lf: a\nX: y", b"\xc3\xa9: x", b"Slash/ed: x",
    b"Trailer: X", b"TE: trailers", b"HTTP2-Settings: AAMAAABk", b"Upgrade: h2c",
    b"!#$%&'*+^_`|~: x",
]  # fmt: skip
BODIES = [
    b"", b"hello", b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\n\r\n", b"2\r\nab\r\n3;x\r\ncde\r\n0\r\nX: y\r\n\r\n",
    b"05\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n", b"5 \r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX0\r\n\r\n", b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
    b"5;\r\nhello\r\n0\r\n\r\n",
    b"5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\nhello", b"0\r\nA : b\r\n\r\n",
]  # fmt: skip
NOISE = b'\0\t\n\r "%,/0:;A[\\\x7f\x80\xff-_#?+'


@dataclass
class Reading:
    """What one parser makes of bytes; offsets from their start, None: did not get there."""

    head_end: int | None = None
    body_end: int | None = None
    body: bytearray = field(default_factory=bytearray)
    rejected: str = ""
    method: str = ""
    upgraded: bool = False  # it left the body to others


def read_ours(data: bytes) -> Reading:
    reading = Reading()
    try:
        length = _http.scan_head([data])
        if length == 0:
            return reading
        request = _http.parse_request(data[:length])
        reading.head_end = length
        reading.method = request["method_kind"]
        rest = data[length:]
        if request["chunked"]:
            payload, consumed, ended = _http.read_chunked([rest])
            reading.body += payload
            reading.body_end = length + consumed if ended else None
        else:
            size = max(request["content_length"], 0)
            reading.body += rest[:size]
            reading.body_end = length + size if size <= len(rest) else None
    except HttpRefused as error:
        reading.rejected = str(error)
    return reading


class Callbacks:
    """What llhttp and httptools call back, with the place where each byte stands."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.at = 0

    def on_headers_complete(self) -> int:
        if self.reading.head_end is None:
            self.reading.head_end = self.at
        return 0

    def on_body(self, data: bytes) -> None:
        if self.reading.body_end is None:
            self.reading.body += bytes(data)

    def on_message_complete(self) -> None:
        if self.reading.body_end is None:
            self.reading.body_end = self.at


class Llhttp(Callbacks, llhttp.Request):  # type: ignore[misc]
    def __new__(cls, reading: Reading) -> Llhttp:
        return llhttp.Request.__new__(cls)  # type: ignore[no-any-return]


def read_llhttp(data: bytes) -> Reading:
    reading = Reading()
    parser = Llhttp(reading)
    try:
        for at in range(len(data)):
            parser.at = at + 1
            parser.execute(data[at : at + 1])
            if reading.body_end is not None or parser.is_upgrading:
                break
    except llhttp.Error as error:
        reading.rejected = f"{type(error).__name__}: {error}"
    return reading


def read_httptools(data: bytes) -> Reading:
    reading = Reading()
    calls = Callbacks(reading)
    parser = httptools.HttpRequestParser(calls)
    try:
        for at in range(len(data)):
            calls.at = at + 1
            parser.feed_data(data[at : at + 1])
            if reading.body_end is not None:
                break
    except httptools.HttpParserUpgrade:
        reading.upgraded = True
        reading.body_end = None
    except httptools.HttpParserError as error:
        reading.rejected = f"{type(error).__name__}: {error}"
    return reading


def read_h11(data: bytes) -> Reading:
    reading = Reading()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
    connection.receive_data(data)
    try:
        while reading.body_end is None:
            event = connection.next_event()
            left = len(connection.trailing_data[0])
            if isinstance(event, h11.Request):
                reading.head_end = len(data) - left
            elif isinstance(event, h11.Data):
                reading.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                reading.body_end = len(data) - left
            else:
                break
    except h11.RemoteProtocolError as error:
        reading.rejected = str(error)
    return reading


def make_case(chance: random.Random) -> bytes:
    """A request in which few things are wrong, most of the time."""
    fields = chance.sample(FIELDS[:15], chance.randrange(5))
    fields += chance.choices(FIELDS, k=chance.choice([0, 0, 1, 1, 2]))
    fields.insert(chance.randrange(len(fields) + 1), chance.choice(HOSTS))
    target = chance.choice(TARGETS) if chance.random() < 0.5 else b"/path"
    data = chance.choice(METHODS) + b" " + target + b" " + chance.choice(VERSIONS)
    for line in [*fields, b""]:
        data += chance.choice(ENDS) + line
    data += chance.choice(ENDS) + chance.choice(BODIES)
    if chance.random() < 0.3:
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(len(data))
            noise = bytes([chance.choice(NOISE)]) if chance.random() < 0.8 else b""
            data = data[:at] + noise + data[at + chance.randrange(2) :]
    return data + NEXT


@pytest.fixture
def seed() -> int:
    """FUZZ_SEED repeats a run."""
    chosen = int(os.environ.get("FUZZ_SEED") or random.randrange(1 << 32))
    print(f"FUZZ_SEED={chosen}")
    return chosen


def judge(ours: Reading, others: dict[str, Reading]) -> None:
    """Hold one reading of ours, of a head that we accept, against the others'."""
    if ours.method == "OTHER":  # llhttp and httptools know a fixed list of methods; we take tokens
        others = {"h11": others["h11"]}
    rejecting = [name for name, reading in others.items() if reading.head_end is None]
    assert len(rejecting) < min(2, len(others))
    for reading in others.values():
        assert reading.head_end in (None, ours.head_end)
        if reading.body_end is not None and ours.body_end is not None:
            assert (reading.body_end, reading.body) == (ours.body_end, ours.body)
    if ours.body_end is not None:
        unended = [r for r in others.values() if r.body_end is None and not r.upgraded]
        assert len(unended) < min(2, len(others))


def test_s56_heads_are_never_read_in_a_way_of_our_own(seed: int) -> None:
    chance = random.Random(seed)
    accepted = bodies = 0
    for number in range(CASES):
        data = make_case(chance)
        ours = read_ours(data)
        if ours.head_end is None:
            continue
        accepted += 1
        bodies += bool(ours.body)
        others = {
            "llhttp": read_llhttp(data), "httptools": read_httptools(data), "h11": read_h11(data),
        }  # fmt: skip
        try:
            judge(ours, others)
        except AssertionError as error:
            told = "\n".join(f"{name}: {reading}" for name, reading in others.items())
            pytest.fail(f"case {number}: {data!r}\nours: {ours}\n{told}\n{error}")
    print(f"{accepted} of {CASES} accepted, {bodies} with a body")
    assert accepted > CASES / 8
    assert bodies > CASES / 100


GOOD = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello" + NEXT


def test_every_parser_reads_a_plain_request_alike() -> None:
    readings = [read(GOOD) for read in (read_ours, read_llhttp, read_httptools, read_h11)]
    end = len(GOOD) - len(NEXT)
    for reading in readings:
        assert (reading.head_end, reading.body_end) == (end - 5, end)
        assert reading.body == b"hello"


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_end": 1},
        {"body_end": 1},
        {"body": bytearray(b"hell")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_judge_sees_a_reading_of_its_own(wrong: dict[str, Any]) -> None:
    others = {"llhttp": read_llhttp(GOOD), "httptools": read_httptools(GOOD), "h11": read_h11(GOOD)}
    judge(read_ours(GOOD), others)
    with pytest.raises(AssertionError):
        judge(replace(read_ours(GOOD), **wrong), others)


def test_judge_sees_what_two_reject() -> None:
    bad = GOOD.replace(b"Host:", b"Host :")
    others = {"llhttp": read_llhttp(bad), "httptools": read_httptools(bad), "h11": read_h11(bad)}
    with pytest.raises(AssertionError):
        judge(read_ours(GOOD), others)
