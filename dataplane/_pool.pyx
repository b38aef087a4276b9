"""Upstream connections without a request.

Slots of an array, chained by address and port, newest first: what was used last is what its peer is
least likely to have ended.  A connection knows its slot, and its peer's address is its key.
"""


cdef uint32_t _chain(const uint8_t* address, uint16_t port) noexcept nogil:
    cdef uint64_t mixed[2]
    memcpy(mixed, address, 16)
    mixed[0] = (mixed[0] ^ mixed[1] ^ port) * <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(mixed[0] >> 40) & (POOL_CHAINS - 1)


cdef uint16_t _free_slot(Pool* pool) noexcept nogil:
    """A free slot + 1, taken off the list; 0 when all are in use."""
    cdef uint16_t slot = pool.free_first
    if slot:
        pool.free_first = pool.after[slot - 1]
    elif pool.used < POOL_IDLE_MAX:
        pool.used += 1
        slot = pool.used
    return slot


cdef bint _varies(const Policy* policy) noexcept nogil:
    """Whether the name that TLS checks is each request's own: such a connection is not kept."""
    return policy.tls != NULL and policy.flags & POLICY_PRESERVE_HOST


cdef void pool_put(Worker* worker, Conn* upstream, const Policy* policy) noexcept nogil:
    cdef Pool* pool = &worker.pool
    cdef uint16_t slot = 0
    cdef uint16_t* first = &pool.first[_chain(upstream.remote, upstream.remote_port)]
    # Slots for clients come first: an idle connection is a comfort.
    if not worker.draining and not _varies(policy) and (
        worker.conns.taken * 2 < worker.conns.ceiling
    ):
        slot = _free_slot(pool)
    if slot == 0:
        conn_end(worker, upstream)
        return
    upstream.state = STATE_IDLE
    upstream.skip = slot - 1
    upstream.scanned = 0
    pool.idle[slot - 1] = upstream
    pool.after[slot - 1] = first[0]
    first[0] = slot
    pool.count += 1
    wheel_arm(&worker.wheel, &upstream.timer, worker.now_ms + POOL_IDLE_MS)


cdef void _take_out(Worker* worker, Conn* upstream) noexcept nogil:
    cdef Pool* pool = &worker.pool
    cdef uint16_t slot = <uint16_t>(upstream.skip + 1)
    cdef uint16_t* link = &pool.first[_chain(upstream.remote, upstream.remote_port)]
    while link[0] != slot:
        BUG_ON(link[0] == 0)
        link = &pool.after[link[0] - 1]
    link[0] = pool.after[slot - 1]
    pool.idle[slot - 1] = NULL
    pool.after[slot - 1] = pool.free_first
    pool.free_first = slot
    pool.count -= 1
    upstream.skip = 0
    wheel_cancel(&worker.wheel, &upstream.timer)


cdef Conn* pool_take(
    Worker* worker, const Address* address, const Policy* policy, const Target* target
) noexcept nogil:
    cdef Pool* pool = &worker.pool
    cdef uint16_t slot
    cdef uint16_t next
    cdef Conn* upstream
    if pool.count == 0 or _varies(policy):
        return NULL
    slot = pool.first[_chain(address.bytes, target.port)]
    while slot:
        next = pool.after[slot - 1]
        upstream = pool.idle[slot - 1]
        if (
            upstream.remote_port == target.port
            and (upstream.flags & FLAG_V6 != 0) == (address.v6 != 0)
            and memcmp(upstream.remote, address.bytes, 16) == 0
            and tls_fits(upstream, policy.tls, &target.server_name)
        ):
            _take_out(worker, upstream)
            # Its end may lie in this turn's events, or behind them: look.
            upstream.flags &= ~FLAG_DRAINED
            if conn_recv(upstream, worker.scratch, 1) == 0:
                return upstream
            conn_end(worker, upstream)
        slot = next
    return NULL


cdef void pool_end(Worker* worker, Conn* upstream) noexcept nogil:
    _take_out(worker, upstream)
    conn_end(worker, upstream)


cdef void pool_event(Worker* worker, Conn* upstream) noexcept nogil:
    if upstream.flags & FLAG_READABLE and conn_recv(upstream, worker.scratch, 1) != 0:
        pool_end(worker, upstream)


cdef void pool_clear(Worker* worker) noexcept nogil:
    cdef uint32_t i
    for i in range(worker.pool.used):
        if worker.pool.idle[i] != NULL:
            pool_end(worker, worker.pool.idle[i])
