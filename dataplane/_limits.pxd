"""Counts that all workers share: in total, and by key.  Bytes of a key in, a verdict out; pure.

A count is touched when something begins and when it ends, by one atomic, never on the path of a
byte; there is no lock.
"""

from dataplane._sys cimport *

cdef enum:
    LIMIT_WAYS = 8  # cells of a bucket: a key is in its bucket, or it is not counted
    LIMIT_CELLS_MAX = 1 << 18  # 4 MiB
    LIMIT_COUNT_BITS = 24
    LIMIT_COUNT_MASK = (1 << 24) - 1

cdef enum:  # instead of a cell
    LIMIT_UNCOUNTED = 0  # the bucket is full of others: let in, as the total still bounds it
    LIMIT_OVER = -1

cdef struct Quota:
    uint64_t count  # atomic
    uint64_t most
    uint8_t _apart[48]  # a cache line of its own
    # Invariant: whoever was let in finds count <= most.

cdef struct LimitCell:
    uint64_t word  # atomic: 40 bits of the key's hash, then LIMIT_COUNT_BITS of count; 0: never used
    uint64_t paid_ns  # atomic: monotonic time at which what this key spent is made up for

cdef struct LimitTable:
    LimitCell* cells  # owned; NULL: off
    uint64_t buckets_mask
    uint64_t seed[2]  # secret: nobody chooses whose bucket is full
    uint32_t most  # a key
    uint64_t interval_ns  # of one spending; 0: there is no rate
    uint64_t burst_ns  # how far `paid_ns` may lie ahead

cdef struct Limits:
    Quota connections  # of clients
    Quota sessions  # established ones, and those whose upstream is being asked
    Quota refusals  # clients that were refused by a Close and have not gone
    LimitTable addresses  # connections of an address, and its handshakes a second
    LimitTable consumers  # sessions of a consumer

cdef inline bint quota_take(Quota* quota) noexcept nogil:
    """Count one more in, unless the quota is full."""
    if nx_likely(nx_add_u64(&quota.count, 1) < quota.most):
        return True
    nx_add_u64(&quota.count, <uint64_t>-1)
    return False

cdef inline void quota_give(Quota* quota) noexcept nogil:
    nx_add_u64(&quota.count, <uint64_t>-1)

# `most` a key, and `rate` a second with a burst of one second's worth; 0: without that bound.
# `keys`: how many are expected at a time.  With neither bound the table stays off.  1 or -ENOMEM.
cdef int limit_init(
    LimitTable* table, uint32_t most, uint32_t rate, uint32_t keys, const uint8_t* seed16
) noexcept nogil
cdef void limit_free(LimitTable* table) noexcept nogil
# Count one more of this key in.  Returns its cell (> 0), LIMIT_UNCOUNTED or LIMIT_OVER.
cdef int64_t limit_take(LimitTable* table, uint64_t high, uint64_t low, uint64_t now_ns) noexcept nogil
cdef void limit_give(LimitTable* table, uint32_t cell) noexcept nogil
# Whether the key of this cell may do one more thing now; it is spent unless `look`.
cdef bint limit_spend(LimitTable* table, uint32_t cell, uint64_t now_ns, bint look) noexcept nogil
# An address as a key: IPv4 whole, IPv6 by its /64, as whoever has one has all of it.
cdef uint64_t limit_address(const uint8_t* address, bint v6) noexcept nogil
