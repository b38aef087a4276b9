"""Fuzzes what is looked through for a token: queries and forms, JSON, multipart bodies."""

include "_params.pyx"
include "fuzz.pxi"


cdef void inside(const Span* found, const uint8_t* text, size_t size) noexcept nogil:
    expect(found.size <= size, b"a value is no longer than all")
    if found.size:
        expect(
            text <= found.data and found.data + found.size <= text + size, b"a value is inside"
        )


cdef void form_of(const uint8_t* data, uint32_t size) noexcept nogil:
    """What is hidden is found no more, and what is left is no longer."""
    cdef uint8_t* form = copied(data, size)
    cdef uint8_t* out = <uint8_t*>malloc(PARAM_VALUE_MAX)
    cdef Span found
    cdef int count = form_value(form, size, token_param(), out, &found)
    cdef uint32_t left
    expect(0 <= count <= 2, b"none, one or more")
    if found.size and found.data != out:
        inside(&found, form, size)
    left = form_hide_token(form, size)
    expect(left <= size, b"hiding makes nothing longer")
    expect(count != 0 or left == size, b"nothing to hide, nothing gone")
    expect(form_value(form, left, token_param(), out, &found) == 0, b"no token stays")
    free(out)
    free(form)


cdef void json_of(const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint8_t* text = copied(data, size)
    cdef Span found
    json_token(text, size, &found)
    inside(&found, text, size)
    if found.size:
        expect(memchr(found.data, 34, found.size) == NULL, b"no quote in a plain string")
    free(text)


cdef void multipart_of(const uint8_t* data, uint32_t size, uint32_t head_size) noexcept nogil:
    """The first bytes are the header with the boundary, the rest is the body."""
    cdef uint8_t* header = copied(data, head_size)
    cdef uint8_t* text = copied(data + head_size, size - head_size)
    cdef uint8_t mark[4 + BOUNDARY_MAX]
    cdef Span boundary, found
    cdef int count
    header_param(header, head_size, b"b", &boundary)
    inside(&boundary, header, head_size)
    count = multipart_token(text, size - head_size, &boundary, &found)
    inside(&found, text, size - head_size)
    if count:
        expect(0 < boundary.size <= BOUNDARY_MAX, b"no token without a boundary")
        memcpy(mark, b"\r\n--", 4)
        memcpy(mark + 4, boundary.data, boundary.size)
        expect(
            memmem(found.data, found.size, mark, 4 + boundary.size) == NULL,
            b"a part ends at the first boundary",
        )
    free(text)
    free(header)


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t left
    if size < 2 or size > 8192:
        return 0
    left = <uint32_t>size - 1
    form_of(data + 1, left)
    json_of(data + 1, left)
    multipart_of(data + 1, left, data[0] if data[0] < left else left)
    return 0
