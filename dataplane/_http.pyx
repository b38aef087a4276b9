"""HTTP/1.1 heads and body framing, RFC 9112: bytes in, offsets out.

Theory of operation.  A head is read in two passes.

The scan (http_scan_head) runs as bytes arrive and looks only at line ends: it jumps eight bytes at
a time to the next control byte, which must be a tab or a CR with its LF, and knows a whole head by
an empty line.  What can never become a head (a bare LF, a NUL, a TLS hello, a line too long) is
refused at its first wrong byte, and nobody need hold more than HTTP_HEAD_MAX for it.  Its memory
between calls is one number: where it stands, and where the line it stands in began.

The parse (http_parse_request, http_parse_response) runs once over the whole head and trusts nothing
the scan saw, so that each is sound, and fuzzed, alone.  It first looks for the empty line at the
end: that sentinel stops every loop below, so they test no bounds.  Names are walked by a table of
byte classes, values by the same jump as in the scan; a name is known by its length and then by
words compared in lower case.  It writes an offset and a kind for each field into the caller's struct.

Strictness is the point (request smuggling): one reading, or refused.  Where others accept more: no
empty line before a start line; at most one space around a request's Content-Length or
Transfer-Encoding; neither of them twice, equal or not; no transfer coding but chunked; a Host of
letters, digits, `-`, `.` and `_`, or an IPv6 address; a port without leading zeros; no `%00`.

A name that would be a known one but for its underscores is marked hop-by-hop: an upstream that
turns both into one variable (CGI) must not take it for the real one.

Four parts are files of their own, included here so that the compiler sees them as one: bytes and
words, names, targets and paths, chunked bodies.

The word tricks read memory as little-endian numbers, as every machine we build for does.
"""
from libc.string cimport memcmp, memcpy, memset

include "_http_bytes.pxi"

cdef enum:
    KINDS_N = HTTP_FIELD_IDENTITY + 1
    KNOWN_NAME_MAX = 24    # bytes of the longest name that field_kind knows
    VERSION_ROOM = 13      # bytes at least from the space before a version to the end of a head
    RESPONSE_MIN = 16      # bytes of the shortest head of a response

cdef struct HeadIndex:
    int16_t first[KINDS_N]     # index of the first field of a kind, -1: none
    uint8_t count[KINDS_N]     # <= HTTP_FIELDS_MAX

cdef struct HeadFraming:
    int64_t content_length
    bint chunked, keep_alive, upgrade_websocket, connection_upgrade

cdef struct Authority:
    uint32_t host_len          # bytes, the brackets of an IPv6 address too
    uint32_t port              # 0: none

cdef struct Target:
    uint32_t authority_off     # bytes; of an absolute target
    uint32_t authority_len     # bytes, 0: the target is not absolute
    uint32_t default_port      # of its scheme

include "_http_names.pxi"
include "_http_target.pxi"
include "_http_body.pxi"


cdef int http_scan_head(const uint8_t* data, size_t size, uint32_t* scanned) noexcept nogil:
    cdef const uint8_t* end = data + (size if size < HTTP_HEAD_MAX else HTTP_HEAD_MAX)
    cdef const uint8_t* at = data + (scanned[0] & 0xFFFF)
    cdef const uint8_t* line = data + (scanned[0] >> 16)
    while True:
        at = control_find(at, end)
        if at - line > HTTP_LINE_MAX:
            return refuse(414 if line == data else HTTP_TOO_LARGE)
        if at == end:
            break
        if at[0] == c"\t":
            at += 1
            continue
        if at[0] != c"\r":
            return refuse(400)
        if at + 1 == end:
            break
        if at[1] != c"\n":
            return refuse(400)
        if at == line:
            return refuse(400) if line == data else <int>(at + 2 - data)
        if line == data and at - line == 14 and memcmp(data, b"PRI * HTTP/2.0", 14) == 0:
            return refuse(400)
        at += 2
        line = at
    if size >= HTTP_HEAD_MAX:
        return refuse(HTTP_TOO_LARGE)
    scanned[0] = (<uint32_t>(line - data) << 16) | <uint32_t>(at - data)
    return 0


cdef inline int field_read(
    const uint8_t* data, const uint8_t* at, const uint8_t* end, HttpField* field
) noexcept nogil:
    """Read one field line.  Returns its bytes with CRLF, -400 or -HTTP_TOO_LARGE."""
    cdef const uint8_t* line = at
    cdef const uint8_t* value
    cdef const uint8_t* tail
    cdef bint underscored = False
    while True:
        while HTTP_CLASS[at[0]] & CLASS_NAME:
            at += 1
        if at[0] != c"_":
            break
        underscored = True
        at += 1
    if at == line or at[0] != c":":
        return -400
    field.name_off = <uint16_t>(line - data)
    field.name_len = <uint16_t>(at - line)
    at += 1
    while at[0] == c" " or at[0] == c"\t":
        at += 1
    value = at
    at = control_find(at, end)
    while at[0] == c"\t":
        at = control_find(at + 1, end)
    if at[0] != c"\r" or at[1] != c"\n":
        return -400
    if at - line > HTTP_FIELD_LINE_MAX:
        return -HTTP_TOO_LARGE
    tail = at
    while tail > value and ((tail - 1)[0] == c" " or (tail - 1)[0] == c"\t"):
        tail -= 1
    field.value_off = <uint16_t>(value - data)
    field.value_len = <uint16_t>(tail - value)
    if underscored:
        field_name_underscored(line, field)
    else:
        field.kind = field_kind(line, field.name_len)
        field.flags = hop_flag(field.kind)
    return <int>(at + 2 - line)


cdef int fields_read(
    const uint8_t* data, uint32_t off, uint32_t head_len, HttpField* fields, HeadIndex* index
) noexcept nogil:
    """Read all field lines from `off` on.  Returns how many, -400 or -HTTP_TOO_LARGE."""
    cdef const uint8_t* end = data + head_len
    cdef int n = 0
    cdef int length
    cdef uint8_t kind
    memset(index.first, 0xFF, sizeof(index.first))
    memset(index.count, 0, sizeof(index.count))
    while data[off] != c"\r":
        if n == HTTP_FIELDS_MAX:
            return -HTTP_TOO_LARGE
        length = field_read(data, data + off, end, &fields[n])
        if length < 0:
            return length
        kind = fields[n].kind
        if index.count[kind] == 0:
            index.first[kind] = <int16_t>n
        index.count[kind] += 1
        off += <uint32_t>length
        n += 1
    return n if off + 2 == head_len else -400


cdef bint length_read(const uint8_t* text, uint32_t len, int64_t* value) noexcept nogil:
    """Read the digits of a Content-Length."""
    cdef uint32_t i
    if len == 0 or len > HTTP_LENGTH_DIGITS_MAX:
        return False
    value[0] = 0
    for i in range(len):
        if <uint8_t>(text[i] - c"0") > 9:
            return False
        value[0] = value[0] * 10 + (text[i] - c"0")
    return True


cdef bint field_padded(const uint8_t* data, const HttpField* field) noexcept nogil:
    """Tell whether there is more white space around a value than one space before it."""
    cdef uint32_t gap = field.value_off - field.name_off - field.name_len - 1
    return (
        gap > 1 or (gap == 1 and data[field.value_off - 1] != c" ")
        or data[field.value_off + field.value_len] != c"\r"
    )


cdef void fields_mark_hop(
    const uint8_t* data, HttpField* fields, int fields_n, const uint8_t* name, uint32_t len
) noexcept nogil:
    cdef int i
    for i in range(fields_n):
        if fields[i].name_len == len and equal_folded(data + fields[i].name_off, name, len):
            fields[i].flags |= HTTP_FLAG_HOP


cdef bint connection_read(
    const uint8_t* data, HttpField* fields, int fields_n, int first, HeadFraming* framing, bint* close
) noexcept nogil:
    """Read every Connection field and mark what it names.  RFC 9110 §7.6.1.  False: too many."""
    cdef const uint8_t* at
    cdef const uint8_t* end
    cdef const uint8_t* name
    cdef uint32_t len
    cdef int options = 0
    cdef int i
    for i in range(first, fields_n):
        if fields[i].kind != HTTP_FIELD_CONNECTION:
            continue
        at = data + fields[i].value_off
        end = at + fields[i].value_len
        while at < end:
            name = at
            while at < end and at[0] != c"," and at[0] != c" " and at[0] != c"\t":
                at += 1
            len = <uint32_t>(at - name)
            if len == 0:
                at += 1
            elif len == 5 and name_is(name, b"close", 5):
                close[0] = True
            elif len == 7 and name_is(name, b"upgrade", 7):
                framing.connection_upgrade = True
            elif len == 10 and name_is(name, b"keep-alive", 10):
                framing.keep_alive = True
            else:
                options += 1
                if options > HTTP_CONNECTION_OPTIONS_MAX:
                    return False
                fields_mark_hop(data, fields, fields_n, name, len)
    return True


cdef bint upgrade_is_websocket(const uint8_t* value, uint32_t len) noexcept nogil:
    """Tell whether the first of the protocols in an Upgrade field is websocket."""
    cdef uint32_t at = 9
    if len < 9 or not equal_folded(value, b"websocket", 9):
        return False
    while at < len and (value[at] == c" " or value[at] == c"\t"):
        at += 1
    return at == len or value[at] == c","


cdef bint framing_read(
    const uint8_t* data, HttpField* fields, int fields_n, const HeadIndex* index,
    uint8_t version_minor, bint is_request, HeadFraming* out
) noexcept nogil:
    """Say what follows the head.  RFC 9112 §6, §9.3.  False: more than one reading, or none."""
    cdef HttpField* field
    cdef bint close = False
    memset(out, 0, sizeof(HeadFraming))
    out.content_length = -1
    if index.count[HTTP_FIELD_CONTENT_LENGTH]:
        field = &fields[index.first[HTTP_FIELD_CONTENT_LENGTH]]
        if (
            index.count[HTTP_FIELD_CONTENT_LENGTH] > 1 or index.count[HTTP_FIELD_TRANSFER_ENCODING]
            or (is_request and field_padded(data, field))
            or not length_read(data + field.value_off, field.value_len, &out.content_length)
        ):
            return False
    elif index.count[HTTP_FIELD_TRANSFER_ENCODING]:
        field = &fields[index.first[HTTP_FIELD_TRANSFER_ENCODING]]
        if (
            index.count[HTTP_FIELD_TRANSFER_ENCODING] > 1 or version_minor == 0
            or (is_request and field_padded(data, field))
            or field.value_len != 7 or not name_is(data + field.value_off, b"chunked", 7)
        ):
            return False
        out.chunked = True
    if index.count[HTTP_FIELD_CONNECTION]:
        if not connection_read(
            data, fields, fields_n, index.first[HTTP_FIELD_CONNECTION], out, &close
        ):
            return False
    out.keep_alive = not close and (version_minor == 1 or out.keep_alive)
    if index.count[HTTP_FIELD_UPGRADE]:
        field = &fields[index.first[HTTP_FIELD_UPGRADE]]
        out.upgrade_websocket = upgrade_is_websocket(data + field.value_off, field.value_len)
    return True


cdef int version_read(const uint8_t* at, uint8_t* minor) noexcept nogil:
    """Read `HTTP/1.0` or `HTTP/1.1` in at least 8 bytes.  Returns 8, -505 or -400."""
    if memcmp(at, b"HTTP/1.1", 8) == 0:
        minor[0] = 1
        return 8
    if memcmp(at, b"HTTP/1.0", 8) == 0:
        minor[0] = 0
        return 8
    if (
        memcmp(at, b"HTTP/", 5) == 0 and <uint8_t>(at[5] - c"0") <= 9 and at[6] == c"."
        and <uint8_t>(at[7] - c"0") <= 9
    ):
        return -505
    return -400


cdef int head_refusal(const uint8_t* data, uint32_t head_len) noexcept nogil:
    """Give 0 when the sentinel is there that stops every loop of the parse, else -status."""
    if head_len > HTTP_HEAD_MAX:
        return -HTTP_TOO_LARGE
    if head_len < 4 or memcmp(data + head_len - 4, b"\r\n\r\n", 4) != 0:
        return -400
    return 0


cdef bint expects_continue(
    const uint8_t* data, const HttpField* fields, const HeadIndex* index
) noexcept nogil:
    cdef const HttpField* field
    if index.count[HTTP_FIELD_EXPECT] == 0:
        return False
    field = &fields[index.first[HTTP_FIELD_EXPECT]]
    return field.value_len == 12 and equal_folded(data + field.value_off, b"100-continue", 12)


cdef int request_line_read(
    const uint8_t* data, uint32_t head_len, HttpRequest* out, Target* target
) noexcept nogil:
    """Read method, target and version.  Returns the bytes of the line with CRLF, or -status."""
    cdef uint32_t off = 0
    cdef int result
    while HTTP_CLASS[data[off]] & CLASS_NAME or data[off] == c"_":
        off += 1
    if off == 0 or data[off] != c" ":
        return -400
    out.method_len = <uint16_t>off
    out.method = method_known(data, off)
    if out.method == HTTP_METHOD_TRACE or out.method == HTTP_METHOD_CONNECT:
        return -405
    result = target_read(data, off + 1, out, target)
    if result < 0:
        return result
    off = <uint32_t>result
    if data[off] != c" " or head_len - off < VERSION_ROOM:
        return -400
    result = version_read(data + off + 1, &out.version_minor)
    if result < 0:
        return result
    off += 9
    if data[off] != c"\r" or data[off + 1] != c"\n":
        return -400
    return -414 if off > HTTP_LINE_MAX else <int>(off + 2)


cdef int http_parse_request(const uint8_t* data, uint32_t head_len, HttpRequest* out) noexcept nogil:
    cdef HeadIndex index
    cdef HeadFraming framing
    cdef Target target
    cdef int result = head_refusal(data, head_len)
    if result == 0:
        result = request_line_read(data, head_len, out, &target)
    if result > 0:
        result = fields_read(data, <uint32_t>result, head_len, out.fields, &index)
    if result < 0:
        return refuse(-result)
    out.head_len = head_len
    out.fields_n = <uint16_t>result
    out.host = index.first[HTTP_FIELD_HOST]
    out.upgrade = index.first[HTTP_FIELD_UPGRADE]
    out.ws_key = index.first[HTTP_FIELD_SEC_WEBSOCKET_KEY]
    out.ws_version = index.first[HTTP_FIELD_SEC_WEBSOCKET_VERSION]
    out.ws_protocol = index.first[HTTP_FIELD_SEC_WEBSOCKET_PROTOCOL]
    out.ws_extensions = index.first[HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS]
    out.authorization = index.first[HTTP_FIELD_AUTHORIZATION]
    out.host_n = index.count[HTTP_FIELD_HOST]
    out.ws_key_n = index.count[HTTP_FIELD_SEC_WEBSOCKET_KEY]
    out.ws_version_n = index.count[HTTP_FIELD_SEC_WEBSOCKET_VERSION]
    out.authorization_n = index.count[HTTP_FIELD_AUTHORIZATION]
    if not host_read(data, out, &target) or not framing_read(
        data, out.fields, out.fields_n, &index, out.version_minor, True, &framing
    ):
        return refuse(400)
    out.content_length = framing.content_length
    out.chunked = framing.chunked
    out.keep_alive = framing.keep_alive
    out.upgrade_websocket = framing.upgrade_websocket
    out.connection_upgrade = framing.connection_upgrade
    out.expect_continue = expects_continue(data, out.fields, &index)
    return <int>head_len


cdef int status_line_read(const uint8_t* data, uint32_t head_len, HttpResponse* out) noexcept nogil:
    """Read version, status and reason.  RFC 9112 §4.  Returns the line's bytes with CRLF, or -1."""
    cdef const uint8_t* at
    cdef uint32_t i
    if head_len < RESPONSE_MIN or version_read(data, &out.version_minor) < 0:
        return -1
    if data[8] != c" ":
        return -1
    out.status = 0
    for i in range(9, 12):
        if <uint8_t>(data[i] - c"0") > 9:
            return -1
        out.status = <uint16_t>(out.status * 10 + (data[i] - c"0"))
    if out.status < 100 or out.status > 599:
        return -1
    at = data + 12
    if at[0] == c" ":
        at += 1
    elif at[0] != c"\r":
        return -1
    out.reason_off = <uint16_t>(at - data)
    at = control_find(at, data + head_len)
    while at[0] == c"\t":
        at = control_find(at + 1, data + head_len)
    out.reason_len = <uint16_t>(at - data - out.reason_off)
    if at[0] != c"\r" or at[1] != c"\n" or at - data > HTTP_LINE_MAX:
        return -1
    return <int>(at + 2 - data)


cdef int http_parse_response(const uint8_t* data, uint32_t head_len, HttpResponse* out) noexcept nogil:
    cdef HeadIndex index
    cdef HeadFraming framing
    cdef int result = head_refusal(data, head_len)
    if result == 0:
        result = status_line_read(data, head_len, out)
    if result > 0:
        result = fields_read(data, <uint32_t>result, head_len, out.fields, &index)
    if result < 0:
        return refuse(502)
    out.head_len = head_len
    out.fields_n = <uint16_t>result
    out.ws_accept = index.first[HTTP_FIELD_SEC_WEBSOCKET_ACCEPT]
    out.ws_protocol = index.first[HTTP_FIELD_SEC_WEBSOCKET_PROTOCOL]
    out.ws_extensions = index.first[HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS]
    out.server = index.first[HTTP_FIELD_SERVER]
    out.via = index.first[HTTP_FIELD_VIA]
    out.ws_accept_n = index.count[HTTP_FIELD_SEC_WEBSOCKET_ACCEPT]
    out.ws_protocol_n = index.count[HTTP_FIELD_SEC_WEBSOCKET_PROTOCOL]
    out.ws_extensions_n = index.count[HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS]
    if not framing_read(
        data, out.fields, out.fields_n, &index, out.version_minor, False, &framing
    ):
        return refuse(502)
    out.content_length = framing.content_length
    out.chunked = framing.chunked
    out.keep_alive = framing.keep_alive
    out.upgrade_websocket = framing.upgrade_websocket
    out.connection_upgrade = framing.connection_upgrade
    return <int>head_len


cdef bint fields_check(const HttpField* fields, uint32_t fields_n, uint32_t head_len) noexcept nogil:
    cdef uint32_t i
    if head_len > HTTP_HEAD_MAX or fields_n > HTTP_FIELDS_MAX:
        return False
    for i in range(fields_n):
        if (
            fields[i].name_len == 0 or fields[i].kind >= KINDS_N
            or fields[i].name_off + fields[i].name_len >= fields[i].value_off
            or fields[i].value_off + fields[i].value_len + 4 > <int>head_len
        ):
            return False
    return True


cdef bint http_request_check(const HttpRequest* request) noexcept nogil:
    return (
        fields_check(request.fields, request.fields_n, request.head_len)
        and request.method <= HTTP_METHOD_OTHER and request.method_len > 0
        and request.target_off > request.method_len and request.path_len > 0
        and request.path_off >= request.target_off
        and request.path_off + request.path_len <= request.query_off
        and request.query_off + request.query_len == request.target_off + request.target_len
        and request.query_off + request.query_len + 4 <= <int>request.head_len
        and request.host_off + request.host_len + 4 <= <int>request.head_len
        and (request.host_n == 1 or (request.host_n == 0 and request.version_minor == 0))
        and not (request.chunked and request.content_length >= 0)
        and request.port <= 65535
    )


cdef bint http_response_check(const HttpResponse* response) noexcept nogil:
    return (
        fields_check(response.fields, response.fields_n, response.head_len)
        and 100 <= response.status <= 599
        and response.reason_off + response.reason_len + 4 <= <int>response.head_len
        and not (response.chunked and response.content_length >= 0)
    )


cdef bint http_key_valid(const uint8_t* key, size_t len) noexcept nogil:
    cdef size_t i
    if len != HTTP_WS_KEY_LEN or key[22] != c"=" or key[23] != c"=":
        return False
    for i in range(21):
        if not HTTP_CLASS[key[i]] & CLASS_BASE64:
            return False
    # The last character carries two bits; the four below must be zero.
    return key[21] == c"A" or key[21] == c"Q" or key[21] == c"g" or key[21] == c"w"


cdef int http_websocket_accept(const uint8_t* key24, uint8_t* out28) noexcept nogil:
    cdef const char* digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint8_t digest[21]
    cdef uint32_t three
    cdef int i
    cdef SHA_CTX context
    SHA1_Init(&context)
    SHA1_Update(&context, key24, HTTP_WS_KEY_LEN)
    SHA1_Update(&context, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36)
    SHA1_Final(digest, &context)
    digest[20] = 0
    for i in range(7):
        three = (
            (<uint32_t>digest[3 * i] << 16) | (<uint32_t>digest[3 * i + 1] << 8) | digest[3 * i + 2]
        )
        out28[4 * i] = digits[three >> 18]
        out28[4 * i + 1] = digits[(three >> 12) & 63]
        out28[4 * i + 2] = digits[(three >> 6) & 63]
        out28[4 * i + 3] = digits[three & 63]
    out28[27] = c"="
    return HTTP_WS_ACCEPT_LEN


KINDS = (
    "other", "host", "connection", "upgrade", "sec-websocket-key", "sec-websocket-version",
    "sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-accept", "authorization",
    "content-length", "transfer-encoding", "content-type", "expect", "accept", "origin", "cookie",
    "te", "via", "server", "keep-alive", "proxy-connection", "proxy", "x-forwarded-for",
    "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-path",
    "x-forwarded-prefix", "x-real-ip", "x-kong-request-id", "http2-settings", "identity",
)  # in the order of HttpFieldKind
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "OTHER")


class HttpRefused(ValueError):
    """Bytes that must be refused; `status` is what to answer, `too_large` why a 400 is one."""

    def __init__(self, code: int) -> None:
        self.status: int = http_refusal_status(code)
        self.too_large: bool = code == -(HTTP_REFUSED + HTTP_TOO_LARGE)
        super().__init__(f"refused with {self.status}")


cdef list fields_list(bytes data, const HttpField* fields, int fields_n):
    return [
        (
            data[fields[i].name_off:fields[i].name_off + fields[i].name_len],
            data[fields[i].value_off:fields[i].value_off + fields[i].value_len],
            KINDS[fields[i].kind], bool(fields[i].flags & HTTP_FLAG_HOP),
        )
        for i in range(fields_n)
    ]


def scan_head(pieces: list[bytes]) -> int:
    """Scan a head that arrives in pieces; 0 when it is not whole after the last."""
    cdef uint32_t scanned = 0
    cdef int result = 0
    data = bytearray()
    for piece in pieces:
        data += piece
        result = http_scan_head(data, len(data), &scanned)
        if result < 0:
            raise HttpRefused(result)
        if result > 0:
            break
    return result


def parse_request(data: bytes) -> dict:
    """Read a whole request head."""
    cdef HttpRequest out
    cdef const uint8_t* base = data
    cdef uint32_t size = len(data)
    cdef int result
    with nogil:
        result = http_parse_request(base, size, &out)
    if result < 0:
        raise HttpRefused(result)
    assert <uint32_t>result == out.head_len and http_request_check(&out)
    fields = fields_list(data, out.fields, out.fields_n)
    known = {
        "upgrade": out.upgrade, "ws_key": out.ws_key, "ws_version": out.ws_version,
        "ws_protocol": out.ws_protocol, "ws_extensions": out.ws_extensions,
        "authorization": out.authorization,
    }
    return {
        "method": data[:out.method_len], "method_kind": METHODS[out.method],
        "target": data[out.target_off:out.target_off + out.target_len],
        "path": data[out.path_off:out.path_off + out.path_len],
        "query": data[out.query_off:out.query_off + out.query_len] if out.has_query else None,
        "version_minor": out.version_minor, "fields": fields,
        "first": {name: fields[i][1] if i >= 0 else None for name, i in known.items()},
        "host_n": out.host_n, "ws_key_n": out.ws_key_n, "ws_version_n": out.ws_version_n,
        "authorization_n": out.authorization_n,
        "content_length": out.content_length, "chunked": bool(out.chunked),
        "keep_alive": bool(out.keep_alive), "upgrade_websocket": bool(out.upgrade_websocket),
        "connection_upgrade": bool(out.connection_upgrade),
        "expect_continue": bool(out.expect_continue),
        "host": data[out.host_off:out.host_off + out.host_len], "port": out.port,
    }


def parse_response(data: bytes) -> dict:
    """Read a whole response head."""
    cdef HttpResponse out
    cdef int result = http_parse_response(data, len(data), &out)
    if result < 0:
        raise HttpRefused(result)
    assert <uint32_t>result == out.head_len and http_response_check(&out)
    fields = fields_list(data, out.fields, out.fields_n)
    known = {
        "ws_accept": out.ws_accept, "ws_protocol": out.ws_protocol,
        "ws_extensions": out.ws_extensions, "server": out.server, "via": out.via,
    }
    return {
        "status": out.status, "reason": data[out.reason_off:out.reason_off + out.reason_len],
        "version_minor": out.version_minor, "fields": fields,
        "first": {name: fields[i][1] if i >= 0 else None for name, i in known.items()},
        "ws_accept_n": out.ws_accept_n, "ws_protocol_n": out.ws_protocol_n,
        "ws_extensions_n": out.ws_extensions_n,
        "content_length": out.content_length, "chunked": bool(out.chunked),
        "keep_alive": bool(out.keep_alive), "upgrade_websocket": bool(out.upgrade_websocket),
        "connection_upgrade": bool(out.connection_upgrade),
    }


def normalise_path(path: bytes) -> bytes:
    """Give the path that is routed by."""
    out = bytearray(len(path))
    cdef int result = http_normalise_path(path, len(path), out)
    if result < 0:
        raise HttpRefused(result)
    return bytes(out[:result])


def escape_path(path: bytes, capacity: int) -> bytes:
    """Give a normalised path as it goes to the upstream."""
    out = bytearray(capacity)
    cdef int result = http_escape_path(path, len(path), out, capacity)
    if result < 0:
        raise HttpRefused(result)
    return bytes(out[:result])


def read_chunked(pieces: list[bytes]) -> tuple[bytes, int, bool]:
    """Decode a chunked body that arrives in pieces: payload, bytes consumed, whether it ended."""
    cdef HttpChunked chunked
    cdef size_t off, length
    cdef int64_t step
    memset(&chunked, 0, sizeof(chunked))
    payload = bytearray()
    consumed = 0
    for piece in pieces:
        while piece and not http_chunked_done(&chunked):
            step = http_chunked_step(&chunked, piece, len(piece), &off, &length)
            if step < 0:
                raise HttpRefused(step)
            assert http_chunked_check(&chunked)
            payload += piece[off:off + length]
            piece = piece[step:]
            consumed += step
    return bytes(payload), consumed, bool(http_chunked_done(&chunked))


def key_valid(key: bytes) -> bool:
    """Tell whether a Sec-WebSocket-Key is 16 bytes in base64."""
    return bool(http_key_valid(key, len(key)))


def websocket_accept(key: bytes) -> bytes:
    """Give the Sec-WebSocket-Accept of a valid key."""
    cdef uint8_t out[HTTP_WS_ACCEPT_LEN]
    if not http_key_valid(key, len(key)):
        raise ValueError("not a Sec-WebSocket-Key")
    return out[:http_websocket_accept(key, out)]
