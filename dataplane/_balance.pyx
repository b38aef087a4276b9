"""Smooth weighted round-robin, as nginx and LVS have it.

At each pick every target's current weight grows by its weight; the largest is picked and pays the
sum of what was added. Weights 5, 1, 1 give a a b a c a a: in any run as long as the sum of the weights
each has exactly its share, and no target gets its share at a stretch. A pick costs a look at each
target, TARGETS_MAX at the most.

Each worker goes round in a row of its own: nothing is shared, so that nothing is locked, and the
exact shares are those of a worker. The n-th begins n picks into the round, or the first target would
get the first request of all of them. A target without an address, or one that this request has been
to, stands aside for this pick.
"""


cdef int _step(
    const Balance* balance, int64_t* current, const uint16_t* tried, uint32_t tried_n
) noexcept nogil:
    cdef const Target* target
    cdef int64_t total = 0
    cdef int best = -1
    cdef uint32_t i, k
    for i in range(balance.count):
        target = &balance.targets[i]
        if nx_load_ptr(&target.name.addresses) == NULL:
            continue
        for k in range(tried_n):
            if tried[k] == i:
                break
        else:
            current[i] += target.weight
            total += target.weight
            if best < 0 or current[i] > current[best]:
                best = <int>i
    if best >= 0:
        current[best] -= total
    return best


cdef int balance_pick(
    Balance* balance, int worker, const uint16_t* tried, uint32_t tried_n
) noexcept nogil:
    cdef int64_t* row = balance.rows + <size_t>worker * balance.stride
    cdef int i
    if nx_unlikely(row[0] == 0):
        row[0] = 1
        for i in range(worker):
            _step(balance, row + 1, NULL, 0)
    return _step(balance, row + 1, tried, tried_n)


cdef uint32_t balance_places(const Balance* balance) noexcept nogil:
    cdef uint32_t places = 0
    cdef uint32_t i
    for i in range(balance.count):
        places += nx_load_ptr(&balance.targets[i].name.addresses) != NULL
    return places


cdef const Target* balance_unresolved(const Balance* balance) noexcept nogil:
    cdef const Target* wanted = NULL
    cdef const Target* target
    cdef uint32_t i
    for i in range(balance.count):
        target = &balance.targets[i]
        if nx_load_ptr(&target.name.addresses) != NULL:
            return NULL
        if wanted == NULL and not nx_load_u64(&target.name.failed):
            wanted = target
    return wanted if wanted != NULL else &balance.targets[0]
