"""Heads to the upstream and back: routing-and-proxy.md §3 (path), §7 and §8 (fields)."""

from dataplane._admission cimport *
from dataplane._core cimport *
from dataplane._http cimport *
from dataplane._sys cimport *

cdef enum:
    AT_HEAD = 65536  # where in Worker.compose heads are put together, to its end

# The handshake for the upstream, into Worker.compose + AT_HEAD.  Returns its bytes or CORE_FULL.
cdef int forward_handshake(
    Worker* worker, Conn* client, const Visit* visit, const Request* request
) noexcept nogil
# The 101 for the client, likewise.
cdef int forward_switching(
    Worker* worker, const uint8_t* head, const HttpResponse* http, const Request* request
) noexcept nogil
# An upstream's answer that is not 101, for the client, likewise; `length`: of the body that follows.
cdef int forward_refusal(
    Worker* worker, const uint8_t* head, const HttpResponse* http, const Request* request,
    uint64_t length, bint keep,
) noexcept nogil
# The path and query of the upstream's request line.
cdef void forward_path(Writer* out, const Visit* visit) noexcept nogil
