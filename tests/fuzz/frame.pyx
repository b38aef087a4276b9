"""Fuzzes frame headers, masks, UTF-8 and Closes, each cut where the input says."""

include "_frame.pyx"
include "fuzz.pxi"


cdef void headers(const uint8_t* data, size_t size) noexcept nogil:
    """Growing bytes give nothing until they give what the whole gives."""
    cdef FrameHeader header
    cdef FrameHeader grown
    cdef uint8_t written[FRAME_HEADER_MAX]
    cdef uint8_t* part = copied(data, size)
    cdef int result = frame_parse_header(part, size, &header)
    cdef int early = 0
    cdef size_t have = 0
    free(part)
    while early == 0 and have < size:
        have += 1
        part = copied(data, have)
        early = frame_parse_header(part, have, &grown)
        free(part)
    expect(early == result, b"a header grows into what it is in one")
    if result <= 0:
        return
    expect(frame_header_check(&header), b"frame_header_check")
    expect(have == header.header_len, b"a header is known at its last byte")
    expect(frame_check_role(&header, not header.masked, 0, 1) == FRAME_BROKEN, b"masks are for clients")
    frame_check_role(&header, header.masked, 1, 0)
    result = frame_write_header(
        written, header.opcode, header.fin, header.length, header.mask if header.masked else NULL
    )
    written[0] |= header.rsv << 4
    expect(result == header.header_len and memcmp(written, data, result) == 0, b"written as read")


cdef void masks(const uint8_t* data, size_t size, Cuts cuts) noexcept nogil:
    """Unmasked in pieces as in one, and twice is not at all."""
    cdef uint8_t* once = copied(data, size)
    cdef uint8_t* pieces = copied(data, size)
    cdef uint8_t mask[4]
    cdef size_t at = 0
    cdef size_t more
    memcpy(mask, &cuts.state, 4)
    frame_unmask(once, size, mask, 0)
    while at < size:
        more = cut(&cuts, size - at)
        frame_unmask(pieces + at, more, mask, at)
        at += more
    expect(memcmp(once, pieces, size) == 0, b"unmasked in pieces as in one")
    frame_unmask(once, size, mask, 0)
    expect(memcmp(once, data, size) == 0, b"masked twice is not masked")
    free(once)
    free(pieces)


cdef bint scalar_values(const uint8_t* data, size_t size) noexcept nogil:
    """Whether this is UTF-8, by the plainest reading of RFC 3629 §4: decode, then compare."""
    cdef size_t at = 0
    cdef size_t more, i
    cdef uint32_t value
    while at < size:
        if data[at] < 0x80:
            at += 1
            continue
        more = 1 if data[at] >> 5 == 6 else 2 if data[at] >> 4 == 14 else 3
        if more == 3 and data[at] >> 3 != 30:
            return False
        if more >= size - at:
            return False
        value = data[at] & (0x3F >> more)
        for i in range(more):
            if data[at + 1 + i] >> 6 != 2:
                return False
            value = (value << 6) | (data[at + 1 + i] & 0x3F)
        if value < (0x80 if more == 1 else 0x800 if more == 2 else 0x10000) or value > 0x10FFFF:
            return False
        if 0xD800 <= value <= 0xDFFF:
            return False
        at += 1 + more
    return True


cdef void texts(const uint8_t* data, size_t size, Cuts cuts) noexcept nogil:
    cdef uint32_t once = UTF8_BOUNDARY
    cdef uint32_t state = UTF8_BOUNDARY
    cdef uint8_t* part = copied(data, size)
    cdef size_t at = 0
    cdef size_t more
    cdef int result = utf8_step(&once, part, size)
    cdef int found = 0
    free(part)
    while found == 0 and at < size:
        more = cut(&cuts, size - at)
        part = copied(data + at, more)
        found = utf8_step(&state, part, more)
        free(part)
        at += more
    expect(found == result, b"text in pieces as in one")
    expect(result < 0 or state == once, b"the same state of text")
    expect((result == 0 and once == UTF8_BOUNDARY) == scalar_values(data, size), b"UTF-8 is UTF-8")


cdef void closes(const uint8_t* data, size_t size) noexcept nogil:
    """A payload is judged; one that is good is written as it is read."""
    cdef uint8_t out[FRAME_CLOSE_MAX]
    cdef uint8_t mask[4]
    cdef uint8_t* payload = copied(data, size)
    cdef uint16_t code = 0
    cdef int result = frame_check_close(payload, size, &code)
    if result == 0 and size:
        expect(frame_close_code_valid(code), b"a good Close has a good code")
        result = frame_write_close(out, code, payload + 2, size - 2, NULL)
        expect(<size_t>result == size + 2, b"a Close is its payload and two bytes")
        expect(memcmp(out + 2, payload, size) == 0, b"a Close is written as read")
    memset(mask, 0x55, 4)
    frame_write_close(out, 1000, payload, size, mask)
    free(payload)


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    if size <= SEED_BYTES:
        return 0
    headers(data + SEED_BYTES, size - SEED_BYTES)
    masks(data + SEED_BYTES, size - SEED_BYTES, cuts_of(data))
    texts(data + SEED_BYTES, size - SEED_BYTES, cuts_of(data))
    closes(data + SEED_BYTES, size - SEED_BYTES)
    return 0
