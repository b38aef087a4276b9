"""Upstream connections without a request, kept for the next: a worker's own, bounded."""

from dataplane._core cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *

cdef enum:
    POOL_IDLE_MS = 60000  # without a request, then it ends

# Keep a connection on which an exchange of this policy has ended, or end it where there is no room.
cdef void pool_put(Worker* worker, Conn* upstream, const Policy* policy) noexcept nogil
# One to this address that still lives and is as this policy would make it, newest first; the
# caller's from now on.  NULL: none.
cdef Conn* pool_take(
    Worker* worker, const Address* address, const Policy* policy, const Target* target
) noexcept nogil
# Its time is over.
cdef void pool_end(Worker* worker, Conn* upstream) noexcept nogil
# It became readable: its peer ended it, or speaks unasked; both end it.
cdef void pool_event(Worker* worker, Conn* upstream) noexcept nogil
cdef void pool_clear(Worker* worker) noexcept nogil
