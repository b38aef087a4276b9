"""Fuzzes chunked bodies: cut anywhere they give the same payload, end and refusal."""

include "_http.pyx"
include "fuzz.pxi"

cdef struct Body:
    HttpChunked chunked
    uint8_t* payload  # owned; room for the whole input
    size_t have  # bytes of payload
    size_t used  # bytes of input
    bint refused


cdef void feed(Body* body, const uint8_t* data, size_t size) noexcept nogil:
    """Give one piece, in as many steps as it takes."""
    cdef uint8_t* piece = copied(data, size)
    cdef size_t at = 0
    cdef size_t off, length
    cdef int64_t used
    while at < size and not body.refused and not http_chunked_done(&body.chunked):
        used = http_chunked_step(&body.chunked, piece + at, size - at, &off, &length)
        expect(http_chunked_check(&body.chunked), b"http_chunked_check")
        if used < 0:
            body.refused = True
            break
        expect(used > 0, b"a step takes something")
        expect(off + length <= <size_t>used <= size - at, b"payload lies in what was taken")
        memcpy(body.payload + body.have, piece + at + off, length)
        body.have += length
        at += <size_t>used
    body.used += at
    free(piece)


cdef Body new_body(size_t size) noexcept nogil:
    cdef Body body
    memset(&body, 0, sizeof(Body))
    body.payload = <uint8_t*>malloc(size)
    return body


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef Cuts cuts
    cdef Body once, pieces
    cdef size_t at = 0
    cdef size_t more
    if size <= SEED_BYTES:
        return 0
    cuts = cuts_of(data)
    data += SEED_BYTES
    size -= SEED_BYTES
    once = new_body(size)
    pieces = new_body(size)
    feed(&once, data, size)
    while at < size:
        more = cut(&cuts, size - at)
        feed(&pieces, data + at, more)
        at += more
    expect(once.refused == pieces.refused, b"refused in pieces as in one")
    expect(once.have == pieces.have, b"as much payload in pieces as in one")
    expect(memcmp(once.payload, pieces.payload, once.have) == 0, b"the same payload")
    if not once.refused:
        expect(once.used == pieces.used, b"the same end")
        expect(once.chunked.state == pieces.chunked.state, b"the same state")
        expect(once.chunked.left == pieces.chunked.left, b"the same chunk left")
    free(once.payload)
    free(pieces.payload)
    return 0
