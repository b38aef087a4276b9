"""Parameters in queries and bodies, as far as one of them may be the token or a ticket.

Nothing is validated beyond what finding one takes: what goes on to the upstream is the
upstream's to read, and a token found in broken JSON must be as good as any.
"""


# --- forms ------------------------------------------------------------------------------------------


cdef inline int _unhex(uint8_t digit) noexcept nogil:
    if 48 <= digit <= 57:
        return digit - 48
    digit |= 0x20
    return digit - 87 if 97 <= digit <= 102 else -1


cdef uint32_t _decode(const uint8_t* data, uint32_t size, uint8_t* out) noexcept nogil:
    """Decode a form-encoded name or value; a broken escape stays as it is.  Returns its bytes."""
    cdef uint32_t at = 0
    cdef uint32_t to = 0
    while at < size:
        if data[at] == 37 and at + 2 < size and _unhex(data[at + 1]) >= 0 <= _unhex(data[at + 2]):
            out[to] = <uint8_t>(_unhex(data[at + 1]) * 16 + _unhex(data[at + 2]))
            at += 3
        else:
            out[to] = 32 if data[at] == 43 else data[at]
            at += 1
        to += 1
    return to


cdef bint param_is(const uint8_t* part, uint32_t size, const char* name) noexcept nogil:
    cdef const uint8_t* equals = <const uint8_t*>memchr(part, 61, size)
    cdef uint32_t has = <uint32_t>(equals - part) if equals != NULL else size
    cdef uint32_t wanted = <uint32_t>strlen(name)
    cdef uint8_t text[3 * PARAM_NAME_MAX]
    if has < wanted or has > 3 * wanted:
        return False
    return _decode(part, has, text) == wanted and memcmp(text, name, wanted) == 0


cdef inline uint32_t _part(const uint8_t* form, uint32_t size) noexcept nogil:
    """Bytes up to the next `&`, or all."""
    cdef const uint8_t* end = <const uint8_t*>memchr(form, 38, size)
    return <uint32_t>(end - form) if end != NULL else size


cdef int form_value(
    const uint8_t* form, uint32_t size, const char* name, uint8_t* out, Span* found
) noexcept nogil:
    cdef const uint8_t* value
    cdef uint32_t part
    cdef int count = 0
    found.size = 0
    while size:
        part = _part(form, size)
        if param_is(form, part, name):
            count += 1
            if count == 2:
                return 2
            value = <const uint8_t*>memchr(form, 61, part)
            if value != NULL:
                value += 1
                found.size = part - <uint32_t>(value - form)
                found.data = value
                if found.size <= PARAM_VALUE_MAX:
                    found.size = _decode(value, found.size, out)
                    found.data = out
        if part < size:
            part += 1
        form += part
        size -= part
    return count


cdef uint32_t form_hide_token(uint8_t* form, uint32_t size) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t to = 0
    cdef uint32_t part
    cdef bint first = True
    while at <= size:  # an empty part may be the last
        part = _part(form + at, size - at)
        if not param_is(form + at, part, token_param()):
            if not first:
                form[to] = 38
                to += 1
            first = False
            memmove(form + to, form + at, part)
            to += part
        at += part + 1
    return to


# --- JSON -------------------------------------------------------------------------------------------


cdef uint32_t _space(const uint8_t* text, uint32_t at, uint32_t size) noexcept nogil:
    while at < size and (text[at] == 32 or 9 <= text[at] <= 10 or text[at] == 13):
        at += 1
    return at


cdef uint32_t _string(const uint8_t* text, uint32_t at, uint32_t size, bint* plain) noexcept nogil:
    """Where the string that starts at `at` has its closing quote; `size` when it has none."""
    plain[0] = True
    at += 1
    while at < size and text[at] != 34:
        if text[at] == 92:
            plain[0] = False
            at += 1
        at += 1
    return at if at < size else size


cdef uint32_t _value(const uint8_t* text, uint32_t at, uint32_t size) noexcept nogil:
    """Behind a value: at the comma or brace of the object that it is in."""
    cdef uint32_t depth = 0
    cdef bint plain
    while at < size:
        if text[at] == 34:
            at = _string(text, at, size, &plain)
        elif text[at] == 123 or text[at] == 91:
            depth += 1
        elif depth and (text[at] == 125 or text[at] == 93):
            depth -= 1
        elif depth == 0 and (text[at] == 44 or text[at] == 125):
            return at
        at += 1
    return size


cdef int json_token(const uint8_t* text, uint32_t size, Span* token) noexcept nogil:
    cdef uint32_t at = _space(text, 0, size)
    cdef uint32_t name, end
    cdef int count = 0
    cdef bint plain
    token.size = 0
    if at == size or text[at] != 123:
        return 0
    while True:
        at = name = _space(text, at + 1, size)
        if at >= size or text[at] != 34:
            return count
        end = _string(text, at, size, &plain)
        at = _space(text, end + 1, size)
        if at >= size or text[at] != 58:
            return count
        at = _space(text, at + 1, size)
        if end - name == 13 and memcmp(text + name + 1, b"access_token", 12) == 0:
            count += 1
            token.size = 0
            if at < size and text[at] == 34:
                end = _string(text, at, size, &plain)
                if plain and end < size:
                    token.data = text + at + 1
                    token.size = end - at - 1
        at = _value(text, at, size)
        if at >= size or text[at] != 44:
            return count


# --- multipart --------------------------------------------------------------------------------------


cdef bint _is_named(
    const uint8_t* text, uint32_t size, const char* name, uint32_t name_size
) noexcept nogil:
    """Whether this begins with a name in lower case, however it is spelt itself."""
    cdef uint32_t i
    if size < name_size:
        return False
    for i in range(name_size):
        if (text[i] | 0x20 if 65 <= text[i] <= 90 else text[i]) != <uint8_t>name[i]:
            return False
    return True


cdef void header_param(
    const uint8_t* value, uint32_t size, const char* name, Span* found
) noexcept nogil:
    cdef uint32_t name_size = <uint32_t>strlen(name)
    cdef uint32_t at = 0
    cdef uint32_t end
    cdef bint plain
    found.size = 0
    while True:
        while at < size and value[at] != 59:
            if value[at] == 34:
                at = _string(value, at, size, &plain)
            at += 1
        at += 1
        while at < size and (value[at] == 32 or value[at] == 9):
            at += 1
        if at >= size:
            return
        if _is_named(value + at, size - at, name, name_size):
            at += name_size
            if at < size and value[at] == 61:
                break
    at += 1
    if at < size and value[at] == 34:
        end = _string(value, at, size, &plain)
        if end == size:
            return
        at += 1
    else:
        end = at
        while end < size and value[end] != 59 and value[end] != 32 and value[end] != 9:
            end += 1
    found.data = value + at
    found.size = end - at


cdef uint32_t _where(
    const uint8_t* text, uint32_t at, uint32_t size, const void* wanted, uint32_t wanted_size
) noexcept nogil:
    """Where this stands next, from `at` on; `size` when nowhere."""
    cdef const uint8_t* found
    if at >= size:
        return size
    found = <const uint8_t*>memmem(text + at, size - at, wanted, wanted_size)
    return <uint32_t>(found - text) if found != NULL else size


cdef bint _is_token_part(const uint8_t* head, uint32_t size) noexcept nogil:
    """Whether the head of a part names it `access_token`: Content-Disposition does.  RFC 7578 §4.2."""
    cdef uint32_t at = 0
    cdef uint32_t end
    cdef Span name
    while at < size:
        end = _where(head, at, size, b"\r\n", 2)
        if _is_named(head + at, end - at, b"content-disposition:", 20):
            header_param(head + at, end - at, b"name", &name)
            return name.size == 12 and memcmp(name.data, b"access_token", 12) == 0
        at = end + 2
    return False


cdef int multipart_token(
    const uint8_t* text, uint32_t size, const Span* boundary, Span* token
) noexcept nogil:
    cdef uint8_t mark[4 + BOUNDARY_MAX]  # what ends a part: a line's end belongs to it
    cdef uint32_t mark_size = 4 + boundary.size
    cdef uint32_t at, head, begin, end
    cdef int count = 0
    token.size = 0
    if boundary.size == 0 or boundary.size > BOUNDARY_MAX:
        return 0
    memcpy(mark, b"\r\n--", 4)
    memcpy(mark + 4, boundary.data, boundary.size)
    if size >= mark_size - 2 and memcmp(text, mark + 2, mark_size - 2) == 0:
        at = mark_size - 2
    else:
        at = _where(text, 0, size, mark, mark_size) + mark_size
    while at + 2 <= size and memcmp(text + at, b"--", 2) != 0:
        head = _where(text, at, size, b"\r\n", 2)
        end = _where(text, head, size, mark, mark_size)
        if end == size:
            return count
        begin = _where(text, head, end, b"\r\n\r\n", 4) + 4  # no further: else this is quadratic
        if begin <= end and _is_token_part(text + head + 2, begin - head - 4):
            count += 1
            token.data = text + begin
            token.size = end - begin
        at = end + mark_size
    return count
