"""Which target of an upstream comes next: weighted round-robin, each worker for itself."""

from dataplane._core cimport *

# The index of the target that comes next for a worker, of those with an address and not in
# tried[0:tried_n]; -1: there is none.
cdef int balance_pick(
    Balance* balance, int worker, const uint16_t* tried, uint32_t tried_n
) noexcept nogil
# How many targets have an address.
cdef uint32_t balance_places(const Balance* balance) noexcept nogil
# NULL as soon as one target has an address; else one to ask for: the first that has not failed,
# or just the first.  There are targets.
cdef const Target* balance_unresolved(const Balance* balance) noexcept nogil
