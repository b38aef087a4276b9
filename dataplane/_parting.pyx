"""Sessions whose policy has parted, by an edit or a deletion, end as websocket-session says.

The Python thread marks the policies (`Policy.parting`, which holds whose sessions end and when) and
tells the workers whose sessions hold one; what did not change is neither marked nor told of.  A
worker then goes round its connections, at most LOOKS_MAX a turn, and ends the sessions whose
policy says so and whose time has come.  With `drain` that time is spread over the policy's window
by the session's random id, so that any number of drains may be under way without a list of their
own; rounds go on, ROUND_MS apart, until one met nothing that is still to come.

Connections are found by their index: a round may be left and gone on with while they come and go.
A session that begins meanwhile needs no look: none begins on a policy that is shut.
"""

cdef enum:
    LOOKS_MAX = 2048  # connections looked at in a turn
    ENDS_MAX = 64  # sessions told to end in a turn: two writes each
    ROUND_MS = 100


cdef void parting_begin(Worker* worker) noexcept nogil:
    worker.walk.next_ms = worker.now_ms
    if worker.walk.under_way:
        worker.walk.once_more = 1  # what this round has passed already may be meant
        return
    worker.walk.under_way = 1
    worker.walk.once_more = 0
    worker.walk.not_yet_due = 0
    worker.walk.at = 0


cdef int parting_sleep_ms(const Worker* worker, int sleep_ms) noexcept nogil:
    if worker.walk.next_ms <= worker.now_ms:
        return 0
    if worker.walk.next_ms - worker.now_ms < <uint64_t>sleep_ms:
        return <int>(worker.walk.next_ms - worker.now_ms)
    return sleep_ms


cdef uint64_t _due_ms(const Session* session) noexcept nogil:
    """When a session ends that drains: its own random point of its policy's window."""
    cdef const Policy* policy = session.policy
    cdef uint32_t share
    memcpy(&share, session.id, sizeof(share))
    return policy.drain_from_ms + (
        (policy.drain_until_ms - policy.drain_from_ms) * share >> 32
    )


cdef bint _end_if_due(Worker* worker, Session* session) noexcept nogil:
    """Whether the session was told to end now."""
    cdef uint64_t parting = nx_load_u64(&session.policy.parting)
    cdef const char* why = b"configuration changed"
    if not parting & (PARTING_DRAIN | PARTING_CLOSE) or session.ending:
        return False
    if not parting & PARTING_CLOSE and _due_ms(session) > worker.now_ms:
        worker.walk.not_yet_due = 1
        return False
    if parting & PARTING_GONE:
        why = b"route or service is gone"
    relay_end(worker, session, why, 1012, 1001, BY_GATEWAY)
    return True


cdef void parting_go_on(Worker* worker) noexcept nogil:
    cdef Walk* walk = &worker.walk
    cdef uint32_t count = worker.conns.chunk_count * SLAB_CHUNK
    cdef int looks = 0
    cdef int ends = 0
    cdef Conn* conn
    if worker.now_ms < walk.next_ms:
        return
    while walk.at < count and looks < LOOKS_MAX and ends < ENDS_MAX:
        conn = <Conn*>slab_at(&worker.conns, walk.at)
        walk.at += 1
        looks += 1
        if conn.kind == CONN_CLIENT and not conn.flags & FLAG_DEAD and conn.session != NULL:
            ends += _end_if_due(worker, conn.session)
    if walk.at < count:
        return  # goes on next turn
    walk.at = 0
    walk.under_way = walk.once_more | walk.not_yet_due
    if not walk.once_more:
        walk.next_ms = worker.now_ms + ROUND_MS
    walk.once_more = 0
    walk.not_yet_due = 0
