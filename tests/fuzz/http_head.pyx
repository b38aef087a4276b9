"""Fuzzes a request's head: found in pieces as in one, parsed, its path normalised."""

include "_http.pyx"
include "fuzz.pxi"


cdef void paths(const uint8_t* path, uint32_t size) noexcept nogil:
    """A path becomes one without control bytes, no longer, the same in place; and can be escaped."""
    cdef uint8_t* apart = <uint8_t*>malloc(size)
    cdef uint8_t* inplace = copied(path, size)
    cdef uint8_t* escaped
    cdef int length = http_normalise_path(path, size, apart)
    cdef int i
    expect(http_normalise_path(inplace, size, inplace) == length, b"normalised in place as apart")
    if length > 0:
        expect(<uint32_t>length <= size, b"a normalised path is no longer")
        expect(memcmp(apart, inplace, length) == 0, b"normalised in place to the same bytes")
        for i in range(length):
            expect(apart[i] >= 32 and apart[i] != 127, b"no control byte in a normalised path")
        escaped = <uint8_t*>malloc(length * 3)
        expect(
            http_escape_path(apart, length, escaped, length * 3) >= length,
            b"three times the room holds any escaped path",
        )
        free(escaped)
        escaped = <uint8_t*>malloc(length)
        http_escape_path(apart, length, escaped, length)
        free(escaped)
    else:
        expect(length < 0, b"a path has bytes")
    free(apart)
    free(inplace)


cdef void whole(const uint8_t* data, uint32_t size) noexcept nogil:
    """A head by itself, or what claims to be one: the parser trusts no scan."""
    cdef HttpRequest http
    cdef uint8_t* head = copied(data, size)
    cdef int result = http_parse_request(head, size, &http)
    if result > 0:
        expect(<uint32_t>result == size, b"a head is read to its end")
        expect(http_request_check(&http), b"http_request_check")
        if http.path_len:
            paths(head + http.path_off, http.path_len)
    else:
        expect(result < 0, b"a whole head is read or refused")
    free(head)


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t once = 0
    cdef uint32_t scanned = 0
    cdef uint8_t* part
    cdef size_t have = 0
    cdef int result = 0
    cdef int found
    cdef Cuts cuts
    if size <= SEED_BYTES:
        return 0
    cuts = cuts_of(data)
    data += SEED_BYTES
    size -= SEED_BYTES
    part = copied(data, size)
    found = http_scan_head(part, size, &once)
    free(part)
    while result == 0 and have < size:
        have += cut(&cuts, size - have)
        part = copied(data, have)
        result = http_scan_head(part, have, &scanned)
        free(part)
    expect(result == found, b"a head is found in pieces as in one")
    if found > 0:
        expect(<size_t>found <= size, b"a head lies in what came")
        whole(data, <uint32_t>found)
    if size <= HTTP_HEAD_MAX:
        whole(data, <uint32_t>size)
    return 0
