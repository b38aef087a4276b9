"""Chunked bodies, RFC 9112 §7.1.  Part of _http.pyx."""

cdef int size_byte(HttpChunked* chunked, uint8_t byte) noexcept nogil:
    """Take a byte of a size line up to its extensions.  Returns the next state, or -1."""
    if HTTP_CLASS[byte] & CLASS_HEX:
        if chunked.digits == HTTP_CHUNK_DIGITS_MAX:
            return -1
        chunked.digits += 1
        chunked.left = (chunked.left << 4) | hex_value(byte)
        return HTTP_CHUNKED_SIZE
    if chunked.digits == 0:
        return -1
    return after_extension(byte)


cdef inline int after_extension(uint8_t byte) noexcept nogil:
    if byte == c"\r":
        return HTTP_CHUNKED_SIZE_LF
    return HTTP_CHUNKED_EXT_START if byte == c";" else -1


cdef int extension_byte(uint8_t state, uint8_t byte) noexcept nogil:
    """Take a byte of a chunk extension.  RFC 9112 §7.1.1.  Returns the next state, or -1."""
    if state == HTTP_CHUNKED_EXT_START:
        return HTTP_CHUNKED_EXT_NAME if is_token(byte) else -1
    if state == HTTP_CHUNKED_EXT_NAME:
        if byte == c"=":
            return HTTP_CHUNKED_EXT_VALUE_START
        return HTTP_CHUNKED_EXT_NAME if is_token(byte) else after_extension(byte)
    if state == HTTP_CHUNKED_EXT_VALUE_START:
        if byte == c'"':
            return HTTP_CHUNKED_EXT_QUOTED
        return HTTP_CHUNKED_EXT_VALUE if is_token(byte) else -1
    if state == HTTP_CHUNKED_EXT_VALUE:
        return HTTP_CHUNKED_EXT_VALUE if is_token(byte) else after_extension(byte)
    if state == HTTP_CHUNKED_EXT_QUOTED:
        if byte == c'"':
            return HTTP_CHUNKED_EXT_QUOTED_END
        if byte == c"\\":
            return HTTP_CHUNKED_EXT_ESCAPED
        return HTTP_CHUNKED_EXT_QUOTED if is_text(byte) else -1
    if state == HTTP_CHUNKED_EXT_ESCAPED:
        return HTTP_CHUNKED_EXT_QUOTED if is_text(byte) else -1
    return after_extension(byte)


cdef int trailer_byte(uint8_t state, uint8_t byte) noexcept nogil:
    """Take a byte behind the last chunk.  RFC 9112 §7.1.2.  Returns the next state, or -1."""
    if state == HTTP_CHUNKED_TRAILER_START:
        if byte == c"\r":
            return HTTP_CHUNKED_END_LF
        return HTTP_CHUNKED_TRAILER_NAME if is_token(byte) else -1
    if state == HTTP_CHUNKED_TRAILER_NAME:
        if byte == c":":
            return HTTP_CHUNKED_TRAILER_VALUE
        return HTTP_CHUNKED_TRAILER_NAME if is_token(byte) else -1
    if state == HTTP_CHUNKED_TRAILER_VALUE:
        if byte == c"\r":
            return HTTP_CHUNKED_TRAILER_LF
        return HTTP_CHUNKED_TRAILER_VALUE if is_text(byte) else -1
    if byte != c"\n":
        return -1
    return HTTP_CHUNKED_DONE if state == HTTP_CHUNKED_END_LF else HTTP_CHUNKED_TRAILER_START


cdef int chunked_byte(HttpChunked* chunked, uint8_t byte) noexcept nogil:
    """Take a byte that is no payload.  Returns the next state, or -1."""
    cdef uint8_t state = chunked.state
    if state == HTTP_CHUNKED_SIZE:
        return size_byte(chunked, byte)
    if state <= HTTP_CHUNKED_EXT_QUOTED_END:
        chunked.overhead += 1
        if chunked.overhead > HTTP_CHUNK_EXTENSION_MAX:
            return -1
        return extension_byte(state, byte)
    if state >= HTTP_CHUNKED_TRAILER_START:
        chunked.overhead += 1
        return -1 if chunked.overhead > HTTP_TRAILERS_MAX else trailer_byte(state, byte)
    if state == HTTP_CHUNKED_DATA_CR:
        return HTTP_CHUNKED_DATA_LF if byte == c"\r" else -1
    if byte != c"\n":
        return -1
    chunked.overhead = 0
    chunked.digits = 0
    if state == HTTP_CHUNKED_DATA_LF:
        return HTTP_CHUNKED_SIZE
    return HTTP_CHUNKED_DATA if chunked.left else HTTP_CHUNKED_TRAILER_START


cdef int64_t http_chunked_step(HttpChunked* chunked, const uint8_t* data, size_t size,
                               size_t* payload_off, size_t* payload_len) noexcept nogil:
    cdef size_t at = 0
    cdef int state
    payload_off[0] = payload_len[0] = 0
    while at < size and chunked.state != HTTP_CHUNKED_DONE:
        if chunked.state == HTTP_CHUNKED_DATA:
            payload_off[0] = at
            payload_len[0] = size - at if size - at < chunked.left else chunked.left
            chunked.left -= payload_len[0]
            if chunked.left == 0:
                chunked.state = HTTP_CHUNKED_DATA_CR
            return <int64_t>(at + payload_len[0])
        state = chunked_byte(chunked, data[at])
        if state < 0:
            return refuse(400)
        chunked.state = <uint8_t>state
        at += 1
    return <int64_t>at


cdef bint http_chunked_check(const HttpChunked* chunked) noexcept nogil:
    return (
        chunked.state <= HTTP_CHUNKED_DONE and chunked.digits <= HTTP_CHUNK_DIGITS_MAX
        and chunked.overhead <= HTTP_TRAILERS_MAX
        and (chunked.state < HTTP_CHUNKED_TRAILER_START or chunked.left == 0)
    )
