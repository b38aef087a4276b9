"""Request targets, authorities and paths.  Part of _http.pyx."""

cdef bint ipv6_valid(const uint8_t* text, uint32_t len) noexcept nogil:
    """Tell whether the bytes between brackets are an IPv6 address."""
    cdef char copy[46]
    cdef uint8_t address[16]
    if len >= sizeof(copy):
        return False
    memcpy(copy, text, len)
    copy[len] = 0
    return inet_pton(AF_INET6, copy, address) == 1


cdef bint authority_read(const uint8_t* text, uint32_t len, Authority* out) noexcept nogil:
    """Read host and port.  RFC 9112 §3.2; False: malformed."""
    cdef uint32_t at = 0
    cdef uint32_t first
    out.port = 0
    if len and text[0] == c"[":
        while at < len and text[at] != c"]":
            at += 1
        if at == len or not ipv6_valid(text + 1, at - 1):
            return False
        at += 1
    else:
        while at < len and HTTP_CLASS[text[at]] & CLASS_HOST:
            if text[at] == c"." and (at == 0 or text[at - 1] == c"."):
                return False
            at += 1
    if at == 0 or at > HTTP_HOST_LEN_MAX:
        return False
    out.host_len = at
    if at == len:
        return True
    at += 1
    first = at
    if text[at - 1] != c":" or at == len or len - at > 5 or text[at] == c"0":
        return False
    while at < len:
        if <uint8_t>(text[at] - c"0") > 9:
            return False
        out.port = out.port * 10 + (text[at] - c"0")
        at += 1
    return out.port <= 65535


cdef uint32_t scheme_read(const uint8_t* at, uint32_t* default_port) noexcept nogil:
    """Give the bytes of `http://` or its kin at the start of an absolute target, 0 for others."""
    cdef uint8_t first = lower(at[0])
    cdef uint32_t letters
    if first == c"h" and equal_folded(at, b"http", 4):
        letters = 4
    elif first == c"w" and lower(at[1]) == c"s":
        letters = 2
    else:
        return 0
    default_port[0] = 80
    if lower(at[letters]) == c"s":
        letters += 1
        default_port[0] = 443
    return letters + 3 if memcmp(at + letters, b"://", 3) == 0 else 0


cdef uint32_t path_end(const uint8_t* data, uint32_t off) noexcept nogil:
    """Walk a path up to its `?` or to the byte that ends the target; 0 for a broken escape."""
    while True:
        while HTTP_CLASS[data[off]] & CLASS_PATH:
            off += 1
        if data[off] != c"%":
            return off
        if not (HTTP_CLASS[data[off + 1]] & CLASS_HEX and HTTP_CLASS[data[off + 2]] & CLASS_HEX):
            return 0
        off += 3


cdef uint32_t authority_skip(
    const uint8_t* data, uint32_t off, HttpRequest* out, Target* target
) noexcept nogil:
    """Walk scheme and authority of an absolute target.  Returns the offset after them, or 0.

    A target without a path gets the last slash of `://` for it.
    """
    cdef uint32_t scheme_len = scheme_read(data + off, &target.default_port)
    if scheme_len == 0:
        return 0
    off += scheme_len
    out.path_off = <uint16_t>(off - 1)
    out.path_len = 1
    target.authority_off = off
    while HTTP_CLASS[data[off]] & CLASS_PATH and data[off] != c"/":
        off += 1
    target.authority_len = off - target.authority_off
    return off if target.authority_len else 0


cdef int target_read(
    const uint8_t* data, uint32_t off, HttpRequest* out, Target* target
) noexcept nogil:
    """Read the request target at `off`.  RFC 9112 §3.2.  Returns the offset after it, or -400."""
    memset(target, 0, sizeof(Target))
    out.target_off = <uint16_t>off
    if data[off] != c"/" and data[off] != c"*":
        off = authority_skip(data, off, out, target)
        if off == 0:
            return -400
    if data[off] == c"/":
        out.path_off = <uint16_t>off
        off = path_end(data, off)
        if off == 0:
            return -400
        out.path_len = <uint16_t>(off - out.path_off)
    elif data[off] == c"*":
        if out.method != HTTP_METHOD_OPTIONS or data[off + 1] != c" ":
            return -400
        out.path_off = <uint16_t>off
        out.path_len = 1
        off += 1
    out.has_query = data[off] == c"?"
    out.query_off = <uint16_t>off
    out.query_len = 0
    if out.has_query:
        off += 1
        out.query_off = <uint16_t>off
        while HTTP_CLASS[data[off]] & CLASS_PATH or data[off] == c"?" or data[off] == c"%":
            off += 1
        out.query_len = <uint16_t>(off - out.query_off)
    out.target_len = <uint16_t>(off - out.target_off)
    return <int>off


cdef bint host_read(const uint8_t* data, HttpRequest* out, const Target* target) noexcept nogil:
    """Read Host and hold an absolute target against it.  RFC 9112 §3.2, §3.3.  False: malformed."""
    cdef const HttpField* field
    cdef Authority host, named
    out.host_off = out.host_len = 0
    out.port = 0
    if target.authority_len and not authority_read(
        data + target.authority_off, target.authority_len, &named
    ):
        return False
    if out.host_n == 0:
        return out.version_minor == 0
    field = &out.fields[out.host]
    if out.host_n > 1 or not authority_read(data + field.value_off, field.value_len, &host):
        return False
    out.host_off = field.value_off
    out.host_len = <uint16_t>host.host_len
    out.port = host.port
    return target.authority_len == 0 or (
        named.host_len == host.host_len
        and (named.port or target.default_port) == (host.port or target.default_port)
        and equal_folded(data + target.authority_off, data + field.value_off, host.host_len)
    )


cdef uint32_t dots_remove(const uint8_t* path, uint32_t segment, uint32_t len) noexcept nogil:
    """Give the length of path[:len] without its last segment if that is `.` or `..`.

    What is left then ends with a slash.
    """
    if len - segment == 1 and path[segment] == c".":
        return segment
    if len - segment == 2 and path[segment] == c"." and path[segment + 1] == c".":
        if segment > 1:
            segment -= 1
        while path[segment - 1] != c"/":
            segment -= 1
        return segment
    return len


cdef int http_normalise_path(const uint8_t* path, uint32_t len, uint8_t* out) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t n = 0
    cdef uint32_t segment = 0
    cdef uint8_t byte
    if len == 1 and path[0] == c"*":
        out[0] = c"*"
        return 1
    if len == 0 or len > HTTP_LINE_MAX or path[0] != c"/":
        return refuse(400)
    while at < len:
        byte = path[at]
        at += 1
        if byte == c"/":
            n = dots_remove(out, segment, n)
            if n == 0 or out[n - 1] != c"/":
                out[n] = c"/"
                n += 1
            segment = n
            continue
        if byte == c"%":
            if len - at < 2 or not HTTP_CLASS[path[at]] & HTTP_CLASS[path[at + 1]] & CLASS_HEX:
                return refuse(400)
            byte = (hex_value(path[at]) << 4) | hex_value(path[at + 1])
            at += 2
            if byte == 0:
                return refuse(400)
            if HTTP_CLASS[byte] & CLASS_KEEP:
                out[n] = c"%"
                out[n + 1] = hex_digit(byte >> 4)
                out[n + 2] = hex_digit(byte & 15)
                n += 3
                continue
        elif not HTTP_CLASS[byte] & CLASS_PATH:
            return refuse(400)
        out[n] = byte
        n += 1
    return <int>dots_remove(out, segment, n)


cdef int http_escape_path(
    const uint8_t* path, uint32_t len, uint8_t* out, uint32_t capacity
) noexcept nogil:
    cdef uint32_t n = 0
    cdef uint32_t i
    for i in range(len):
        if capacity - n < (3 if HTTP_CLASS[path[i]] & CLASS_ESCAPE else 1):
            return refuse(414)
        if HTTP_CLASS[path[i]] & CLASS_ESCAPE:
            out[n] = c"%"
            out[n + 1] = hex_digit(path[i] >> 4)
            out[n + 2] = hex_digit(path[i] & 15)
            n += 3
        else:
            out[n] = path[i]
            n += 1
    return <int>n
