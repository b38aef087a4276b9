"""HTTP/1.1 heads and body framing, RFC 9112: bytes in, offsets out; what is ambiguous is refused.

Pure: no memory is taken, nothing is kept, only the bytes given are read.  Results: `> 0` bytes,
`0` more are needed, `-(HTTP_REFUSED + status)` for what must be refused with that status; the
connection must then be closed, as nobody knows where the next message starts.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HTTP_HEAD_MAX = 32768              # bytes of a head with its empty line
    HTTP_LINE_MAX = 8192               # bytes of a start line without CRLF; over it: 414
    HTTP_FIELD_LINE_MAX = 8192         # bytes of a field line without CRLF; over it: too large
    HTTP_FIELDS_MAX = 100              # field lines of a head
    HTTP_CONNECTION_OPTIONS_MAX = 32   # names in Connection besides close, keep-alive, upgrade
    HTTP_HOST_LEN_MAX = 255            # bytes of a host without its port
    HTTP_LENGTH_DIGITS_MAX = 18        # of Content-Length, so that it fits an int64
    HTTP_CHUNK_DIGITS_MAX = 15         # of a chunk size
    HTTP_CHUNK_EXTENSION_MAX = 1024    # bytes, a chunk
    HTTP_TRAILERS_MAX = 4096           # bytes, a body
    HTTP_WS_KEY_LEN = 24               # bytes of Sec-WebSocket-Key
    HTTP_WS_ACCEPT_LEN = 28            # bytes of Sec-WebSocket-Accept
    HTTP_REFUSED = 5000                # -(HTTP_REFUSED + status)
    HTTP_TOO_LARGE = 494               # in the place of a status: 400, "Request header or cookie too large"

cdef enum HttpMethod:
    HTTP_METHOD_GET, HTTP_METHOD_HEAD, HTTP_METHOD_POST, HTTP_METHOD_PUT, HTTP_METHOD_PATCH
    HTTP_METHOD_DELETE, HTTP_METHOD_OPTIONS, HTTP_METHOD_TRACE, HTTP_METHOD_CONNECT
    HTTP_METHOD_OTHER

cdef enum:                   # HttpFieldKind; without a name, as Cython indexes by no named enum
    HTTP_FIELD_OTHER, HTTP_FIELD_HOST, HTTP_FIELD_CONNECTION, HTTP_FIELD_UPGRADE
    HTTP_FIELD_SEC_WEBSOCKET_KEY, HTTP_FIELD_SEC_WEBSOCKET_VERSION
    HTTP_FIELD_SEC_WEBSOCKET_PROTOCOL, HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS
    HTTP_FIELD_SEC_WEBSOCKET_ACCEPT, HTTP_FIELD_AUTHORIZATION, HTTP_FIELD_CONTENT_LENGTH
    HTTP_FIELD_TRANSFER_ENCODING, HTTP_FIELD_CONTENT_TYPE, HTTP_FIELD_EXPECT, HTTP_FIELD_ACCEPT
    HTTP_FIELD_ORIGIN, HTTP_FIELD_COOKIE, HTTP_FIELD_TE, HTTP_FIELD_VIA, HTTP_FIELD_SERVER
    HTTP_FIELD_KEEP_ALIVE, HTTP_FIELD_PROXY_CONNECTION, HTTP_FIELD_PROXY, HTTP_FIELD_X_FORWARDED_FOR
    HTTP_FIELD_X_FORWARDED_PROTO, HTTP_FIELD_X_FORWARDED_HOST, HTTP_FIELD_X_FORWARDED_PORT
    HTTP_FIELD_X_FORWARDED_PATH, HTTP_FIELD_X_FORWARDED_PREFIX, HTTP_FIELD_X_REAL_IP
    HTTP_FIELD_X_KONG_REQUEST_ID, HTTP_FIELD_HTTP2_SETTINGS
    HTTP_FIELD_IDENTITY      # X-Consumer-*, X-Credential-*, X-Authenticated-*, X-Anonymous-Consumer,
                             # in any case and with `_` for `-`: never forwarded (S54)

cdef enum HttpFieldFlag:
    HTTP_FLAG_HOP = 1        # must not be forwarded: hop-by-hop by itself, named in Connection,
                             # IDENTITY, or a known name spelt with `_`

cdef enum HttpChunkedState:
    HTTP_CHUNKED_SIZE, HTTP_CHUNKED_EXT_START, HTTP_CHUNKED_EXT_NAME, HTTP_CHUNKED_EXT_VALUE_START
    HTTP_CHUNKED_EXT_VALUE, HTTP_CHUNKED_EXT_QUOTED, HTTP_CHUNKED_EXT_ESCAPED
    HTTP_CHUNKED_EXT_QUOTED_END, HTTP_CHUNKED_SIZE_LF, HTTP_CHUNKED_DATA, HTTP_CHUNKED_DATA_CR
    HTTP_CHUNKED_DATA_LF, HTTP_CHUNKED_TRAILER_START, HTTP_CHUNKED_TRAILER_NAME
    HTTP_CHUNKED_TRAILER_VALUE, HTTP_CHUNKED_TRAILER_LF, HTTP_CHUNKED_END_LF, HTTP_CHUNKED_DONE

cdef struct HttpField:
    uint16_t name_off        # bytes from the start of the head, as all offsets below
    uint16_t name_len        # at least 1; as the peer spelt it
    uint16_t value_off
    uint16_t value_len       # without the white space around it; may be 0
    uint8_t kind             # HttpFieldKind
    uint8_t flags            # HttpFieldFlag

cdef struct HttpRequest:
    uint32_t head_len        # bytes with the empty line
    uint8_t method           # HttpMethod
    uint16_t method_len      # at offset 0
    uint16_t target_off, target_len
    uint16_t path_off, path_len      # raw, no query; never empty; `*` for OPTIONS *
    uint16_t query_off, query_len    # without the `?`
    bint has_query           # there was a `?`, the query may be empty
    uint8_t version_minor    # 0 or 1
    uint16_t fields_n        # fields[0:fields_n] are filled, the rest is garbage
    HttpField fields[HTTP_FIELDS_MAX]
    int16_t host, upgrade, ws_key, ws_version, ws_protocol, ws_extensions
    int16_t authorization    # these seven: index of the first field of that name, or -1
    uint8_t host_n, ws_key_n, ws_version_n, authorization_n   # how many there are
    int64_t content_length   # bytes, -1: no such field
    bint chunked             # never together with content_length
    bint keep_alive
    bint upgrade_websocket   # the first value of the first Upgrade is websocket
    bint connection_upgrade  # Connection has the option upgrade
    bint expect_continue
    uint16_t host_off, host_len      # of Host without port; an IPv6 address with its brackets;
                                     # 0, 0 for HTTP/1.0 without Host
    uint32_t port            # of Host, 0: none
    # Invariant: every offset + length <= head_len; host_n == 1 unless version_minor == 0.

cdef struct HttpResponse:
    uint32_t head_len        # bytes with the empty line
    uint16_t status          # 100..599
    uint16_t reason_off, reason_len
    uint8_t version_minor    # 0 or 1
    uint16_t fields_n
    HttpField fields[HTTP_FIELDS_MAX]
    int16_t ws_accept, ws_protocol, ws_extensions, server, via   # index of the first, or -1
    uint8_t ws_accept_n, ws_protocol_n, ws_extensions_n          # how many there are
    int64_t content_length   # bytes, -1: no such field
    bint chunked             # never together with content_length
    bint keep_alive          # as far as the head says
    bint upgrade_websocket
    bint connection_upgrade
    # Invariant: every offset + length <= head_len.

cdef struct HttpChunked:     # all zero to start
    uint64_t left            # payload bytes of this chunk still to come
    uint32_t overhead        # bytes of this chunk's extensions, or of the trailers, so far
    uint8_t digits           # of the size line, so far
    uint8_t state            # HttpChunkedState
    # Invariant: digits <= HTTP_CHUNK_DIGITS_MAX; overhead <= HTTP_TRAILERS_MAX; left is 0 from the trailers on.

# Finds the end of a growing head: `data` starts at its first byte in every call, `size` never
# shrinks.  `*scanned` is the scan's own memory: 0 at first, opaque, no offset.
# Returns bytes of the head, 0, or the refusal.
cdef int http_scan_head(const uint8_t* data, size_t size, uint32_t* scanned) noexcept nogil

# Read a whole head.  Borrow `data`; unless the result is positive (head_len), `out` is garbage.
cdef int http_parse_request(const uint8_t* data, uint32_t head_len, HttpRequest* out) noexcept nogil
cdef int http_parse_response(const uint8_t* data, uint32_t head_len, HttpResponse* out) noexcept nogil
cdef bint http_request_check(const HttpRequest* request) noexcept nogil
cdef bint http_response_check(const HttpResponse* response) noexcept nogil

# Writes the path that is routed by; `out` holds `len` bytes and may be `path` itself.
# No control byte is in the result.  Returns its bytes (1..len) or the refusal.
cdef int http_normalise_path(const uint8_t* path, uint32_t len, uint8_t* out) noexcept nogil

# Writes a normalised path as it goes to the upstream: what is neither reserved nor unreserved is
# percent-encoded.  Returns its bytes, or the refusal (414) when `capacity` does not hold them.
cdef int http_escape_path(const uint8_t* path, uint32_t len, uint8_t* out,
                          uint32_t capacity) noexcept nogil

# One step of a chunked body: ends at the first run of payload, at the end of the body or of `data`.
# Returns bytes consumed (0 only for size 0 and when done) or the refusal (400).  The run, if any,
# is data[payload_off:payload_off + payload_len].
cdef int64_t http_chunked_step(HttpChunked* chunked, const uint8_t* data, size_t size,
                               size_t* payload_off, size_t* payload_len) noexcept nogil
cdef bint http_chunked_check(const HttpChunked* chunked) noexcept nogil

# RFC 6455 §4.2.2: writes the 28 bytes that answer a valid key.  Returns 28.
cdef int http_websocket_accept(const uint8_t* key24, uint8_t* out28) noexcept nogil
cdef bint http_key_valid(const uint8_t* key, size_t len) noexcept nogil


cdef inline int http_refusal_status(int code) noexcept nogil:
    """Give the status to answer with for a negative result of this module."""
    return 400 if code == -(HTTP_REFUSED + HTTP_TOO_LARGE) else -code - HTTP_REFUSED


cdef inline bint http_chunked_done(const HttpChunked* chunked) noexcept nogil:
    """Tell whether the body's last byte has been consumed."""
    return chunked.state == HTTP_CHUNKED_DONE
