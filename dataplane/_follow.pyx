"""The ends of sessions whose grant has ended, and their moves from token to token.

What the Python thread hears of tokens comes as notes.  A token's sessions are found by the index
(`_grants`) and queued; those of a credential, a consumer or a plugin instance that is gone, and of a
JWT by its `jti`, by a walk over all connections, LOOKS_MAX a turn, that looks for all keys of all
notes which came before it began: at 10,000 sessions a round takes milliseconds, where an index for
each kind would cost every handshake.  Whoever is queued is told to end, ENDS_MAX a turn, so that a
thousand ends at once do not hold up the sessions that stay.

A handshake under way is not ended but marked: `still_admitted` looks at that right before our 101.
"""

cdef enum:
    LOOKS_MAX = 2048  # connections looked at in a turn
    ENDS_MAX = 64  # sessions told to end in a turn: two writes each


cdef const char* _why(int ended) noexcept nogil:
    if ended == GRANT_EXPIRED:
        return b"token expired"
    if ended == GRANT_REVOKED:
        return b"token revoked"
    if ended == GRANT_CREDENTIAL:
        return b"credential is gone"
    if ended == GRANT_CONSUMER:
        return b"consumer is gone"
    if ended == GRANT_PLUGIN:
        return b"issuer of the token is gone"
    return b"session too old"


cdef inline int _code(int ended) noexcept nogil:
    """What the client hears: 4401 has it come again with another token.  architecture.md, Ending."""
    return 4403 if GRANT_CREDENTIAL <= ended <= GRANT_PLUGIN else 4401


cdef void _end_holder(Worker* worker, Grant* grant, int why) noexcept nogil:
    if grant.is_session:
        grant_end(worker, <Session*>grant, why)
        return
    grant_leave(worker, grant)
    grant.ended = <uint8_t>why


# --- tokens, by the index ---------------------------------------------------------------------------


cdef void follow_ended(Worker* worker, const uint8_t* digests, uint32_t count) noexcept nogil:
    cdef uint32_t i
    cdef Grant* grant
    cdef Grant* next
    for i in range(count):
        grant = grant_chain(worker, digests + 32 * i)
        while grant != NULL:
            next = grant.next
            if memcmp(grant.digest, digests + 32 * i, 32) == 0:
                _end_holder(worker, grant, GRANT_REVOKED)
            grant = next


cdef bint _follows(const Grant* grant, const MovedText* to, int move) noexcept nogil:
    """Whether the holder goes over: to a newer token only where its policy says so, and that lasts
    longer."""
    cdef const Policy* policy = (
        (<const Session*>grant).policy if grant.is_session else (<const Request*>grant).policy
    )
    if move != MOVE_RENEWED:
        return True
    return policy.flags & POLICY_FOLLOW_CREDENTIAL and grant.expires_at != 0 and (
        to.expires_at == 0 or to.expires_at > grant.expires_at
    )


cdef void _look_in_time(Worker* worker, Session* session) noexcept nogil:
    """The deadline of a session has moved, nearer perhaps."""
    cdef uint64_t next_ms = <uint64_t>-1
    cdef Timer* timer = &session.client.timer
    cdef int why = grant_due(worker, session, &next_ms)
    if session.ending:
        return
    if why:
        grant_end(worker, session, why)
    elif next_ms != <uint64_t>-1 and (timer.prev == NULL or next_ms < timer.deadline_ms):
        wheel_arm(&worker.wheel, timer, next_ms)


cdef uint32_t _move(
    Worker* worker, const uint8_t* old, const MovedText* to, int move
) noexcept nogil:
    """Returns how many sessions went over."""
    cdef Grant* grant = grant_chain(worker, old)
    cdef Grant* next
    cdef uint32_t moved = 0
    cdef bint deadline
    while grant != NULL:
        next = grant.next
        if memcmp(grant.digest, old, 32) == 0 and _follows(grant, to, move):
            deadline = move != MOVE_REFRESHED or not (
                (<Session*>grant).policy if grant.is_session else (<Request*>grant).policy
            ).flags & POLICY_FOLLOW_NONE
            grant_move(worker, grant, to, deadline)
            if grant.is_session:
                moved += 1
                _look_in_time(worker, <Session*>grant)
        grant = next
    return moved


cdef void follow_moved(Worker* worker, const Note* note) noexcept nogil:
    cdef const MovedText* to = <const MovedText*>note.text
    cdef uint32_t at = sizeof(MovedText)
    cdef uint32_t moved = 0
    cdef Question* answer
    cdef uint64_t one = 1
    while at < note.text_len:
        if memcmp(note.text + at, to.digest, 32) != 0:
            moved += _move(worker, note.text + at, to, <int>note.value)
        at += 32
    nx_bump(&worker.counters.moved, moved)
    if note.ref == 0:
        return
    answer = <Question*>ring_reserve(&worker.questions)
    if answer == NULL:  # whoever waits is told that one did not say
        nx_bump(&worker.counters.questions_dropped, 1)
        return
    memset(answer, 0, sizeof(Question))
    answer.kind = QUESTION_MOVED
    answer.ref = note.ref
    answer.count = moved
    ring_publish(&worker.questions)
    write(worker.shared.question_fd, &one, sizeof(one))


# --- what is gone, by a walk ------------------------------------------------------------------------


cdef void follow_gone(Worker* worker, Hunt* hunt) noexcept nogil:
    cdef Search* search = &worker.search
    hunt.next = search.coming
    search.coming = hunt
    if not search.under_way:
        _begin_round(search)


cdef void _begin_round(Search* search) noexcept nogil:
    search.wanted = search.coming
    search.coming = NULL
    search.under_way = search.wanted != NULL
    search.at = 0


cdef bint _in_hunt(const Hunt* hunt, const uint8_t* key) noexcept nogil:
    cdef const uint8_t* keys = <const uint8_t*>(hunt + 1)
    cdef uint64_t low = 0
    cdef uint64_t high = hunt.count
    cdef uint64_t middle
    cdef int order
    while low < high:
        middle = (low + high) // 2
        order = memcmp(key, keys + middle * HUNT_KEY, HUNT_KEY)
        if order == 0:
            return True
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return False


cdef bint _is_wanted(const Search* search, int why, const uint8_t* id16) noexcept nogil:
    cdef uint8_t key[HUNT_KEY]
    cdef const Hunt* hunt = search.wanted
    key[0] = <uint8_t>why
    memcpy(key + 1, id16, 16)
    while hunt != NULL:
        if _in_hunt(hunt, key):
            return True
        hunt = hunt.next
    return False


cdef int _gone(
    const Search* search, const Grant* grant, const uint8_t* consumer, const uint8_t* credential
) noexcept nogil:
    """What a holder rests on that is gone, a GrantEnd.  No id of anything is all zeros."""
    if _is_wanted(search, GRANT_CONSUMER, consumer):
        return GRANT_CONSUMER
    if _is_wanted(search, GRANT_CREDENTIAL, credential):
        return GRANT_CREDENTIAL
    if _is_wanted(search, GRANT_PLUGIN, grant.plugin):
        return GRANT_PLUGIN
    return GRANT_REVOKED if _is_wanted(search, GRANT_REVOKED, grant.jti) else GRANT_HOLDS


cdef void _look_at(Worker* worker, Conn* client) noexcept nogil:
    cdef Session* session = client.session
    cdef Request* request = client.request
    cdef uint64_t next_ms = <uint64_t>-1
    cdef int why
    if session != NULL and not session.policy.flags & POLICY_IGNORE_EXPIRY:
        why = _gone(&worker.search, &session.grant, session.consumer, session.credential)
        if why == GRANT_HOLDS:
            why = grant_due(worker, session, &next_ms)  # the clock may have been set
        if why:
            grant_end(worker, session, why)
    elif request != NULL and request.has_consumer:
        why = _gone(&worker.search, &request.grant, request.consumer, request.credential)
        if why:
            _end_holder(worker, &request.grant, why)


cdef void _search(Worker* worker) noexcept nogil:
    cdef Search* search = &worker.search
    cdef uint32_t count = worker.conns.chunk_count * SLAB_CHUNK
    cdef int looks = 0
    cdef Conn* conn
    while search.at < count and looks < LOOKS_MAX:
        conn = <Conn*>slab_at(&worker.conns, search.at)
        search.at += 1
        looks += 1
        if conn.kind == CONN_CLIENT and not conn.flags & FLAG_DEAD:
            _look_at(worker, conn)
    if search.at >= count:
        hunts_free(&search.wanted)
        _begin_round(search)


# --- ends -------------------------------------------------------------------------------------------


cdef void follow_go_on(Worker* worker) noexcept nogil:
    cdef Grant* grant
    cdef Session* session
    cdef int ends = 0
    if worker.search.under_way:
        _search(worker)
    while worker.grants.ending != NULL and ends < ENDS_MAX:
        grant = worker.grants.ending
        session = <Session*>grant
        grant_leave(worker, grant)
        if session.ending:
            continue
        nx_bump(&worker.counters.ends[grant.ended], 1)
        relay_end(
            worker, session, _why(grant.ended), _code(grant.ended), 1001, BY_GATEWAY
        )
        ends += 1
