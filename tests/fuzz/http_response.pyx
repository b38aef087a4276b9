"""Fuzzes the head of an upstream's answer."""

include "_http.pyx"
include "fuzz.pxi"


cdef void answer(const uint8_t* data, uint32_t size) noexcept nogil:
    cdef HttpResponse http
    cdef uint8_t* head = copied(data, size)
    cdef int result = http_parse_response(head, size, &http)
    if result > 0:
        expect(<uint32_t>result == size, b"a head is read to its end")
        expect(http_response_check(&http), b"http_response_check")
        expect(100 <= http.status <= 599, b"a status has three digits")
        expect(not (http.chunked and http.content_length >= 0), b"one length or none")
    else:
        expect(result < 0, b"a whole head is read or refused")
    free(head)


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t scanned = 0
    cdef uint8_t* part = copied(data, size)
    cdef int found = http_scan_head(part, size, &scanned)
    free(part)
    if found > 0:
        answer(data, <uint32_t>found)
    if 0 < size <= HTTP_HEAD_MAX:
        answer(data, <uint32_t>size)
    return 0
