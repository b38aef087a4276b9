"""Origins as browsers send them, held against a list (routing-and-proxy.md §12.6, S59).

A browser's Origin is scheme, host in lower case and a port that is not the scheme's own: an entry
is compared with it byte for byte.  `https://*.example.com` stands for each name below example.com
and not for that itself.
"""


cdef bint _is_name(const uint8_t* data, uint32_t size) noexcept nogil:
    """Whether these are labels of a host name with dots between, nothing else."""
    cdef uint8_t before = 46
    cdef uint32_t i
    for i in range(size):
        if data[i] == 46:
            if before == 46:
                return False
        elif not (97 <= data[i] <= 122 or 48 <= data[i] <= 57 or data[i] == 45 or data[i] == 95):
            return False
        before = data[i]
    return before != 46


cdef bint _matches(
    const uint8_t* entry, uint32_t entry_size, const uint8_t* origin, uint32_t size
) noexcept nogil:
    cdef const uint8_t* star = <const uint8_t*>memchr(entry, 42, entry_size)
    cdef uint32_t head, tail
    if star == NULL:
        return size == entry_size and memcmp(entry, origin, size) == 0
    head = <uint32_t>(star - entry)
    tail = entry_size - head - 1
    return (
        size > head + tail
        and memcmp(entry, origin, head) == 0
        and memcmp(star + 1, origin + size - tail, tail) == 0
        and _is_name(origin + head, size - head - tail)
    )


cdef bint origin_listed(
    const Span* listed, const uint8_t* origin, uint32_t size
) noexcept nogil:
    cdef const uint8_t* entry = listed.data
    cdef const uint8_t* end = listed.data + listed.size
    cdef const uint8_t* after
    while entry < end:
        after = <const uint8_t*>memchr(entry, 10, end - entry)
        if after == NULL:
            break
        if _matches(entry, <uint32_t>(after - entry), origin, size):
            return True
        entry = after + 1
    return False


def listed(bytes entries not None, bytes origin not None):
    """`origin_listed`, for tests."""
    cdef Span span
    span.data = <const uint8_t*><const char*>entries
    span.size = <uint32_t>len(entries)
    return origin_listed(&span, <const uint8_t*><const char*>origin, <uint32_t>len(origin))
