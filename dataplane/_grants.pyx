"""An index from the digests of tokens to the sessions and handshakes that rest on them.

A hash table of intrusive chains, one a worker: nothing is taken from the system for a session.  It
grows by linear hashing: when there are more grants than chains, one chain is split in two.  So no
insertion ever waits for a table to be made anew, and there are 8 bytes of chains a session.  A
digest is random, and whoever may choose among tokens does not know the seed.

A handshake enters when its token was found good, in the same turn; its session takes its place at
the 101.  The Python thread takes a token out of the cache before it tells of its end, and a note is
read between turns: so whoever was let in by a token that ended meanwhile is in the index by then.
"""


cdef inline uint64_t _hash(const GrantIndex* index, const uint8_t* digest) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, digest, sizeof(value))
    value ^= index.seed
    value ^= value >> 33
    value *= <uint64_t>0xFF51AFD7ED558CCD
    return value ^ value >> 32


cdef inline Grant** _at(const GrantIndex* index, uint32_t place) noexcept nogil:
    return &index.segments[place // GRANT_SEGMENT][place % GRANT_SEGMENT]


cdef Grant** _chain(const GrantIndex* index, const uint8_t* digest) noexcept nogil:
    cdef uint64_t mask = 2 * <uint64_t>index.level - 1
    cdef uint32_t place = <uint32_t>(_hash(index, digest) & mask)
    return _at(index, place if place < index.chains else place - index.level)


cdef void _put(Grant** chain, Grant* grant) noexcept nogil:
    grant.next = chain[0]
    grant.held = chain
    if grant.next != NULL:
        grant.next.held = &grant.next
    chain[0] = grant


cdef void _split(GrantIndex* index) noexcept nogil:
    """Have one chain more, with the grants of an old one that belong there."""
    cdef uint32_t fresh = index.chains
    cdef Grant** old = _at(index, fresh - index.level)
    cdef Grant* grant = old[0]
    cdef Grant* next
    if fresh % GRANT_SEGMENT == 0:
        if fresh // GRANT_SEGMENT == index.segments_max:
            return
        index.segments[fresh // GRANT_SEGMENT] = <Grant**>calloc(GRANT_SEGMENT, sizeof(Grant*))
        if index.segments[fresh // GRANT_SEGMENT] == NULL:
            return  # longer chains, until there is memory
    index.chains = fresh + 1
    if index.chains == 2 * index.level:
        index.level = index.chains
    while grant != NULL:
        next = grant.next
        if _chain(index, grant.digest) != old:
            grant.held[0] = next
            if next != NULL:
                next.held = grant.held
            _put(_at(index, fresh), grant)
        grant = next


cdef void grant_enter(Worker* worker, Grant* grant) noexcept nogil:
    cdef GrantIndex* index = &worker.grants
    BUG_ON(grant.held != NULL)
    _put(_chain(index, grant.digest), grant)
    index.count += 1
    if index.count > index.chains:
        _split(index)


cdef Grant* grant_chain(Worker* worker, const uint8_t* digest) noexcept nogil:
    return _chain(&worker.grants, digest)[0]


cdef void grant_move(Worker* worker, Grant* grant, const MovedText* to, bint deadline) noexcept nogil:
    grant_leave(worker, grant)
    memcpy(grant.digest, to.digest, 32)
    memcpy(grant.jti, to.jti, 16)
    memcpy(grant.plugin, to.plugin, 16)
    if deadline:
        grant.expires_at = to.expires_at
    # Without a split: at the head of its chain it is behind whoever walks that.
    _put(_chain(&worker.grants, grant.digest), grant)
    worker.grants.count += 1


cdef void grant_end(Worker* worker, Session* session, int why) noexcept nogil:
    cdef GrantIndex* index = &worker.grants
    cdef Grant* grant = &session.grant
    if session.ending or grant.ended:
        return
    grant_leave(worker, grant)
    grant.ended = <uint8_t>why
    grant.held = index.ending_last
    index.ending_last[0] = grant
    index.ending_last = &grant.next


cdef int grant_due(Worker* worker, const Session* session, uint64_t* next_ms) noexcept nogil:
    cdef uint64_t most_ms = session.policy.max_age_ms
    cdef uint64_t due_ms
    cdef double left
    if nx_unlikely(most_ms != 0):
        due_ms = session.began_ms + most_ms
        if worker.now_ms >= due_ms:
            return GRANT_TOO_OLD
        if due_ms < next_ms[0]:
            next_ms[0] = due_ms
    if session.grant.held == NULL or session.grant.expires_at == 0:
        return GRANT_HOLDS
    left = session.grant.expires_at - worker_realtime(worker)
    if left <= 0:
        return GRANT_EXPIRED
    if left < 1e9:  # thirty years
        due_ms = worker.now_ms + <uint64_t>(left * 1000) + 1
        if due_ms < next_ms[0]:
            next_ms[0] = due_ms
    return GRANT_HOLDS


# --- a face for tests -----------------------------------------------------------------------------


cdef class GrantsFace:
    """A worker's index with numbered grants, to be held against a dict."""

    cdef Worker* worker
    cdef Grant* grants
    cdef uint32_t most

    def __cinit__(self, uint32_t most):
        self.most = most
        self.worker = <Worker*>calloc(1, sizeof(Worker))
        self.grants = <Grant*>calloc(most, sizeof(Grant))
        if self.worker == NULL or self.grants == NULL or grants_init(&self.worker.grants, most) < 0:
            raise MemoryError

    cdef Grant* _grant(self, uint32_t number) except NULL:
        if number >= self.most:
            raise IndexError(number)
        return &self.grants[number]

    def enter(self, uint32_t number, bytes digest not None):
        cdef Grant* grant = self._grant(number)
        if len(digest) != 32 or grant.held != NULL:
            raise ValueError(number)
        memcpy(grant.digest, <const char*>digest, 32)
        grant_enter(self.worker, grant)

    def leave(self, uint32_t number):
        grant_leave(self.worker, self._grant(number))

    def move(self, bytes old not None, bytes new not None):
        """Move all that rest on a token, as a worker does; how many."""
        cdef MovedText to
        cdef Grant* grant = grant_chain(self.worker, old)
        cdef Grant* next
        memset(&to, 0, sizeof(to))
        memcpy(to.digest, <const char*>new, 32)
        moved = 0
        while grant != NULL:
            next = grant.next
            if memcmp(grant.digest, <const char*>old, 32) == 0:
                grant_move(self.worker, grant, &to, True)
                moved += 1
            grant = next
        return moved

    def find(self, bytes digest not None):
        """The numbers of those that rest on a token."""
        cdef Grant* grant = grant_chain(self.worker, digest)
        found = set()
        while grant != NULL:
            BUG_ON(grant.held[0] != grant)
            if memcmp(grant.digest, <const char*>digest, 32) == 0:
                found.add(<uint32_t>(grant - self.grants))
            grant = grant.next
        return found

    def __len__(self):
        return self.worker.grants.count

    @property
    def chains(self):
        return self.worker.grants.chains

    def __dealloc__(self):
        if self.worker != NULL:
            grants_free(&self.worker.grants)
        free(self.worker)
        free(self.grants)
