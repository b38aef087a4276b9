"""HTTP heads and bodies, bytes in, values out: each rule obeyed, broken, cut at every byte."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import pytest

from dataplane import _http
from dataplane._http import HttpRefused

if TYPE_CHECKING:  # what the stub file names, not the compiled module
    from dataplane._http import Request, Response

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
LINE = b"GET /chat HTTP/1.1\r\n"
HANDSHAKE = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: example.com:8000\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: https://example.com\r\n"
    b"Authorization: Bearer x\r\n\r\n"
)


def head(*fields: bytes, line: bytes = LINE, host: bytes | None = b"Host: a.example") -> bytes:
    """A request head of these field lines; a Host comes along unless it is None."""
    lines = ([] if host is None else [host]) + list(fields)
    return line + b"".join(field + b"\r\n" for field in lines) + b"\r\n"


def read(pieces: list[bytes]) -> Request | int:
    """What the engine makes of bytes that arrive so: a request, or the status of the refusal."""
    try:
        length = _http.scan_head(pieces)
        return _http.parse_request(b"".join(pieces)[:length]) if length else 0
    except HttpRefused as error:
        return error.status


def cuts(data: bytes) -> list[list[bytes]]:
    """All at once, byte by byte, and (of what is not huge) in two pieces cut at every byte."""
    both = [[data], [data[i : i + 1] for i in range(len(data))]]
    return both + [[data[:i], data[i:]] for i in range(1, len(data)) if len(data) < 2000]


def accepted(data: bytes) -> Request:
    """The one reading of a head, however it arrives; no part of it is a whole head."""
    first = read([data])
    assert not isinstance(first, int), first
    for pieces in cuts(data):
        assert read(pieces) == first
        if len(pieces) == 2:
            assert read(pieces[:1]) == 0
            with pytest.raises(HttpRefused):
                _http.parse_request(pieces[0])
    return first


def refused(data: bytes) -> int:
    """The one status a head is refused with, however it arrives."""
    first = read([data])
    assert isinstance(first, int)
    assert first > 0, "not refused"
    for pieces in cuts(data):
        assert read(pieces) == first
    return first


def accepted_response(data: bytes) -> Response:
    for cut in range(1, len(data)):
        with pytest.raises(HttpRefused):
            _http.parse_response(data[:cut])
        assert _http.scan_head([data[:cut], data[cut:]]) == len(data)
    return _http.parse_response(data)


def refused_response(data: bytes) -> int:
    with pytest.raises(HttpRefused) as caught:
        _http.parse_response(data)
    return caught.value.status


def kinds(request: Request | Response) -> dict[bytes, str]:
    return {name: kind for name, _, kind, _ in request["fields"]}


def dropped(request: Request | Response) -> set[bytes]:
    """The names that must not be forwarded."""
    return {name for name, _, _, hop in request["fields"] if hop}


# The request line


def test_handshake_is_read_whole() -> None:
    request = accepted(HANDSHAKE)
    assert request["method"] == b"GET"
    assert request["method_kind"] == "GET"
    assert (request["path"], request["query"]) == (b"/chat", b"room=1")
    assert (request["host"], request["port"]) == (b"example.com", 8000)
    assert request["first"] == {
        "upgrade": b"websocket", "ws_key": KEY, "ws_version": b"13",
        "ws_protocol": b"chat, superchat", "ws_extensions": b"permessage-deflate",
        "authorization": b"Bearer x",
    }  # fmt: skip
    assert request["upgrade_websocket"]
    assert request["connection_upgrade"]
    assert request["keep_alive"]
    assert not request["chunked"]
    assert request["content_length"] == -1
    assert dropped(request) == {b"Upgrade", b"Connection"}


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M_SEARCH"]
)
def test_method_is_any_token(method: str) -> None:
    request = accepted(head(line=method.encode() + b" / HTTP/1.1\r\n"))
    assert request["method"] == method.encode()
    assert request["method_kind"] == (method if method in _http.METHODS else "OTHER")


def test_method_is_case_sensitive() -> None:
    assert accepted(head(line=b"get / HTTP/1.1\r\n"))["method_kind"] == "OTHER"


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT"])
def test_trace_and_connect_get_405(method: bytes) -> None:
    assert refused(head(line=method + b" / HTTP/1.1\r\n")) == 405
    assert refused(head(line=method + b" a.example:443 HTTP/1.1\r\n")) == 405


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", None),
        (b"/a/b", b"/a/b", None),
        (b"/a?", b"/a", b""),
        (b"/a?b=c?d/%zz", b"/a", b"b=c?d/%zz"),
        (b"/%41%2f%7E", b"/%41%2f%7E", None),
        (b"//double//slash", b"//double//slash", None),
        (b'/a;b=c/d|e"{}^`\\<>', b'/a;b=c/d|e"{}^`\\<>', None),
        (b"http://a.example/x?y", b"/x", b"y"),
        (b"HTTPS://A.EXAMPLE", b"/", None),
        (b"ws://a.example?q", b"/", b"q"),
        (b"wss://a.example:443/", b"/", None),
    ],
)
def test_target_is_split(target: bytes, path: bytes, query: bytes | None) -> None:
    request = accepted(head(line=b"GET " + target + b" HTTP/1.1\r\n"))
    assert request["target"] == target
    assert (request["path"], request["query"]) == (path, query)


def test_asterisk_is_for_options() -> None:
    assert accepted(head(line=b"OPTIONS * HTTP/1.1\r\n"))["path"] == b"*"
    for line in (b"GET * HTTP/1.1\r\n", b"OPTIONS ** HTTP/1.1\r\n", b"OPTIONS *?a HTTP/1.1\r\n"):
        assert refused(head(line=line)) == 400


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET / HTTP/1.1\t", b"GET HTTP/1.1", b"GET /",
        b"GET / ", b"GET", b"", b"/ HTTP/1.1", b"G@T / HTTP/1.1", b"GET / http/1.1",
        b"GET / HTTP/1", b"GET / HTTP/1.10", b"GET / HTTP/11", b"GET / HTTP/1,1", b"GET / XTTP/1.1",
        b"GET a.example:80 HTTP/1.1", b"GET chat HTTP/1.1", b"GET ?x HTTP/1.1",
        b"GET /a#b HTTP/1.1", b"GET /a?b#c HTTP/1.1", b"GET #/ HTTP/1.1", b"GET /a b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1", b"GET /?\xc3\xa9 HTTP/1.1", b"GET /\x7f HTTP/1.1",
        b"GET ftp://a.example/ HTTP/1.1", b"GET http:/a.example/ HTTP/1.1",
        b"GET http:///a.example HTTP/1.1", b"GET http:// HTTP/1.1", b"GET httpss://a/ HTTP/1.1",
        b"GET wsx://a.example/ HTTP/1.1",
    ],
    ids=repr,
)  # fmt: skip
def test_request_line_that_is_malformed_gets_400(line: bytes) -> None:
    assert refused(head(line=line + b"\r\n")) == 400


@pytest.mark.parametrize("escape", [b"%", b"%4", b"%4g", b"%g4", b"%%41", b"%u0041"])
def test_s55_invalid_escape_in_the_path_gets_400(escape: bytes) -> None:
    assert refused(head(line=b"GET /a" + escape + b" HTTP/1.1\r\n")) == 400
    assert refused(head(line=b"GET /a" + escape + b"/b?c HTTP/1.1\r\n")) == 400
    with pytest.raises(HttpRefused) as caught:
        _http.normalise_path(b"/a" + escape)
    assert caught.value.status == 400


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"3.0", b"9.9"])
def test_another_version_gets_505(version: bytes) -> None:
    assert refused(head(line=b"GET / HTTP/" + version + b"\r\n")) == 505


def test_http_1_0_is_read_and_closes_unless_asked() -> None:
    line = b"GET / HTTP/1.0\r\n"
    request = accepted(head(line=line, host=None))
    assert (request["version_minor"], request["keep_alive"]) == (0, False)
    assert (request["host_n"], request["host"]) == (0, b"")
    assert accepted(head(b"Connection: Keep-Alive", line=line))["keep_alive"]
    assert not accepted(head(b"Connection: keep-alive, close", line=line))["keep_alive"]
    assert not accepted(head(b"Connection: Close"))["keep_alive"]
    assert accepted(head())["keep_alive"]


# Limits


def outcome(data: bytes) -> tuple[int, bool]:
    with pytest.raises(HttpRefused) as caught:
        _http.scan_head([data])
    return caught.value.status, caught.value.too_large


def parse_outcome(data: bytes) -> tuple[int, bool]:
    with pytest.raises(HttpRefused) as caught:
        _http.parse_request(data)
    return caught.value.status, caught.value.too_large


def test_request_line_has_its_limit() -> None:
    longest = b"GET /" + b"a" * (8192 - 14) + b" HTTP/1.1\r\n"
    assert len(accepted(head(line=longest))["path"]) == 8179
    over = head(line=longest.replace(b"/a", b"/aa", 1))
    assert outcome(over) == parse_outcome(over) == (414, False)
    assert outcome(over[:8193]) == (414, False)
    assert _http.scan_head([over[:8192]]) == 0
    assert refused(over) == 414


def test_field_line_has_its_limit() -> None:
    longest = b"A: " + b"a" * 8189
    assert len(accepted(head(longest))["fields"][1][1]) == 8189
    over = head(longest + b"a")
    assert outcome(over) == parse_outcome(over) == (400, True)
    assert outcome(over[: len(LINE) + 17 + 8193]) == (400, True)
    assert refused(over) == 400


def test_fields_have_their_number() -> None:
    assert len(accepted(head(*[b"A: b"] * 99))["fields"]) == 100
    assert parse_outcome(head(*[b"A: b"] * 100)) == (400, True)


def test_head_has_its_limit() -> None:
    rest = 32768 - len(head()) - 3 * (8192 + 2) - len(b"A: \r\n")
    fields = [b"A: " + b"a" * 8189] * 3
    whole = head(*fields, b"A: " + b"a" * rest)
    assert len(whole) == 32768
    accepted(whole)
    over = head(*fields, b"A: " + b"a" * (rest + 1))
    assert outcome(over) == parse_outcome(over) == (400, True)
    assert outcome(over[:32768]) == (400, True)
    assert _http.scan_head([over[:32767]]) == 0


def test_connection_names_have_their_number() -> None:
    names = [b"x%d" % i for i in range(32)]
    accepted(head(b"Connection: " + b", ".join(names)))
    assert refused(head(b"Connection: " + b", ".join([*names, b"y"]))) == 400
    assert refused(head(b"Connection: " + b", ".join(names), b"Connection: y")) == 400
    accepted(head(b"Connection: " + b", ".join([b"close", b"upgrade"] * 40)))


def test_tls_hello_is_refused_at_its_first_byte() -> None:
    assert outcome(b"\x16") == (400, False)


# Field lines


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"A:b", b"b"), (b"A: b", b"b"), (b"A: \t b \t ", b"b"), (b"A:", b""), (b"A: \t", b""),
        (b"A: b \t c", b"b \t c"), (b"A: b:c", b"b:c"), (b"A: \xe9\xff", b"\xe9\xff"),
        (b"A: " + b"x" * 7 + b"\ty", b"x" * 7 + b"\ty"), (b"!#$%&'*+-.^_`|~: x", b"x"),
    ],
    ids=repr,
)  # fmt: skip
def test_value_is_trimmed(line: bytes, value: bytes) -> None:
    request = accepted(head(line))
    assert request["fields"][1] == (line.partition(b":")[0], value, "other", False)


@pytest.mark.parametrize(
    "data",
    [
        head().replace(b"\r\n", b"\n"),
        head().replace(b"\r\n\r\n", b"\r\n\n"),
        head().replace(b"\r\n\r\n", b"\n\r\n"),
        head().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
        head(b"A: b\nC: d"),
        head(b"A: b\rC: d"),
        head(b"A: b\r\rC: d"),
        head(b"A\r: b"),
        head(b"A\n: b"),
        head(b"A: b", b" folded"),
        head(b"A: b", b"\tfolded"),
        head(b" A: b", host=None),
        head(b"A : b"),
        head(b"A\t: b"),
        head(b"A: b\x00c"),
        head(b"A\x00: b"),
        head(b"A: \x01"),
        head(b"A: b\x0bc"),
        head(b"A: \x1f"),
        head(b"A: bcdefgh\x7f"),
        head(b": b"),
        head(b"A"),
        head(b"A(: b"),
        head(b"A B: c"),
        head(b'"A": b'),
        head(b"\xc3\xa9: b"),
        head(b"A,B: c"),
        head(b"A/B: c"),
        head(b"A@: c"),
        head(line=b"\r\n" + LINE),
        head(line=b"\n" + LINE),
    ],
    ids=repr,
)
def test_s50_what_is_no_field_line_gets_400(data: bytes) -> None:
    assert refused(data) == 400


@pytest.mark.parametrize("byte", [b for b in range(0x20) if b != 9] + [0x7F])
@pytest.mark.parametrize("before", [0, 1, 7, 8, 20])
def test_s50_control_byte_anywhere_gets_400(byte: int, before: int) -> None:
    control = bytes([byte])
    assert read([head(b"A: " + b"x" * before + control + b"y" * 9)]) == 400
    assert read([head(b"x" * before + control + b"y: z")]) == 400
    assert read([head(line=b"GET /" + b"x" * before + control + b" HTTP/1.1\r\n")]) == 400


def test_s50_a_good_head_becomes_bad_by_any_control_byte_in_it() -> None:
    good = HANDSHAKE
    for at in range(len(good)):
        for byte in b"\x00\x0b\x1f\x7f\n\r":
            if good[at] != byte:
                assert read([good[:at] + bytes([byte]) + good[at + 1 :]]) in (0, 400)


def test_head_ends_at_its_first_empty_line() -> None:
    assert _http.scan_head([HANDSHAKE + b"\x81\x00GET / HTTP/1.1\r\n\r\n"]) == len(HANDSHAKE)
    assert parse_outcome(head() + b"A: b\r\n\r\n") == (400, False)
    assert parse_outcome(b"") == (400, False)
    assert parse_outcome(b"\r\n\r\n") == (400, False)


KNOWN = {
    "Host": "host", "Connection": "connection", "Upgrade": "upgrade", "TE": "te", "Via": "via",
    "Sec-WebSocket-Key": "sec-websocket-key", "Sec-WebSocket-Version": "sec-websocket-version",
    "Sec-WebSocket-Protocol": "sec-websocket-protocol", "Expect": "expect", "Accept": "accept",
    "Sec-WebSocket-Extensions": "sec-websocket-extensions", "Origin": "origin",
    "Sec-WebSocket-Accept": "sec-websocket-accept", "Authorization": "authorization",
    "Content-Length": "content-length", "Transfer-Encoding": "transfer-encoding",
    "Content-Type": "content-type", "Cookie": "cookie", "Server": "server",
    "Keep-Alive": "keep-alive", "Proxy-Connection": "proxy-connection", "Proxy": "proxy",
    "X-Forwarded-For": "x-forwarded-for", "X-Forwarded-Proto": "x-forwarded-proto",
    "X-Forwarded-Host": "x-forwarded-host", "X-Forwarded-Port": "x-forwarded-port",
    "X-Forwarded-Path": "x-forwarded-path", "X-Forwarded-Prefix": "x-forwarded-prefix",
    "X-Real-IP": "x-real-ip", "X-Kong-Request-Id": "x-kong-request-id",
    "HTTP2-Settings": "http2-settings",
}  # fmt: skip
HOP_BY_HOP = {
    "connection", "upgrade", "te", "transfer-encoding", "keep-alive", "proxy-connection", "proxy",
    "http2-settings", "identity",
}  # fmt: skip
VALUES = {"Host": b"a.example", "Content-Length": b"5", "Transfer-Encoding": b"chunked"}


def test_every_kind_but_two_is_a_known_name() -> None:
    assert set(KNOWN.values()) | {"other", "identity"} == set(_http.KINDS)


@pytest.mark.parametrize(("name", "kind"), KNOWN.items())
def test_known_name_is_known_in_any_case(name: str, kind: str) -> None:
    for spelt in (name, name.lower(), name.upper(), name.swapcase()):
        line = spelt.encode() + b": " + VALUES.get(name, b"x")
        request = accepted(head(line, host=None if name == "Host" else b"Host: a.example"))
        assert kinds(request)[spelt.encode()] == kind
        assert (spelt.encode() in dropped(request)) is (kind in HOP_BY_HOP)


@pytest.mark.parametrize("name", KNOWN)
def test_name_off_by_one_byte_is_another_name(name: str) -> None:
    for at in range(len(name)):
        for spelt in (name[:at] + "~" + name[at + 1 :], name[:at] + name[at + 1 :]):
            if spelt and spelt not in KNOWN:
                assert kinds(accepted_field(spelt))[spelt.encode()] == "other"
    assert kinds(accepted_field(name + "s"))[name.encode() + b"s"] == "other"


def accepted_field(name: str) -> Request:
    request = read([head(name.encode() + b": x")])
    assert not isinstance(request, int)
    return request


@pytest.mark.parametrize("name", [name for name in KNOWN if "-" in name])
def test_known_name_with_underscores_is_not_forwarded(name: str) -> None:
    for spelt in (name.replace("-", "_"), name.replace("-", "_", 1)):
        request = accepted_field(spelt)
        assert kinds(request)[spelt.encode()] == "other"
        assert spelt.encode() in dropped(request)
    request = accepted_field("My_Own_" + name)
    assert dropped(request) == set()


# Statements of the security checklist


@pytest.mark.parametrize(
    ("upgrade", "connection", "is_websocket", "is_upgrade"),
    [
        (b"websocket", b"Upgrade", True, True),
        (b"WebSocket", b"keep-alive, UPGRADE", True, True),
        (b"websocket, h2c", b"upgrade", True, True),
        (b"websocket \t, h2c", b"a,upgrade,b", True, True),
        (b"websockets", b"upgrades", False, False),
        (b"websocket/13", b"x-upgrade", False, False),
        (b"websocket h2c", b"up grade", False, False),
        (b"h2c, websocket", b"keep-alive", False, False),
        (b"websocke", b"", False, False),
        (b"", b",", False, False),
    ],
)
def test_s43_upgrade_and_connection_are_read_as_lists(
    upgrade: bytes, connection: bytes, is_websocket: bool, is_upgrade: bool
) -> None:
    request = accepted(head(b"Upgrade: " + upgrade, b"Connection: " + connection))
    assert request["upgrade_websocket"] is is_websocket
    assert request["connection_upgrade"] is is_upgrade


def test_s43_first_upgrade_decides_and_every_connection_counts() -> None:
    two = accepted(head(b"Upgrade: h2c", b"Upgrade: websocket"))
    assert not two["upgrade_websocket"]
    both = accepted(head(b"Connection: close", b"Connection: Upgrade"))
    assert both["connection_upgrade"]
    assert not both["keep_alive"]
    neither = accepted(head())
    assert not neither["upgrade_websocket"]
    assert not neither["connection_upgrade"]


def test_s43_what_a_handshake_may_have_once_is_counted() -> None:
    key, version = b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Version: 13"
    request = accepted(head(key + KEY, version, key + b"x", version, b"Authorization: a"))
    assert (request["ws_key_n"], request["ws_version_n"]) == (2, 2)
    assert request["authorization_n"] == 1
    assert request["first"]["ws_key"] == KEY
    none = accepted(head())
    assert (none["ws_key_n"], none["ws_version_n"], none["authorization_n"]) == (0, 0, 0)
    assert set(none["first"].values()) == {None}


def test_s43_key_is_canonical_base64_of_16_bytes() -> None:
    for number in range(256):
        assert _http.key_valid(base64.b64encode(bytes([number, 255 - number]) * 8))
    assert _http.key_valid(KEY)
    for at in range(len(KEY)):
        for byte in b"\x00 -_=\xff":
            bad = KEY[:at] + bytes([byte]) + KEY[at + 1 :]
            assert bad == KEY or not _http.key_valid(bad)
    for bad in (
        b"",
        KEY[:-1],
        KEY + b"=",
        base64.b64encode(b"x" * 15),
        base64.b64encode(b"x" * 17),
    ):
        assert not _http.key_valid(bad)
    # the bits behind the sixteenth byte must be zero: one key, one spelling
    for last in b"BPRfhvxz9+/":
        assert not _http.key_valid(KEY[:21] + bytes([last]) + b"==")


def test_accept_answers_the_key() -> None:
    assert _http.websocket_accept(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    for number in range(256):
        key = base64.b64encode(bytes([number]) * 16)
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        assert _http.websocket_accept(key) == base64.b64encode(digest)


@pytest.mark.parametrize("value", [b"h2c", b"TLS/1.0", b"websocket", b"h2c, websocket"])
def test_s47_no_upgrade_and_no_http2_settings_is_forwarded_as_it_came(value: bytes) -> None:
    request = accepted(
        head(b"Upgrade: " + value, b"HTTP2-Settings: AAMAAABk", b"Connection: Upgrade")
    )
    assert dropped(request) == {b"Upgrade", b"HTTP2-Settings", b"Connection"}


def test_s47_http2_preface_gets_400() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert refused(preface) == 400
    assert outcome(preface[:16]) == (400, False)
    assert parse_outcome(preface[:18]) == (400, False)


def test_s48_connection_names_what_is_not_forwarded() -> None:
    request = accepted(
        head(
            b"X-One: 1", b"Connection: x-one,  X-TWO\t, keep-alive", b"X-Two: 2", b"X-Three: 3",
            b"x-one: again", b"Connection: X-Consumer-ID", b"X-On: 0", b"X-One-More: 0",
        )
    )  # fmt: skip
    assert dropped(request) == {b"X-One", b"x-one", b"X-Two", b"Connection"}


@pytest.mark.parametrize("connection", [b"Host", b"Sec-WebSocket-Key", b"Authorization"])
def test_s48_connection_cannot_hide_what_the_gateway_itself_reads(connection: bytes) -> None:
    request = accepted(HANDSHAKE.replace(b"keep-alive, U", connection + b", U"))
    assert request["host"] == b"example.com"
    assert request["first"]["ws_key"] == KEY
    assert request["first"]["authorization"] == b"Bearer x"


LENGTH, CHUNKED = b"Content-Length: 5", b"Transfer-Encoding: chunked"


def test_s49_one_length_or_chunked_is_read() -> None:
    assert accepted(head(LENGTH))["content_length"] == 5
    assert accepted(head(b"Content-Length:0"))["content_length"] == 0
    assert accepted(head(b"Content-Length: " + b"9" * 18))["content_length"] == 10**18 - 1
    for spelt in (CHUNKED, b"transfer-encoding:CHUNKED"):
        request = accepted(head(spelt))
        assert request["chunked"]
        assert request["content_length"] == -1


@pytest.mark.parametrize(
    "fields",
    [
        [LENGTH, CHUNKED],
        [CHUNKED, LENGTH],
        [LENGTH, b"Content-Length: 6"],
        [LENGTH, LENGTH],
        [CHUNKED, CHUNKED],
        *[
            [b"Content-Length: " + value]
            for value in (
                b"+5", b"-5", b"5,5", b"5, 5", b" 5", b"\t5", b"5 ", b"5\t", b"5 5", b"0x5", b"5a",
                b"", b"5.0", b"1e1", b"9" * 19, b"0" * 19, b"\xb2", b"'5'",
            )
        ],
        *[
            [b"Transfer-Encoding: " + value]
            for value in (
                b"", b"gzip", b"identity", b"gzip, chunked", b"chunked, chunked", b"chunked,",
                b",chunked", b"xchunked", b"chunkedx", b"chunke", b"chunked;a=b", b"chun ked",
                b"\"chunked\"", b" chunked", b"\tchunked", b"chunked ", b"chunked\t", b"chun\x4ded",
                b"\x0bchunked",
            )
        ],
        [b"Transfer-Encoding:\tchunked"],
        [b"Transfer-Encoding", b"X: y"],
        [b"Transfer-Encoding : chunked"],
        [b"Transfer-Encoding: gzip", CHUNKED],
    ],
    ids=repr,
)  # fmt: skip
def test_s49_body_length_with_two_readings_gets_400(fields: list[bytes]) -> None:
    assert refused(head(*fields)) == 400


def test_s49_http_1_0_has_no_transfer_encoding() -> None:
    assert refused(head(CHUNKED, line=b"POST / HTTP/1.0\r\n")) == 400


def test_s52_body_of_a_handshake_is_reported() -> None:
    end = b"\r\n\r\n"
    assert accepted(HANDSHAKE)["content_length"] == -1
    assert accepted(HANDSHAKE.replace(end, b"\r\n" + LENGTH + end))["content_length"] == 5
    assert accepted(HANDSHAKE.replace(end, b"\r\n" + CHUNKED + end))["chunked"]
    assert refused(HANDSHAKE.replace(end, b"\r\nTransfer-Encoding: gzip" + end)) == 400


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        (b"a.example", b"a.example", 0), (b"A.Example:80", b"A.Example", 80), (b"a", b"a", 0),
        (b"a_b-c.example.:65535", b"a_b-c.example.", 65535), (b"127.0.0.1:1", b"127.0.0.1", 1),
        (b"[::1]", b"[::1]", 0), (b"[::ffff:1.2.3.4]:8443", b"[::ffff:1.2.3.4]", 8443),
        (b"[1:2:3:4:5:6:7::]:5", b"[1:2:3:4:5:6:7::]", 5), (b"x" * 255, b"x" * 255, 0),
    ],
)  # fmt: skip
def test_s53_host_is_read(value: bytes, host: bytes, port: int) -> None:
    request = accepted(head(host=b"Host: " + value))
    assert (request["host"], request["port"]) == (host, port)


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b":80", b"a:", b"a:0", b"a:080", b"a:65536", b"a:99999", b"a:123456", b"a:+80",
        b"a:8o", b"a:80:80", b"a b", b"a,b", b"a/b", b"a@b", b"u:p@a", b"a?b", b"a#b", b"a\\b",
        b"a%41", b"a..b", b".a", b"[::1", b"::1", b"[::1]x", b"[::1]:", b"[]", b"[1.2.3.4]",
        b"[::g]", b"[:::]", b"[1:2:3:4:5:6:7:8:9]", b"[::1%25eth0]", b"[fe80::1%eth0]", b"[v1.x]",
        b"\xc3\xa9.example", b"a\tb", b"x" * 256, b"[" + b"0:" * 23 + b"]", b"a;b", b"\"a\"",
    ],
    ids=repr,
)  # fmt: skip
def test_s53_host_malformed_gets_400(value: bytes) -> None:
    assert refused(head(host=b"Host: " + value)) == 400


def test_s53_host_missing_or_repeated_gets_400() -> None:
    assert refused(head(host=None)) == 400
    assert refused(head(b"Host: a.example")) == 400
    assert refused(head(b"hOST: b.example")) == 400
    assert refused(head(b"Host: a.example", line=b"GET / HTTP/1.0\r\n")) == 400


@pytest.mark.parametrize(
    ("target", "host", "agrees"),
    [
        (b"http://a.example/", b"a.example", True),
        (b"http://a.example/", b"A.EXAMPLE", True),
        (b"http://a.example:80/", b"a.example", True),
        (b"https://a.example/", b"a.example:443", True),
        (b"ws://[::1]:9/", b"[::1]:9", True),
        (b"http://b.example/", b"a.example", False),
        (b"http://a.example.evil/", b"a.example", False),
        (b"http://a.example:81/", b"a.example", False),
        (b"https://a.example/", b"a.example:80", False),
        (b"http://a.example/", b"a.example:443", False),
        (b"http://u@a.example/", b"a.example", False),
        (b"http://a.example:/", b"a.example", False),
        (b"http://a%2eexample/", b"a.example", False),
    ],
)
def test_s53_absolute_target_must_agree_with_host(target: bytes, host: bytes, agrees: bool) -> None:
    data = head(line=b"GET " + target + b" HTTP/1.1\r\n", host=b"Host: " + host)
    if agrees:
        assert accepted(data)["host"] == host.partition(b":9")[0].partition(b":4")[0]
    else:
        assert refused(data) == 400


IDENTITY = [
    "X-Consumer-ID", "X-Consumer-Custom-ID", "X-Consumer-Username", "X-Credential-Identifier",
    "X-Authenticated-Scope", "X-Authenticated-UserId", "X-Anonymous-Consumer", "X-Consumer-Groups",
    "X-Consumer-" + "x" * 40, "X-Credential-Username", "X-Consumer-",
]  # fmt: skip


@pytest.mark.parametrize("name", IDENTITY)
def test_s54_identity_header_of_a_client_is_never_forwarded(name: str) -> None:
    spelt = [name, name.lower(), name.upper(), name.swapcase()]
    spelt += [each.replace("-", "_") for each in spelt] + [name.replace("-", "_", 1)]
    for each in spelt:
        request = accepted_field(each)
        assert kinds(request)[each.encode()] == "identity"
        assert dropped(request) == {each.encode()}


@pytest.mark.parametrize(
    "name", ["X-Consumer", "X-Customer-ID", "X-Anonymous-Consumers", "XConsumer-ID"]
)
def test_s54_other_header_is_forwarded(name: str) -> None:
    assert dropped(accepted_field(name)) == set()


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"), (b"/a", b"/a"), (b"/a/", b"/a/"), (b"*", b"*"), (b"//", b"/"),
        (b"//a///b//", b"/a/b/"), (b"/.", b"/"), (b"/..", b"/"), (b"/./", b"/"), (b"/../", b"/"),
        (b"/a/.", b"/a/"), (b"/a/..", b"/"), (b"/a/./b", b"/a/b"), (b"/a/../b", b"/b"),
        (b"/a/b/../../c", b"/c"), (b"/../../a", b"/a"), (b"/a//../b", b"/b"),
        (b"/a/../../../b/..", b"/"), (b"/...", b"/..."), (b"/..a/.b/a.", b"/..a/.b/a."),
        (b"/%2e%2E/a", b"/a"), (b"/a/%2e", b"/a/"), (b"/a/.%2e/b", b"/b"), (b"/a/%2e./b", b"/b"),
        (b"/route%2E%2E/req", b"/route../req"), (b"/%41%7a%7E%5f", b"/Az~_"),
        (b"/%2f", b"/%2F"), (b"/a%2f..%2fb", b"/a%2F..%2Fb"), (b"/a/..%2f", b"/a/..%2F"),
        (b"/%3b;%3B", b"/%3B;%3B"), (b"/a;b=c/..", b"/"), (b"/%25%32%65", b"/%252e"),
        (b"/%252e%252e/", b"/%252e%252e/"), (b"/%3f%23%5b", b"/%3F%23%5B"), (b"/%20", b"/ "),
        (b"/%c3%a9", b"/\xc3\xa9"), (b"/%0d%0a%09%7f", b"/%0D%0A%09%7F"), (b"/a|b", b"/a|b"),
        (b"/%21%27%28%29%2a%2c%2b%3a%3d%40%24%26", b"/%21%27%28%29%2A%2C%2B%3A%3D%40%24%26"),
        (b"/%5c..%5c", b"/\\..\\"),
    ],
)  # fmt: skip
def test_s55_path_is_normalised_once_and_for_all(path: bytes, normal: bytes) -> None:
    assert _http.normalise_path(path) == normal
    if b" " not in normal and b"\xc3" not in normal:
        assert _http.normalise_path(normal) == normal
    escaped = _http.escape_path(normal, 3 * len(normal))
    assert _http.normalise_path(escaped) == normal
    assert accepted(head(line=b"OPTIONS " + escaped + b" HTTP/1.1\r\n"))["path"] == escaped


@pytest.mark.parametrize(
    "path", [b"", b"a", b"/%00", b"/a?b", b"/a#b", b"/a b", b"/\xc3", b"/\r\n"]
)
def test_s55_what_is_no_path_is_refused(path: bytes) -> None:
    with pytest.raises(HttpRefused) as caught:
        _http.normalise_path(path)
    assert caught.value.status == 400


def test_s55_escape_leaves_what_a_uri_may_have() -> None:
    allowed = b"ABYZabyz0189-._~!*'();:@&=+$,/?%#[]"
    assert _http.escape_path(allowed, len(allowed)) == allowed
    for byte in set(range(256)) - set(range(0x30, 0x7B)) - set(allowed):
        assert _http.escape_path(bytes([byte]), 3) == b"%%%02X" % byte
    assert _http.escape_path(b"<>\\^`{|}\r\n\xc3", 33) == b"%3C%3E%5C%5E%60%7B%7C%7D%0D%0A%C3"


def test_escape_stays_in_its_room() -> None:
    assert _http.escape_path(b"/a b", 6) == b"/a%20b"
    for room in range(6):
        with pytest.raises(HttpRefused) as caught:
            _http.escape_path(b"/a b", room)
        assert caught.value.status == 414


def test_s55_every_byte_comes_through_as_itself() -> None:
    kept = b"!*'();:@&=+$,/?%#[]" + bytes(range(1, 0x20)) + b"\x7f"
    for byte in range(1, 256):
        normal = _http.normalise_path(b"/x%%%02x" % byte)
        assert normal == (b"/x%%%02X" % byte if byte in kept else b"/x" + bytes([byte]))


# Responses

SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n"
    b"Server: x\r\nVia: 1.1 y\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def answer(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:
    return line + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def test_switching_response_is_read_whole() -> None:
    response = accepted_response(SWITCHING)
    assert (response["status"], response["reason"]) == (101, b"Switching Protocols")
    assert response["upgrade_websocket"]
    assert response["connection_upgrade"]
    assert response["first"] == {
        "ws_accept": b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "ws_protocol": b"chat", "server": b"x",
        "ws_extensions": b"permessage-deflate", "via": b"1.1 y",
    }  # fmt: skip
    counts = (response["ws_accept_n"], response["ws_protocol_n"], response["ws_extensions_n"])
    assert counts == (1, 1, 1)
    assert dropped(response) == {b"Upgrade", b"Connection"}


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"), (b"HTTP/1.1 204 ", 204, b""), (b"HTTP/1.1 204", 204, b""),
        (b"HTTP/1.0 599 a\tb \xe9", 599, b"a\tb \xe9"),
        (b"HTTP/1.1 100 Continue", 100, b"Continue"),
    ],
)  # fmt: skip
def test_status_line_is_read(line: bytes, status: int, reason: bytes) -> None:
    response = accepted_response(answer(line=line + b"\r\n"))
    assert (response["status"], response["reason"]) == (status, reason)
    assert response["version_minor"] == response["keep_alive"] == line[7] - 48


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 99 X", b"HTTP/1.1 099 X", b"HTTP/1.1 600 X", b"HTTP/1.1 2000 X",
        b"HTTP/1.1 20x X",
        b"HTTP/1.1  200 OK", b"HTTP/1.1 200OK", b"HTTP/1.1\t200 OK", b"HTTP/2.0 200 OK", b"",
        b"HTTP/1.2 200 OK", b"HTTP/1.1", b"HTTP/1.1 ", b"http/1.1 200 OK", b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\nK", b"HTTP/1.1 200 O\rK", b"ICY 200 OK",
        b"HTTP/1.1 200 " + b"x" * 8192,
    ],
    ids=repr,
)  # fmt: skip
def test_status_line_that_is_malformed_gets_502(line: bytes) -> None:
    assert refused_response(answer(line=line + b"\r\n")) == 502


@pytest.mark.parametrize("control", [b"\r", b"\n", b"\x00", b"\r\nX-Consumer-ID"], ids=repr)
def test_s57_control_byte_in_an_upstream_value_creates_no_header_line(control: bytes) -> None:
    for name in (b"Sec-WebSocket-Protocol", b"Server", b"Location"):
        data = answer(name + b": a" + control + b"b")
        assert refused_response(data) == 502
        with pytest.raises(HttpRefused):
            _http.parse_request(head(name + b": a" + control + b"b"))
    assert len(accepted_response(answer(b"Location: a b"))["fields"]) == 1


@pytest.mark.parametrize(
    "fields",
    [
        [LENGTH, CHUNKED], [LENGTH, LENGTH], [b"Content-Length: +5"], [b"Content-Length: 5,5"],
        [b"Transfer-Encoding: gzip, chunked"], [b"Transfer-Encoding: identity"], [CHUNKED, CHUNKED],
        [b"A: b", b" folded"], [b"A : b"], [b": b"], [b"A"], [b"A: b"] * 101,
        [b"A: " + b"a" * 8190],
    ],
    ids=lambda fields: repr(fields[:2])[:60],
)  # fmt: skip
def test_s49_response_with_two_readings_gets_502(fields: list[bytes]) -> None:
    assert refused_response(answer(*fields)) == 502


def test_response_says_how_its_body_ends() -> None:
    assert accepted_response(answer(b"Content-Length:   5 "))["content_length"] == 5
    assert accepted_response(answer(CHUNKED))["chunked"]
    assert accepted_response(answer())["content_length"] == -1
    assert not accepted_response(answer(b"Connection: close"))["keep_alive"]


def test_expect_continue_is_reported() -> None:
    assert accepted(head(b"Expect: 100-Continue"))["expect_continue"]
    for value in (b"", b"100", b"100-continue, x"):
        assert not accepted(head(b"Expect: " + value))["expect_continue"]


# Chunked bodies


def body_cuts(data: bytes) -> list[list[bytes]]:
    return cuts(data) if len(data) < 600 else cuts(data)[:2]


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n", b"0123456789" * 2),
        (b"000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b'1;a\r\nx\r\n1;a=b;c="d\\"e;\r f"\r\ny\r\n0;z\r\n\r\n'.replace(b"\r f", b" f"), b"xy"),
        (b"2\r\n\r\n\r\n0\r\nA: b\r\nC:\r\n\r\n", b"\r\n"),
        (b"1;" + b"a" * 1022 + b"\r\nx\r\n0\r\n\r\n", b"x"),
        (b"0\r\nA: " + b"b" * 4087 + b"\r\n\r\n", b""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_chunked_body_is_read(data: bytes, payload: bytes) -> None:
    for pieces in body_cuts(data):
        assert _http.read_chunked(pieces) == (payload, len(data), True)
        assert _http.read_chunked([*pieces, b"GET / HTTP/1.1"]) == (payload, len(data), True)
    for cut in range(len(data)):
        assert not _http.read_chunked([data[:cut]])[2]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n", b"\n", b" 5\r\nhello\r\n", b"5 \r\nhello\r\n", b"5\nhello\r\n",
        b"5\r\r\nhello\r\n",
        b"5\rhello\r\n", b"5\r\nhello\n", b"5\r\nhello\r\r", b"5\r\nhellox\r\n", b"5\r\nhello0\r\n",
        b"+5\r\nhello\r\n", b"-1\r\n", b"0x5\r\n", b"g\r\n", b";a\r\n", b"5;\r\n", b"5; a\r\n",
        b"5;a b\r\n", b"5;a=\r\n", b'5;a="b\r\n', b'5;a="\x00"\r\n', b'5;a="b"c\r\n', b"5;a\n",
        b'5;a="\\\x01"\r\n', b"5;a=\"b\\\n", b"5;=b\r\n", b"0000000000000005\r\nhello\r\n",
        b"FFFFFFFFFFFFFFFF\r\n", b"1;" + b"a" * 1024 + b"\r\nx\r\n",
        b"0\r\n\n", b"0\r\n\rx", b"0\r\nA\r\n\r\n", b"0\r\n: b\r\n", b"0\r\nA b: c\r\n",
        b"0\r\nA: b\n\r\n", b"0\r\nA: \x00\r\n", b"0\r\n folded\r\n", b"0\r\nA: b\rC",
        b"0\r\nA: " + b"b" * 4096 + b"\r\n\r\n",
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_chunked_body_with_two_readings_gets_400(data: bytes) -> None:
    for pieces in body_cuts(data):
        with pytest.raises(HttpRefused) as caught:
            _http.read_chunked(pieces)
        assert caught.value.status == 400
