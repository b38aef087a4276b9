"""Counts that all workers share, without a lock.

A `Quota` is one word.  A `LimitTable` is a fixed table of cells in buckets of eight; a key's cell
holds a tag of its hash and its count in one word, so that finding, counting and taking over a cell
are each one compare-and-swap.  A cell whose count is 0 is idle: it keeps its tag, and with that
what its key has spent, until another key of the bucket needs it.  Two keys of a bucket with one
tag share a count (one chance in 2^40 a pair, and the seed is secret).  A rate is kept as one time
(GCRA): each spending moves it on by an interval, and it may lie one burst ahead of now.
"""


cdef uint64_t _mixed(uint64_t value) noexcept nogil:
    value ^= value >> 33
    value *= <uint64_t>0xFF51AFD7ED558CCD
    value ^= value >> 29
    value *= <uint64_t>0xC4CEB9FE1A85EC53
    value ^= value >> 32
    return value


cdef int limit_init(
    LimitTable* table, uint32_t most, uint32_t rate, uint32_t keys, const uint8_t* seed16
) noexcept nogil:
    cdef uint64_t cells = 1024
    memset(table, 0, sizeof(LimitTable))
    if most == 0 and rate == 0:
        return 1
    while cells < 2 * <uint64_t>keys and cells < LIMIT_CELLS_MAX:
        cells *= 2
    table.cells = <LimitCell*>calloc(cells, sizeof(LimitCell))
    if table.cells == NULL:
        return -ENOMEM
    table.buckets_mask = cells // LIMIT_WAYS - 1
    memcpy(table.seed, seed16, 16)
    table.most = most if 0 < most < LIMIT_COUNT_MASK else LIMIT_COUNT_MASK
    if rate:
        table.interval_ns = 1000000000 // rate
        table.burst_ns = table.interval_ns * (rate - 1)
    return 1


cdef void limit_free(LimitTable* table) noexcept nogil:
    free(table.cells)
    table.cells = NULL


cdef uint64_t limit_address(const uint8_t* address, bint v6) noexcept nogil:
    cdef uint64_t key = 0
    cdef int i
    if v6 and memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) != 0:
        for i in range(8):
            key = key << 8 | address[i]
        return key
    for i in range(4):
        key = key << 8 | address[12 + i if v6 else i]
    return key | <uint64_t>0xFFFFFFFF00000000  # as an IPv6 /64: multicast, which nobody comes from


cdef int _join(LimitCell* cell, uint64_t tag, uint32_t most) noexcept nogil:
    """Count one more in the cell of this tag: 1, LIMIT_OVER, or 0 when it has become another's."""
    cdef uint64_t word = nx_load_u64(&cell.word)
    while word >> LIMIT_COUNT_BITS == tag:
        if (word & LIMIT_COUNT_MASK) >= most:
            return LIMIT_OVER
        if nx_swap_u64(&cell.word, &word, word + 1):
            return 1
    return 0


cdef bint _alone(LimitCell* bucket, int mine, uint64_t tag) noexcept nogil:
    """Whether no other cell of the bucket has this tag: two workers may have met a new key at once."""
    cdef int i
    for i in range(LIMIT_WAYS):
        if i != mine and nx_load_u64(&bucket[i].word) >> LIMIT_COUNT_BITS == tag:
            return False
    return True


cdef int64_t limit_take(LimitTable* table, uint64_t high, uint64_t low, uint64_t now_ns) noexcept nogil:
    cdef uint64_t hash = _mixed(_mixed(high ^ table.seed[0]) ^ low ^ table.seed[1])
    cdef uint64_t first = (hash & table.buckets_mask) * LIMIT_WAYS
    cdef LimitCell* bucket = &table.cells[first]
    cdef uint64_t tag = hash >> LIMIT_COUNT_BITS
    cdef uint64_t word, paid, best
    cdef int i, found, joined
    tag = tag if tag else 1
    for _ in range(4):  # others may take what was found idle
        found = -1
        best = 0
        for i in range(LIMIT_WAYS):
            word = nx_load_u64(&bucket[i].word)
            if word >> LIMIT_COUNT_BITS == tag:
                joined = _join(&bucket[i], tag, table.most)
                if joined:
                    return <int64_t>first + i + 1 if joined > 0 else LIMIT_OVER
            elif word & LIMIT_COUNT_MASK == 0:
                paid = nx_load_u64(&bucket[i].paid_ns)
                if found < 0 or paid < best:  # whose rate is made up for goes first
                    found = i
                    best = paid
        if found < 0:
            return LIMIT_UNCOUNTED
        word = nx_load_u64(&bucket[found].word)
        if word & LIMIT_COUNT_MASK or not nx_swap_u64(
            &bucket[found].word, &word, tag << LIMIT_COUNT_BITS | 1
        ):
            continue
        nx_store_u64(&bucket[found].paid_ns, 0)
        word = tag << LIMIT_COUNT_BITS | 1
        if _alone(bucket, found, tag) or not nx_swap_u64(&bucket[found].word, &word, 0):
            return <int64_t>first + found + 1
    return LIMIT_UNCOUNTED


cdef void limit_give(LimitTable* table, uint32_t cell) noexcept nogil:
    BUG_ON(nx_add_u64(&table.cells[cell - 1].word, <uint64_t>-1) & LIMIT_COUNT_MASK == 0)


cdef bint limit_spend(LimitTable* table, uint32_t cell, uint64_t now_ns, bint look) noexcept nogil:
    cdef uint64_t* paid = &table.cells[cell - 1].paid_ns
    cdef uint64_t due = nx_load_u64(paid)
    cdef uint64_t base
    while table.interval_ns:
        base = due if due > now_ns else now_ns
        if base - now_ns > table.burst_ns:
            return False
        if look or nx_swap_u64(paid, &due, base + table.interval_ns):
            return True
    return True


# --- a face for tests -----------------------------------------------------------------------------


cdef class LimitFace:
    """A LimitTable and a Quota, to be held against a model and driven from many threads."""

    cdef LimitTable c
    cdef Quota quota

    def __cinit__(self, uint32_t most, uint32_t rate, uint32_t keys, bytes seed not None):
        if len(seed) != 16:
            raise ValueError("16 bytes")
        if limit_init(&self.c, most, rate, keys, seed) < 0:
            raise MemoryError
        self.quota.most = most

    def take(self, uint64_t high, uint64_t low=0, uint64_t now_ns=0):
        return limit_take(&self.c, high, low, now_ns)

    def give(self, uint32_t cell):
        if cell == 0 or self.c.cells[cell - 1].word & LIMIT_COUNT_MASK == 0:
            raise ValueError("nothing is counted there")
        limit_give(&self.c, cell)

    def spend(self, uint32_t cell, uint64_t now_ns, bint look=False):
        return limit_spend(&self.c, cell, now_ns, look)

    def churn(self, uint64_t key, uint64_t rounds):
        """Take and give, without the GIL, both by key and in total.  Returns how often each let in."""
        cdef uint64_t let_in = 0
        cdef uint64_t in_quota = 0
        cdef int64_t cell
        cdef bint quota
        cdef uint64_t i
        with nogil:
            for i in range(rounds):
                cell = limit_take(&self.c, key, 0, 0)
                quota = quota_take(&self.quota)
                BUG_ON(cell > 0 and self.c.cells[cell - 1].word & LIMIT_COUNT_MASK > self.c.most)
                let_in += cell > 0
                in_quota += quota
                if cell > 0:
                    limit_give(&self.c, <uint32_t>cell)
                if quota:
                    quota_give(&self.quota)
        return let_in, in_quota

    @property
    def counts(self):
        """Of all cells, those above 0; and the quota's."""
        cdef uint64_t i
        cells = 0 if self.c.cells == NULL else (self.c.buckets_mask + 1) * LIMIT_WAYS
        found = [self.c.cells[i].word & LIMIT_COUNT_MASK for i in range(cells)]
        return [count for count in found if count], self.quota.count

    @staticmethod
    def key(bytes packed not None):
        """An address's key, from its 4 or 16 bytes."""
        return limit_address(packed, len(packed) == 16)

    def __dealloc__(self):
        limit_free(&self.c)
