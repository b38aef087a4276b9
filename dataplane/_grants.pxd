"""The grants of a worker: which of its sessions, and handshakes under way, rest on which token."""

from dataplane._admission cimport worker_realtime
from dataplane._core cimport *
from dataplane._sys cimport *

# Let the holder be found by the digest of its token.  It is in no list yet.
cdef void grant_enter(Worker* worker, Grant* grant) noexcept nogil
# The first of the chain that holds the grants of a token, among others.
cdef Grant* grant_chain(Worker* worker, const uint8_t* digest) noexcept nogil
# The holder rests on another token from now on; a chain that is being walked may be gone on with.
cdef void grant_move(Worker* worker, Grant* grant, const MovedText* to, bint deadline) noexcept nogil
# The right to a live session has ended: `follow_go_on` ends it.
cdef void grant_end(Worker* worker, Session* session, int why) noexcept nogil
# Whether the time of a session has come, a GrantEnd; if not, lowers `next_ms` to when it may have.
cdef int grant_due(Worker* worker, const Session* session, uint64_t* next_ms) noexcept nogil
