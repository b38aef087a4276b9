"""Sessions follow the grant: they end with the right to them, and go over to a token's successor."""

from dataplane._core cimport *
from dataplane._grants cimport *
from dataplane._relay cimport *
from dataplane._sys cimport *

# These tokens (32 bytes each) were revoked: their sessions and handshakes end.
cdef void follow_ended(Worker* worker, const uint8_t* digests, uint32_t count) noexcept nogil
# Sessions of the old tokens in the note go over to its new one.
cdef void follow_moved(Worker* worker, const Note* note) noexcept nogil
# Look for the sessions of what is gone.  Takes over `hunt`.
cdef void follow_gone(Worker* worker, Hunt* hunt) noexcept nogil
# Once a turn while `follow_busy`.
cdef void follow_go_on(Worker* worker) noexcept nogil

cdef inline bint follow_busy(const Worker* worker) noexcept nogil:
    """Whether sessions are to be ended, or looked for: the worker may not sleep."""
    return worker.grants.ending != NULL or worker.search.under_way
