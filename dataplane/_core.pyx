"""The ground the engine stands on: slabs, buffers, grace periods, the timer wheel, rings.

Each worker owns its connections, timers and memory and takes no lock.  Three things cross
threads, each through one mechanism: configuration and tokens by published pointers that are freed
after a grace period (`Reclaimer`), everything a worker asks or tells and is told through single
producer, single consumer rings, and counters by single-writer words.
"""

from collections import deque

# --- slabs ----------------------------------------------------------------------------------------


cdef int slab_init(Slab* slab, size_t size, size_t kept, uint32_t ceiling) noexcept nogil:
    """Prepare a slab of structs of `size` bytes.  Returns 1, or -ENOMEM."""
    memset(slab, 0, sizeof(Slab))
    slab.size = (size + 15) & ~<size_t>15
    slab.kept = kept
    slab.ceiling = ceiling
    slab.chunk_capacity = ceiling // SLAB_CHUNK + 1
    slab.chunks = <void**>calloc(slab.chunk_capacity, sizeof(void*))
    return 1 if slab.chunks != NULL else -ENOMEM


cdef void slab_free(Slab* slab) noexcept nogil:
    cdef uint32_t i
    for i in range(slab.chunk_count):
        free(slab.chunks[i])
    free(slab.chunks)
    memset(slab, 0, sizeof(Slab))


cdef uint32_t slab_grow(Slab* slab) noexcept nogil:
    """Take one more chunk from the system.  Returns the structs added, 0 when there are none."""
    cdef uint8_t* chunk
    cdef void** item
    cdef uint32_t i
    if slab.chunk_count == slab.chunk_capacity:
        return 0
    chunk = <uint8_t*>calloc(SLAB_CHUNK, slab.size)
    if chunk == NULL:
        return 0
    slab.chunks[slab.chunk_count] = chunk
    slab.chunk_count += 1
    for i in range(SLAB_CHUNK):
        item = <void**>(chunk + <size_t>(SLAB_CHUNK - 1 - i) * slab.size)
        item[0] = slab.spare
        slab.spare = item
        nx_poison(<uint8_t*>item + slab.kept, slab.size - slab.kept)
    return SLAB_CHUNK


cdef void* slab_take(Slab* slab) noexcept nogil:
    cdef void** item
    if slab.taken >= slab.ceiling:
        return NULL
    if slab.spare == NULL and slab_grow(slab) == 0:
        return NULL
    item = <void**>slab.spare
    slab.spare = item[0]
    slab.taken += 1
    nx_unpoison(item, slab.size)
    memset(item, 0, slab.size)
    return item


cdef void slab_give(Slab* slab, void* item) noexcept nogil:
    (<void**>item)[0] = slab.spare
    slab.spare = item
    nx_poison(<uint8_t*>item + slab.kept, slab.size - slab.kept)
    BUG_ON(slab.taken == 0)
    slab.taken -= 1


cdef void* slab_at(Slab* slab, uint32_t index) noexcept nogil:
    if index // SLAB_CHUNK >= slab.chunk_count:
        return NULL
    return <uint8_t*>slab.chunks[index // SLAB_CHUNK] + <size_t>(index % SLAB_CHUNK) * slab.size


# --- buffers --------------------------------------------------------------------------------------


cdef inline uint32_t _capacity_for(uint32_t used, uint32_t size) noexcept nogil:
    """Small ones double; large ones take pages, a quarter more where they grow piece by piece.

    Up to HEAD_BYTES_MAX none takes more than that: a head's may not (S51).
    """
    cdef uint32_t wanted = used + size
    cdef uint32_t capacity = 512
    if wanted > 16384:
        capacity = (wanted + (wanted >> 2 if used else 0) + 4095) & ~<uint32_t>4095
        if wanted <= HEAD_BYTES_MAX and capacity > HEAD_BYTES_MAX:
            capacity = HEAD_BYTES_MAX
        return capacity
    while capacity < wanted:
        capacity *= 2
    return capacity


cdef int buffer_append(
    Buffer* buffer, const uint8_t* data, uint32_t size, uint32_t most
) noexcept nogil:
    """Copy `size` bytes in.  Returns 1, or CORE_FULL past `most` bytes or without memory."""
    cdef uint32_t used = buffer.tail - buffer.head
    cdef uint32_t capacity
    cdef uint8_t* grown
    if size > most or used > most - size:
        return CORE_FULL
    if size == 0:
        return 1
    if buffer.capacity - buffer.tail < size:
        if buffer.capacity >= used + size and buffer.head >= buffer.capacity // 2:
            memmove(buffer.data, buffer.data + buffer.head, used)
        else:
            capacity = _capacity_for(used, size)
            grown = <uint8_t*>malloc(capacity)
            if grown == NULL:
                return CORE_FULL
            if used:
                memcpy(grown, buffer.data + buffer.head, used)
            free(buffer.data)
            buffer.data = grown
            buffer.capacity = capacity
        buffer.head = 0
        buffer.tail = used
    memcpy(buffer.data + buffer.tail, data, size)
    buffer.tail += size
    return 1


cdef void buffer_consume(Buffer* buffer, uint32_t size) noexcept nogil:
    BUG_ON(size > buffer.tail - buffer.head)
    buffer.head += size
    if buffer.head == buffer.tail:
        buffer_drop(buffer)


cdef void buffer_drop(Buffer* buffer) noexcept nogil:
    free(buffer.data)
    memset(buffer, 0, sizeof(Buffer))


# --- grace periods --------------------------------------------------------------------------------

cdef class Reclaimer:
    def __cinit__(self):
        self.workers = 0
        self.waiting = deque()

    cdef void attach(self, uint64_t* turn):
        """Count a worker in; its turn counter must outlive this object."""
        self.turns[self.workers] = turn
        self.workers += 1

    cdef tuple _seen(self):
        nx_fence()
        return tuple([nx_load_u64(self.turns[i]) for i in range(self.workers)])

    cdef void retire(self, void* memory):
        if memory != NULL:
            self.waiting.append((self._seen(), <uint64_t>memory, None))

    cpdef void retire_object(self, object owner):
        self.waiting.append((self._seen(), 0, owner))

    cdef bint _passed(self, tuple seen):
        cdef int i
        cdef uint64_t then
        for i in range(self.workers):
            then = seen[i]
            if then & 1 and nx_load_u64(self.turns[i]) == then:
                return False
        return True

    cpdef int sweep(self):
        """Free what is past its grace period.  Returns how much that was."""
        cdef int freed = 0
        cdef uint64_t memory
        while self.waiting and self._passed(self.waiting[0][0]):
            memory = self.waiting.popleft()[1]
            free(<void*>memory)
            freed += 1
        return freed

    def __len__(self):
        return len(self.waiting)

    def __dealloc__(self):
        # Workers have been joined by now: nobody reads any more.
        if self.waiting is not None:
            for item in self.waiting:
                free(<void*><uint64_t>item[1])


# --- the timer wheel ------------------------------------------------------------------------------


cdef void wheel_init(Wheel* wheel, uint64_t now_ms) noexcept nogil:
    cdef int i
    for i in range(WHEEL_SLOTS):
        wheel.slots[i].next = &wheel.slots[i]
        wheel.slots[i].prev = &wheel.slots[i]
    wheel.now_tick = now_ms // WHEEL_TICK_MS
    wheel.armed = 0


cdef void wheel_arm(Wheel* wheel, Timer* timer, uint64_t deadline_ms) noexcept nogil:
    """Arm, or move, a timer: it fires at most one tick after `deadline_ms`."""
    cdef uint64_t tick = deadline_ms // WHEEL_TICK_MS + 1
    cdef Timer* slot
    if timer.prev != NULL:
        wheel_cancel(wheel, timer)
    if tick <= wheel.now_tick:
        tick = wheel.now_tick + 1
    slot = &wheel.slots[tick % WHEEL_SLOTS]
    timer.deadline_ms = deadline_ms
    timer.next = slot
    timer.prev = slot.prev
    slot.prev.next = timer
    slot.prev = timer
    wheel.filled[(tick % WHEEL_SLOTS) >> 6] |= <uint64_t>1 << (tick & 63)
    wheel.armed += 1


cdef void wheel_cancel(Wheel* wheel, Timer* timer) noexcept nogil:
    if timer.prev == NULL:
        return
    timer.prev.next = timer.next
    timer.next.prev = timer.prev
    timer.prev = NULL
    timer.next = NULL
    wheel.armed -= 1


cdef int wheel_run(Wheel* wheel, uint64_t now_ms, timer_fired fired, void* context) noexcept nogil:
    """Fire what is due.  Returns how many fired.  A handler may arm and cancel any timer."""
    cdef uint64_t tick = now_ms // WHEEL_TICK_MS
    cdef uint64_t last
    cdef Timer due
    cdef Timer* slot
    cdef Timer* timer
    cdef int count = 0
    if tick <= wheel.now_tick:
        return 0
    last = tick if tick - wheel.now_tick < WHEEL_SLOTS else wheel.now_tick + WHEEL_SLOTS
    while wheel.now_tick < last:
        wheel.now_tick += 1
        slot = &wheel.slots[wheel.now_tick % WHEEL_SLOTS]
        if slot.next == slot:
            continue
        # Take the whole list off first: a handler that arms for this slot is met next time round.
        due.next = slot.next
        due.prev = slot.prev
        due.next.prev = &due
        due.prev.next = &due
        slot.next = slot
        slot.prev = slot
        while due.next != &due:
            timer = due.next
            wheel_cancel(wheel, timer)
            if timer.deadline_ms > now_ms:
                wheel_arm(wheel, timer, timer.deadline_ms)
                continue
            fired(context, timer)
            count += 1
    wheel.now_tick = tick
    return count


cdef uint64_t _next_filled(Wheel* wheel) noexcept nogil:
    """The first tick after now whose slot holds a timer; a whole turn of the wheel for none."""
    cdef uint64_t tick = wheel.now_tick + 1
    cdef uint64_t last = wheel.now_tick + WHEEL_SLOTS
    cdef uint64_t word
    cdef Timer* slot
    while tick < last:
        word = wheel.filled[(tick % WHEEL_SLOTS) >> 6] >> (tick & 63)
        if word == 0:
            tick = (tick | 63) + 1
            continue
        tick += nx_ctz(word)
        slot = &wheel.slots[tick % WHEEL_SLOTS]
        if slot.next != slot:
            return tick if tick < last else last
        # Its timers were cancelled, or it fired: found here, so that neither has to look.
        wheel.filled[(tick % WHEEL_SLOTS) >> 6] &= ~(<uint64_t>1 << (tick & 63))
    return last


cdef int wheel_sleep_ms(Wheel* wheel, uint64_t now_ms) noexcept nogil:
    """How long a worker may sleep: until the next slot that holds a timer comes round."""
    cdef uint64_t until_ms = _next_filled(wheel) * WHEEL_TICK_MS
    return <int>(until_ms - now_ms) if until_ms > now_ms else 0


# --- rings ----------------------------------------------------------------------------------------


cdef int ring_init(Ring* ring, uint32_t slot_size, uint32_t slots) noexcept nogil:
    memset(ring, 0, sizeof(Ring))
    ring.slots = <uint8_t*>calloc(slots, slot_size)
    ring.slot_size = slot_size
    ring.mask = slots - 1
    return 1 if ring.slots != NULL else -ENOMEM


cdef void ring_free(Ring* ring) noexcept nogil:
    free(ring.slots)
    ring.slots = NULL


cdef void* ring_reserve(Ring* ring) noexcept nogil:
    if ring.written - nx_load_u64(&ring.taken) > ring.mask:
        return NULL
    return ring.slots + <size_t>(ring.written & ring.mask) * ring.slot_size


cdef void ring_publish(Ring* ring) noexcept nogil:
    nx_store_u64(&ring.written, ring.written + 1)


cdef void* ring_peek(Ring* ring) noexcept nogil:
    if ring.taken == nx_load_u64(&ring.written):
        return NULL
    return ring.slots + <size_t>(ring.taken & ring.mask) * ring.slot_size


cdef void ring_release(Ring* ring) noexcept nogil:
    nx_store_u64(&ring.taken, ring.taken + 1)


# --- a worker -------------------------------------------------------------------------------------

cdef enum:
    CLOSED_A_TURN = 2048  # connections: accepted and ended, 16 listeners; those of a batch of events


cdef int worker_init(Worker* worker, int index, Shared* shared) noexcept nogil:
    """Prepare a zeroed worker: memory, epoll, rings.  Returns 1 or -errno; listeners come later."""
    cdef epoll_event event
    cdef Conn* inbox
    cdef uint32_t clients = shared.max_connections
    worker.index = index
    worker.shared = shared
    worker.all_sessions.next = &worker.all_sessions
    worker.all_sessions.prev = &worker.all_sessions
    worker.now_ms = clock_ms(CLOCK_MONOTONIC)
    if getrandom(worker.random, sizeof(worker.random), 0) != sizeof(worker.random):
        return -EINVAL
    wheel_init(&worker.wheel, worker.now_ms)
    worker.scratch = <uint8_t*>malloc(HEADROOM + SCRATCH_BYTES + 64)
    worker.compose = <uint8_t*>malloc(COMPOSE_BYTES)
    if worker.scratch == NULL or worker.compose == NULL:
        return -ENOMEM
    # Any worker may have them all: `Limits` keeps the totals, and memory is taken as it is used.
    # A client has one upstream at the most; what was closed is held to the end of its turn.
    # A free connection still tells that it is free, and of which generation it was.
    if slab_init(
        &worker.conns, sizeof(Conn), <size_t>&(<Conn*>NULL).ssl, clients * 2 + CLOSED_A_TURN
    ) < 0:
        return -ENOMEM
    if slab_init(&worker.sessions, sizeof(Session), sizeof(void*), shared.max_sessions) < 0:
        return -ENOMEM
    if slab_init(&worker.requests, sizeof(Request), sizeof(void*), clients) < 0:
        return -ENOMEM
    if grants_init(&worker.grants, clients) < 0:
        return -ENOMEM
    if (
        ring_init(&worker.inbox, sizeof(Note), INBOX_SLOTS) < 0
        or ring_init(&worker.questions, sizeof(Question), QUESTION_SLOTS) < 0
        or ring_init(&worker.records, sizeof(Record), RECORD_SLOTS) < 0
    ):
        return -ENOMEM
    worker.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if worker.epoll_fd < 0:
        return -errno
    worker.inbox_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if worker.inbox_fd < 0:
        return -errno
    if pipe2(worker.pipe, O_CLOEXEC | O_NONBLOCK) < 0:
        return -errno
    fcntl(worker.pipe[0], F_SETPIPE_SZ, PIPE_BYTES)  # a smaller one only takes more passes
    worker.spare_fd = eventfd(0, EFD_CLOEXEC)
    inbox = conn_new(worker, worker.inbox_fd, CONN_INBOX, 0)
    event.events = EPOLLIN
    event.data.ptr = inbox
    return 1 if epoll_ctl(worker.epoll_fd, EPOLL_CTL_ADD, worker.inbox_fd, &event) == 0 else -errno


cdef int grants_init(GrantIndex* index, uint32_t grants_max) noexcept nogil:
    index.segments_max = grants_max // GRANT_SEGMENT + 1
    index.segments = <Grant***>calloc(index.segments_max, sizeof(Grant**))
    if index.segments == NULL:
        return -ENOMEM
    index.segments[0] = <Grant**>calloc(GRANT_SEGMENT, sizeof(Grant*))
    if index.segments[0] == NULL or getrandom(&index.seed, sizeof(index.seed), 0) < 0:
        return -ENOMEM
    index.chains = index.level = GRANT_SEGMENT
    index.ending_last = &index.ending
    return 1


cdef void grants_free(GrantIndex* index) noexcept nogil:
    cdef uint32_t i
    if index.segments != NULL:
        for i in range(index.segments_max):
            free(index.segments[i])
    free(index.segments)


cdef void hunts_free(Hunt** first) noexcept nogil:
    cdef Hunt* hunt
    while first[0] != NULL:
        hunt = first[0]
        first[0] = hunt.next
        free(hunt)


cdef void worker_free(Worker* worker) noexcept nogil:
    """Give everything back; its thread has ended."""
    cdef Question* question = <Question*>ring_peek(&worker.questions)
    cdef Note* note = <Note*>ring_peek(&worker.inbox)
    while question != NULL:
        free(question.text)
        ring_release(&worker.questions)
        question = <Question*>ring_peek(&worker.questions)
    while note != NULL:
        free(note.text)
        ring_release(&worker.inbox)
        note = <Note*>ring_peek(&worker.inbox)
    ring_free(&worker.inbox)
    ring_free(&worker.questions)
    ring_free(&worker.records)
    slab_free(&worker.conns)
    slab_free(&worker.sessions)
    slab_free(&worker.requests)
    grants_free(&worker.grants)
    hunts_free(&worker.search.wanted)
    hunts_free(&worker.search.coming)
    free(worker.scratch)
    free(worker.compose)
    if worker.epoll_fd > 0:
        close(worker.epoll_fd)
    if worker.inbox_fd > 0:
        close(worker.inbox_fd)
    if worker.pipe[0] > 0:
        close(worker.pipe[0])
        close(worker.pipe[1])
    if worker.spare_fd > 0:
        close(worker.spare_fd)


cdef uint64_t _rotate(uint64_t value, int by) noexcept nogil:
    return (value << by) | (value >> (64 - by))


cdef uint64_t worker_random(Worker* worker) noexcept nogil:
    """xoshiro256**: for request ids, target choice and jitter; never for secrets or masks."""
    cdef uint64_t* s = worker.random
    cdef uint64_t result = _rotate(s[1] * 5, 7) * 9
    cdef uint64_t t = s[1] << 17
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = _rotate(s[3], 45)
    return result


cdef void worker_mask(Worker* worker, uint8_t* out4) noexcept nogil:
    """A mask key nobody can guess (RFC 6455 §5.3), from the kernel's generator, 64 to a syscall."""
    if worker.entropy_left == 0:
        BUG_ON(getrandom(worker.entropy, sizeof(worker.entropy), 0) != sizeof(worker.entropy))
        worker.entropy_left = sizeof(worker.entropy)
    worker.entropy_left -= 4
    memcpy(out4, worker.entropy + worker.entropy_left, 4)


cdef Conn* conn_new(Worker* worker, int fd, uint8_t kind, uint8_t state) noexcept nogil:
    """A connection for `fd`, owned from now on; NULL (fd not closed) when there is no room."""
    cdef uint32_t generation
    cdef uint32_t index
    cdef Conn* conn
    cdef Slab* slab = &worker.conns
    if slab.spare == NULL and slab_grow(slab) == 0:
        return NULL
    # The slot's generation survives its lives in the second word after the free list's link.
    conn = <Conn*>slab.spare
    generation = conn.generation
    index = conn.index
    conn = <Conn*>slab_take(slab)
    if conn == NULL:
        return NULL
    if generation == 0:
        index = _conn_index(slab, conn)
    conn.generation = generation + 1 if generation < 0xFFFFFF else 1
    conn.index = index
    conn.fd = fd
    conn.kind = kind
    conn.state = state
    nx_bump(&worker.counters.conns_live, 1)
    return conn


cdef uint32_t _conn_index(Slab* slab, Conn* conn) noexcept nogil:
    """Where a slot lies; asked once in its life."""
    cdef uint32_t i
    cdef uint8_t* chunk
    for i in range(slab.chunk_count):
        chunk = <uint8_t*>slab.chunks[slab.chunk_count - 1 - i]
        if chunk <= <uint8_t*>conn and <uint8_t*>conn < chunk + SLAB_CHUNK * slab.size:
            return (slab.chunk_count - 1 - i) * SLAB_CHUNK + <uint32_t>(
                <size_t>(<uint8_t*>conn - chunk) // slab.size
            )
    BUG_ON(1)
    return 0


cdef Conn* conn_find(Worker* worker, uint64_t ref) noexcept nogil:
    cdef Conn* conn = <Conn*>slab_at(&worker.conns, <uint32_t>ref)
    if (
        conn == NULL
        or conn.kind == CONN_FREE
        or conn.flags & FLAG_DEAD
        or (conn.generation & 0xFFFFFF) != (<uint32_t>(ref >> 32) & 0xFFFFFF)
    ):
        return NULL
    return conn


cdef int conn_register(Worker* worker, Conn* conn) noexcept nogil:
    """Edge-triggered, once for its life.  Returns 1 or -errno."""
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.ptr = conn
    conn.flags |= FLAG_REGISTERED
    return 1 if epoll_ctl(worker.epoll_fd, EPOLL_CTL_ADD, conn.fd, &event) == 0 else -errno


cdef void conn_ready(Worker* worker, Conn* conn) noexcept nogil:
    """Serve this connection again next turn: it spent its budget with input left."""
    if not conn.flags & (FLAG_READY | FLAG_DEAD):
        conn.flags |= FLAG_READY
        conn.next = worker.ready
        worker.ready = conn


cdef void conn_close(Worker* worker, Conn* conn) noexcept nogil:
    """Close the socket now and the struct at the end of the turn: events may still name it.

    The caller has dealt with `session` and `ssl`.
    """
    if conn.flags & FLAG_DEAD:
        return
    conn.flags |= FLAG_DEAD
    wheel_cancel(&worker.wheel, &conn.timer)
    close(conn.fd)
    conn.fd = -1
    buffer_drop(&conn.input)
    buffer_drop(&conn.output)
    if conn.request != NULL:
        request_drop(worker, conn)
    if conn.kind == CONN_CLIENT:
        quota_give(&worker.shared.limits.connections)
        conn_uncount_address(worker, conn)
        if conn.flags & FLAG_REFUSED:
            quota_give(&worker.shared.limits.refusals)
    if not conn.flags & FLAG_READY:
        conn.next = worker.graveyard
        worker.graveyard = conn
    # In the ready list: buried when that is walked.
    nx_bump(&worker.counters.conns_live, <uint64_t>-1)


cdef void conn_bury(Worker* worker) noexcept nogil:
    cdef Conn* conn
    while worker.graveyard != NULL:
        conn = worker.graveyard
        worker.graveyard = conn.next
        conn.kind = CONN_FREE
        slab_give(&worker.conns, conn)


cdef void policy_hold(Worker* worker, Policy* policy) noexcept nogil:
    nx_bump(&policy.users[worker.index], 1)


cdef void policy_release(Worker* worker, Policy* policy) noexcept nogil:
    nx_bump(&policy.users[worker.index], <uint64_t>-1)


cdef void request_drop(Worker* worker, Conn* conn) noexcept nogil:
    """Let go of the request in hand: its policy, its upstream head, its slot."""
    cdef Request* request = conn.request
    conn.request = NULL
    grant_leave(worker, &request.grant)
    if request.policy != NULL:
        policy_release(worker, request.policy)
    if request.proxied:
        nx_bump(&worker.counters.exchanges_live, <uint64_t>-1)
    if request.counted:
        session_uncount(worker, request.consumer_cell)
    free(request.upstream_head)
    slab_give(&worker.requests, request)


# --- what is counted over all workers -------------------------------------------------------------


cdef void session_uncount(Worker* worker, uint32_t consumer_cell) noexcept nogil:
    quota_give(&worker.shared.limits.sessions)
    if consumer_cell:
        limit_give(&worker.shared.limits.consumers, consumer_cell)


cdef bint conn_count_address(Worker* worker, Conn* client) noexcept nogil:
    cdef LimitTable* table = &worker.shared.limits.addresses
    cdef int64_t cell
    conn_uncount_address(worker, client)
    cell = limit_take(
        table, limit_address(client.remote, client.flags & FLAG_V6), 0, worker.now_ms * 1000000
    )
    if cell == LIMIT_OVER:
        return False
    client.address_cell = <uint32_t>cell
    return True


cdef void conn_uncount_address(Worker* worker, Conn* client) noexcept nogil:
    if client.address_cell:
        limit_give(&worker.shared.limits.addresses, client.address_cell)
        client.address_cell = 0


cdef Record* record_reserve(Worker* worker) noexcept nogil:
    """A zeroed record to fill and publish; NULL (and counted) when Python is behind."""
    cdef Record* record = <Record*>ring_reserve(&worker.records)
    if record == NULL:
        nx_bump(&worker.counters.records_dropped, 1)
        return NULL
    memset(record, 0, sizeof(Record))
    return record


cdef void request_note(Worker* worker, Conn* client, int status, const char* why) noexcept nogil:
    cdef Request* request = client.request
    cdef Record* record
    if not request.is_handshake:
        return
    if status < STATUS_MAX:
        nx_bump(&worker.counters.handshakes[status], 1)
    record = record_reserve(worker)
    if record == NULL:
        return
    record.kind = RECORD_REFUSED
    record.status = <uint16_t>status
    record.why = why
    memcpy(record.id, request.id, 16)
    memcpy(record.remote, client.remote, 16)
    record.remote_port = client.remote_port
    record.v6 = 1 if client.flags & FLAG_V6 else 0
    record.duration_ms = worker.now_ms - request.began_ms
    if request.policy != NULL:
        memcpy(record.route, request.policy.route, 16)
        record.flags |= RECORD_HAS_ROUTE
    ring_publish(&worker.records)


# --- heads in a connection's input -----------------------------------------------------------------


cdef int conn_keep(Conn* client, const uint8_t* data, uint32_t size) noexcept nogil:
    """Make sure that data[0:size] stands in the connection's input.  Returns 1 or CORE_FULL."""
    if client.input.data != NULL and data == client.input.data + client.input.head:
        return 1
    return buffer_append(&client.input, data, size, INPUT_BYTES_MAX)


cdef int conn_head_done(
    Conn* client, const uint8_t* data, uint32_t size, uint32_t head_len
) noexcept nogil:
    """Take the head off; what follows it stands in the input.  Returns 1 or CORE_FULL."""
    client.scanned = 0
    if client.input.data != NULL and data == client.input.data + client.input.head:
        buffer_consume(&client.input, head_len)
        return 1
    return buffer_append(&client.input, data + head_len, size - head_len, INPUT_BYTES_MAX)


# --- putting heads together -----------------------------------------------------------------------


cdef void put_uint(Writer* out, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <uint8_t>(48 + value % 10)
        value //= 10
        if value == 0:
            break
    put(out, digits + at, 20 - at)


cdef void put_hex(Writer* out, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef const char* digits = b"0123456789abcdef"
    cdef uint8_t* to = out.data + out.size
    cdef uint32_t i
    if nx_unlikely(size * 2 > out.capacity - out.size):
        out.full = 1
        return
    for i in range(size):
        to[2 * i] = digits[data[i] >> 4]
        to[2 * i + 1] = digits[data[i] & 15]
    out.size += size * 2


cdef uint32_t address_text(const uint8_t* address, bint v6, char* out64) noexcept nogil:
    """Write an address as text, without brackets.  Returns its bytes, NUL not counted."""
    cdef Writer out
    cdef int i
    if not v6:  # by hand: inet_ntop goes through printf, 1 µs of a handshake
        out.data = <uint8_t*>out64
        out.size = 0
        out.capacity = 64
        out.full = 0
        for i in range(4):
            if i:
                put(&out, b".", 1)
            put_uint(&out, address[i])
        out64[out.size] = 0
        return out.size
    if inet_ntop(AF_INET6, address, out64, 64) == NULL:
        out64[0] = 0
    return <uint32_t>strlen(out64)


cdef void client_is_peer(Conn* conn) noexcept nogil:
    memcpy(conn.remote, conn.socket_address, 16)
    conn.remote_port = conn.socket_port
    conn.flags &= ~FLAG_V6
    if conn.flags & FLAG_SOCKET_V6:
        conn.flags |= FLAG_V6


cdef bint peer_trusted(const Shared* shared, const Conn* conn) noexcept nogil:
    """Tell whether the socket's peer is in TRUSTED_IPS: only the socket is believed."""
    cdef uint8_t mapped[16]
    cdef int i, bits
    if conn.flags & FLAG_SOCKET_V6:
        memcpy(mapped, conn.socket_address, 16)
    else:
        memset(mapped, 0, 10)
        mapped[10] = mapped[11] = 0xFF
        memcpy(mapped + 12, conn.socket_address, 4)
    for i in range(shared.trusted_count):
        bits = shared.trusted_bits[i]
        if memcmp(mapped, shared.trusted[i].bytes, bits // 8) != 0:
            continue
        if bits % 8 == 0 or (mapped[bits // 8] ^ shared.trusted[i].bytes[bits // 8]) >> (
            8 - bits % 8
        ) == 0:
            return True
    return False


# --- faces for tests ------------------------------------------------------------------------------


cdef class BufferFace:
    """A Buffer, to be held against a model."""

    cdef Buffer c

    def append(self, bytes data not None, uint32_t most):
        return buffer_append(&self.c, data, <uint32_t>len(data), most) > 0

    def consume(self, uint32_t size):
        if size > buffer_size(&self.c):
            raise ValueError("more than there is")
        buffer_consume(&self.c, size)

    @property
    def content(self):
        return (self.c.data + self.c.head)[: buffer_size(&self.c)] if self.c.data != NULL else b""

    @property
    def capacity(self):
        return self.c.capacity

    def __dealloc__(self):
        buffer_drop(&self.c)


cdef struct FiredTimers:
    Timer* base
    uint32_t* order  # owned by the face; one place a timer
    uint32_t count


cdef void _note_fired(void* context, Timer* timer) noexcept nogil:
    cdef FiredTimers* fired = <FiredTimers*>context
    fired.order[fired.count] = <uint32_t>(timer - fired.base)
    fired.count += 1


cdef class WheelFace:
    """A Wheel with numbered timers."""

    cdef Wheel c
    cdef FiredTimers fired
    cdef uint32_t timers

    def __cinit__(self, uint64_t now_ms, uint32_t timers):
        self.timers = timers
        self.fired.base = <Timer*>calloc(timers, sizeof(Timer))
        self.fired.order = <uint32_t*>calloc(timers, sizeof(uint32_t))
        if self.fired.base == NULL or self.fired.order == NULL:
            raise MemoryError
        wheel_init(&self.c, now_ms)

    cdef Timer* _timer(self, uint32_t number) except NULL:
        if number >= self.timers:
            raise IndexError(number)
        return &self.fired.base[number]

    def arm(self, uint32_t number, uint64_t deadline_ms):
        wheel_arm(&self.c, self._timer(number), deadline_ms)

    def cancel(self, uint32_t number):
        wheel_cancel(&self.c, self._timer(number))

    def run(self, uint64_t now_ms):
        """The numbers of the timers that fired, in order."""
        self.fired.count = 0
        assert wheel_run(&self.c, now_ms, _note_fired, &self.fired) == self.fired.count
        return [self.fired.order[i] for i in range(self.fired.count)]

    def sleep_ms(self, uint64_t now_ms):
        return wheel_sleep_ms(&self.c, now_ms)

    @property
    def armed(self):
        return self.c.armed

    def __dealloc__(self):
        free(self.fired.base)
        free(self.fired.order)


cdef class SlabFace:
    """A Slab of 24-byte structs, each known by its address."""

    cdef Slab c

    def __cinit__(self, uint32_t ceiling):
        if slab_init(&self.c, 24, 24, ceiling) < 0:
            raise MemoryError

    def take(self):
        """The address of a struct, which is all zeros and then is not; None when there is none."""
        cdef uint8_t* item = <uint8_t*>slab_take(&self.c)
        cdef int i
        if item == NULL:
            return None
        for i in range(24):
            BUG_ON(item[i] != 0)
        memset(item, 0xA5, 24)
        return <uint64_t>item

    def give(self, uint64_t item):
        slab_give(&self.c, <void*>item)

    @property
    def taken(self):
        return self.c.taken

    def __dealloc__(self):
        slab_free(&self.c)


cdef class RingFace:
    """A Ring of numbers."""

    cdef Ring c

    def __cinit__(self, uint32_t slots):
        if ring_init(&self.c, sizeof(uint64_t), slots) < 0:
            raise MemoryError

    def put(self, uint64_t value):
        """Whether there was room."""
        cdef uint64_t* slot = <uint64_t*>ring_reserve(&self.c)
        if slot == NULL:
            return False
        slot[0] = value
        ring_publish(&self.c)
        return True

    def take(self):
        cdef uint64_t* slot = <uint64_t*>ring_peek(&self.c)
        if slot == NULL:
            return None
        value = slot[0]
        ring_release(&self.c)
        return value

    def __dealloc__(self):
        ring_free(&self.c)


cdef class MaskFace:
    """The mask keys of one worker, for tests."""

    cdef Worker* worker

    def __cinit__(self):
        self.worker = <Worker*>calloc(1, sizeof(Worker))
        if self.worker == NULL:
            raise MemoryError

    def take(self, int count):
        """The next keys, four bytes each."""
        cdef bytearray keys = bytearray(4 * count)
        cdef uint8_t* out = keys
        cdef int i
        for i in range(count):
            worker_mask(self.worker, out + 4 * i)
        return bytes(keys)

    def __dealloc__(self):
        free(self.worker)
