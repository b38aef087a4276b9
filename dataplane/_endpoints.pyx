"""Paths that the issuer answers rather than an upstream.

An endpoint is told by how a path ends, one slash behind it tolerated, whatever comes before: that
is the route's.
"""


cdef inline bint _is(const uint8_t* name, uint32_t size, const char* text) noexcept nogil:
    return size == strlen(text) and memcmp(name, text, size) == 0


cdef int endpoint_of(const Span* path) noexcept nogil:
    cdef uint32_t end = path.size
    cdef uint32_t at
    cdef const uint8_t* name
    if end and path.data[end - 1] == 47:
        end -= 1
    at = end
    while at and path.data[at - 1] != 47:
        at -= 1
    if at < 8 or memcmp(path.data + at - 8, b"/oauth2/", 8) != 0:
        return ENDPOINT_NONE
    name = path.data + at
    end -= at
    if _is(name, end, b"token") or _is(name, end, b"authorize"):
        return ENDPOINT_KONG
    if (
        _is(name, end, b"revoke") or _is(name, end, b"introspect") or _is(name, end, b"jwks")
        or _is(name, end, b"ticket") or _is(name, end, b"sessions")
    ):
        return ENDPOINT_OURS
    return ENDPOINT_NONE


def endpoint(bytes path not None):
    """`endpoint_of`, for tests."""
    cdef Span span
    span.data = <const uint8_t*><const char*>path
    span.size = <uint32_t>len(path)
    return endpoint_of(&span)
