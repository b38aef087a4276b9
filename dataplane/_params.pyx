"""Parameters in queries, form bodies and JSON, as far as one of them may be the token or a ticket.

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
