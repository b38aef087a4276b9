"""What the name of a field or a method means.  Part of _http.pyx."""

cdef inline bint name_is(const uint8_t* name, const char* known, uint32_t len) noexcept nogil:
    """Compare the first `len` (4..24) bytes of a token with a lower-case literal.

    Or-ing 0x20 lowers letters and, in a token, makes no other byte a letter, digit or `-`.
    """
    cdef const uint8_t* other = <const uint8_t*>known
    cdef uint64_t fold = 0x2020202020202020
    if len < 8:
        return (
            (half_at(name) | <uint32_t>fold) == half_at(other)
            and (half_at(name + len - 4) | <uint32_t>fold) == half_at(other + len - 4)
        )
    return (
        (word_at(name) | fold) == word_at(other)
        and (word_at(name + len - 8) | fold) == word_at(other + len - 8)
        and (len <= 16 or (word_at(name + 8) | fold) == word_at(other + 8))
    )


cdef inline uint8_t identity_kind(const uint8_t* name, uint32_t len) noexcept nogil:
    """Tell the names by which an upstream learns who the client is from all others (S54)."""
    if (
        (len >= 11 and name_is(name, b"x-consumer-", 11))
        or (len >= 13 and name_is(name, b"x-credential-", 13))
        or (len >= 16 and name_is(name, b"x-authenticated-", 16))
        or (len == 20 and name_is(name, b"x-anonymous-consumer", 20))
    ):
        return HTTP_FIELD_IDENTITY
    return HTTP_FIELD_OTHER


cdef uint8_t field_kind(const uint8_t* name, uint32_t len) noexcept nogil:
    """Give the HttpFieldKind of a token; reads no byte past KNOWN_NAME_MAX."""
    if len == 2:
        if (name[0] | 0x20) == c"t" and (name[1] | 0x20) == c"e":
            return HTTP_FIELD_TE
    elif len == 3:
        if (name[0] | 0x20) == c"v" and (name[1] | 0x20) == c"i" and (name[2] | 0x20) == c"a":
            return HTTP_FIELD_VIA
    elif len == 4:
        if name_is(name, b"host", 4):
            return HTTP_FIELD_HOST
    elif len == 5:
        if name_is(name, b"proxy", 5):
            return HTTP_FIELD_PROXY
    elif len == 6:
        if name_is(name, b"accept", 6):
            return HTTP_FIELD_ACCEPT
        if name_is(name, b"origin", 6):
            return HTTP_FIELD_ORIGIN
        if name_is(name, b"cookie", 6):
            return HTTP_FIELD_COOKIE
        if name_is(name, b"server", 6):
            return HTTP_FIELD_SERVER
        if name_is(name, b"expect", 6):
            return HTTP_FIELD_EXPECT
    elif len == 7:
        if name_is(name, b"upgrade", 7):
            return HTTP_FIELD_UPGRADE
    elif len == 9:
        if name_is(name, b"x-real-ip", 9):
            return HTTP_FIELD_X_REAL_IP
    elif len == 10:
        if name_is(name, b"connection", 10):
            return HTTP_FIELD_CONNECTION
        if name_is(name, b"keep-alive", 10):
            return HTTP_FIELD_KEEP_ALIVE
    elif len == 12:
        if name_is(name, b"content-type", 12):
            return HTTP_FIELD_CONTENT_TYPE
    elif len == 13:
        if name_is(name, b"authorization", 13):
            return HTTP_FIELD_AUTHORIZATION
    elif len == 14:
        if name_is(name, b"content-length", 14):
            return HTTP_FIELD_CONTENT_LENGTH
        if name_is(name, b"http2-settings", 14):
            return HTTP_FIELD_HTTP2_SETTINGS
    elif len == 15:
        if name_is(name, b"x-forwarded-for", 15):
            return HTTP_FIELD_X_FORWARDED_FOR
    elif len == 16:
        if name_is(name, b"x-forwarded-host", 16):
            return HTTP_FIELD_X_FORWARDED_HOST
        if name_is(name, b"x-forwarded-port", 16):
            return HTTP_FIELD_X_FORWARDED_PORT
        if name_is(name, b"x-forwarded-path", 16):
            return HTTP_FIELD_X_FORWARDED_PATH
        if name_is(name, b"proxy-connection", 16):
            return HTTP_FIELD_PROXY_CONNECTION
    elif len == 17:
        if name_is(name, b"sec-websocket-key", 17):
            return HTTP_FIELD_SEC_WEBSOCKET_KEY
        if name_is(name, b"transfer-encoding", 17):
            return HTTP_FIELD_TRANSFER_ENCODING
        if name_is(name, b"x-forwarded-proto", 17):
            return HTTP_FIELD_X_FORWARDED_PROTO
        if name_is(name, b"x-kong-request-id", 17):
            return HTTP_FIELD_X_KONG_REQUEST_ID
    elif len == 18:
        if name_is(name, b"x-forwarded-prefix", 18):
            return HTTP_FIELD_X_FORWARDED_PREFIX
    elif len == 20:
        if name_is(name, b"sec-websocket-accept", 20):
            return HTTP_FIELD_SEC_WEBSOCKET_ACCEPT
    elif len == 21:
        if name_is(name, b"sec-websocket-version", 21):
            return HTTP_FIELD_SEC_WEBSOCKET_VERSION
    elif len == 22:
        if name_is(name, b"sec-websocket-protocol", 22):
            return HTTP_FIELD_SEC_WEBSOCKET_PROTOCOL
    elif len == 24:
        if name_is(name, b"sec-websocket-extensions", 24):
            return HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS
    return identity_kind(name, len) if (name[0] | 0x20) == c"x" else HTTP_FIELD_OTHER


cdef inline uint8_t hop_flag(uint8_t kind) noexcept nogil:
    """Give HTTP_FLAG_HOP for what is never forwarded (RFC 9110 §7.6.1, RFC 7540 §3.2.1, S54)."""
    cdef uint64_t hop_kinds = (
        (1 << HTTP_FIELD_CONNECTION) | (1 << HTTP_FIELD_UPGRADE) | (1 << HTTP_FIELD_TE)
        | (1 << HTTP_FIELD_TRANSFER_ENCODING) | (1 << HTTP_FIELD_KEEP_ALIVE)
        | (1 << HTTP_FIELD_PROXY) | (1 << HTTP_FIELD_PROXY_CONNECTION)
        | (<uint64_t>1 << HTTP_FIELD_HTTP2_SETTINGS) | (<uint64_t>1 << HTTP_FIELD_IDENTITY)
    )
    return <uint8_t>(hop_kinds >> kind) & HTTP_FLAG_HOP


cdef void field_name_underscored(const uint8_t* name, HttpField* field) noexcept nogil:
    """Set kind and flags of a name with `_` by what it is when those are read as `-`."""
    cdef uint8_t folded[KNOWN_NAME_MAX]
    cdef uint32_t i
    cdef uint32_t len = field.name_len
    for i in range(len if len < KNOWN_NAME_MAX else KNOWN_NAME_MAX):
        folded[i] = c"-" if name[i] == c"_" else name[i]
    field.kind = field_kind(folded, len)
    field.flags = HTTP_FLAG_HOP if field.kind != HTTP_FIELD_OTHER else 0
    if field.kind != HTTP_FIELD_IDENTITY:
        field.kind = HTTP_FIELD_OTHER


cdef inline uint8_t method_known(const uint8_t* name, uint32_t len) noexcept nogil:
    """Give the HttpMethod of a token.  Methods are case-sensitive (RFC 9110 §9.1)."""
    if len == 3:
        if memcmp(name, b"GET", 3) == 0:
            return HTTP_METHOD_GET
        if memcmp(name, b"PUT", 3) == 0:
            return HTTP_METHOD_PUT
    elif len == 4:
        if memcmp(name, b"POST", 4) == 0:
            return HTTP_METHOD_POST
        if memcmp(name, b"HEAD", 4) == 0:
            return HTTP_METHOD_HEAD
    elif len == 5:
        if memcmp(name, b"PATCH", 5) == 0:
            return HTTP_METHOD_PATCH
        if memcmp(name, b"TRACE", 5) == 0:
            return HTTP_METHOD_TRACE
    elif len == 6:
        if memcmp(name, b"DELETE", 6) == 0:
            return HTTP_METHOD_DELETE
    elif len == 7:
        if memcmp(name, b"OPTIONS", 7) == 0:
            return HTTP_METHOD_OPTIONS
        if memcmp(name, b"CONNECT", 7) == 0:
            return HTTP_METHOD_CONNECT
    return HTTP_METHOD_OTHER
