"""The loop of a worker: accept, dispatch, budgets, timers, drain.

A turn: wait for events, serve each, then those that had spent their budget, then the timers, then
free what was closed.  Nothing below `worker_run` takes the GIL.
"""

cdef enum:
    PULSE_MS = 20  # of draining
    ACCEPT_PAUSE_MS = 100  # without descriptors left

# --- what a stage asked for -------------------------------------------------------------------------


cdef void _act(Worker* worker, Conn* client, int step) noexcept nogil:
    """Do what a stage said is next, until there is nothing to do but wait."""
    cdef int turns = 0
    while step != STEP_WAIT:
        BUG_ON(turns > 8)
        turns += 1
        if step == STEP_ANSWER:
            upstream_abandon(worker, client)
            step = exchange_answer(worker, client)
        elif step == STEP_REFUSE:
            step = exchange_close(worker, client)
        elif step == STEP_REQUEST:
            step = exchange_begin(worker, client)
        elif step == STEP_PROXY:
            step = proxy_go(worker, client)
        elif step == STEP_ANSWERED:
            upstream_abandon(worker, client)
            step = exchange_done(worker, client)
        elif step == STEP_ESTABLISHED:
            relay_begin(worker, client.session)
            return
        else:
            upstream_abandon(worker, client)
            conn_end(worker, client)
            return


cdef void _serve_client(Worker* worker, Conn* client, bint hung_up) noexcept nogil:
    cdef int step = STEP_WAIT
    cdef uint32_t pending = buffer_size(&client.output)
    if client.state == STATE_TLS:
        step = tls_handshake(client)
        if step <= 0:
            if step < 0:
                conn_end(worker, client)
            return
        client.state = STATE_HEAD
        step = STEP_WAIT
    if client.state == STATE_LINGER:
        _act(worker, client, linger_read(worker, client))
        return
    if pending and conn_flush(client) < 0:
        _act(worker, client, STEP_CLOSE)
        return
    if client.state == STATE_HEAD and buffer_size(&client.output):
        # The last answer first: its client can wait with the next request, or end its side.
        if buffer_size(&client.output) < pending:
            wheel_arm(&worker.wheel, &client.timer, worker.now_ms + WRITE_MS)
        return
    if client.state == STATE_HEAD:
        step = handshake_read(worker, client)
    elif client.state == STATE_BODY and client.request.judged_by_body:
        step = handshake_read_body(worker, client)
    elif client.state == STATE_BODY:
        step = exchange_read(worker, client)
    elif hung_up:
        step = STEP_CLOSE  # nobody is left to hear an answer
    elif client.state == STATE_PROXY:
        if buffer_size(&client.output) < pending:
            client.request.moved = 1
        step = proxy_go(worker, client)
    _act(worker, client, step)


cdef void _serve(Worker* worker, Conn* conn, bint hung_up) noexcept nogil:
    cdef Conn* client
    if conn.session != NULL:
        relay_event(worker, conn)
    elif conn.kind == CONN_CLIENT:
        _serve_client(worker, conn, hung_up)
    elif conn.state == STATE_IDLE:
        pool_event(worker, conn)
    elif conn.kind == CONN_UPSTREAM:
        client = conn.peer
        _act(worker, client, proxy_event(worker, conn))


# --- accepting --------------------------------------------------------------------------------------


cdef void _remember_peer(Conn* conn, const sockaddr_storage* address) noexcept nogil:
    cdef const sockaddr_in* v4 = <const sockaddr_in*>address
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>address
    if address.ss_family == AF_INET:
        memcpy(conn.socket_address, &v4.sin_addr, 4)
        conn.socket_port = ntohs(v4.sin_port)
    else:
        memcpy(conn.socket_address, v6.sin6_addr.s6_addr, 16)
        conn.socket_port = ntohs(v6.sin6_port)
        conn.flags |= FLAG_SOCKET_V6
    client_is_peer(conn)


cdef void _say_no(Worker* worker, Conn* listener, int fd, const char* text) noexcept nogil:
    """Refuse a connection before it costs anything, in words where that takes no TLS.

    What it sent is read first, so that no reset overtakes them.
    """
    if not listener.flags & FLAG_TLS:
        recv(fd, worker.scratch, SCRATCH_BYTES, MSG_DONTWAIT)
        send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT)


cdef bint _too_many(Worker* worker, Conn* listener, Conn* client) noexcept nogil:
    """Whether the address has too many connections, or too many handshakes for one more of TLS.

    A trusted peer is not held to what it brings: those it names are.
    """
    cdef LimitTable* table = &worker.shared.limits.addresses
    if table.cells == NULL or peer_trusted(worker.shared, client):
        return False
    if not conn_count_address(worker, client):
        refused(worker, REFUSED_ADDRESS)
        return True
    if client.address_cell and listener.flags & FLAG_TLS and not limit_spend(
        table, client.address_cell, worker.now_ms * 1000000, True
    ):
        refused(worker, REFUSED_RATE)
        return True
    return False


cdef void _greet(Worker* worker, Conn* listener, int fd, const sockaddr_storage* address) noexcept nogil:
    """Begin with a connection just accepted; with TCP_DEFER_ACCEPT its first bytes are there."""
    cdef Quota* quota = &worker.shared.limits.connections
    cdef Conn* client
    if not quota_take(quota):
        refused(worker, REFUSED_CONNECTIONS)
        _say_no(worker, listener, fd, full_answer())
        close(fd)
        return
    client = conn_new(worker, fd, CONN_CLIENT, STATE_HEAD)
    if client == NULL:
        quota_give(quota)
        nx_bump(&worker.counters.refused_full, 1)
        _say_no(worker, listener, fd, full_answer())
        close(fd)
        return
    client.flags = FLAG_READABLE | FLAG_WRITABLE
    client.local_port = listener.local_port
    _remember_peer(client, address)
    if _too_many(worker, listener, client):
        _say_no(worker, listener, fd, busy_answer())
        conn_end(worker, client)
        return
    nx_bump(&worker.counters.accepts, 1)
    if listener.flags & FLAG_TLS:
        client.state = STATE_TLS
        if tls_start(worker, client) < 0:
            conn_end(worker, client)
            return
    _serve_client(worker, client, False)
    if client.flags & (FLAG_DEAD | FLAG_REGISTERED):
        return
    # Part of a head, or of a TLS handshake: the rest is waited for, within bounds.
    if conn_register(worker, client) < 0:
        _act(worker, client, STEP_CLOSE)
        return
    if client.timer.prev == NULL:  # a parked one has its bound
        wheel_arm(&worker.wheel, &client.timer, worker.now_ms + HEAD_MS)


cdef void _without_descriptors(Worker* worker, Conn* listener) noexcept nogil:
    """Refuse those who wait with the one descriptor kept for that, then look away for a while.

    The listener stays ready, so the loop would spin.  Another thread may take the descriptor
    between two of our steps: then it is opened again when the pause is over.
    """
    cdef int i
    cdef int fd = 0
    for i in range(ACCEPTS_MAX):
        if worker.spare_fd < 0 or fd < 0:
            break
        close(worker.spare_fd)
        fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            refused(worker, REFUSED_DESCRIPTORS)
            _say_no(worker, listener, fd, full_answer())
            close(fd)
        worker.spare_fd = eventfd(0, EFD_CLOEXEC)
    epoll_ctl(worker.epoll_fd, EPOLL_CTL_DEL, listener.fd, NULL)
    wheel_arm(&worker.wheel, &listener.timer, worker.now_ms + ACCEPT_PAUSE_MS)


cdef uint32_t _batch(Worker* worker, Conn* listener) noexcept nogil:
    """How many to accept: one, and twice as many each turn in a row that finds the listener ready.

    To ask until there is none costs a failed accept each time, for which the kernel makes a socket
    and a file first.  The most is what the sessions that stand give way to in a turn.
    """
    cdef uint32_t most = TLS_ACCEPTS_MAX if listener.flags & FLAG_TLS else ACCEPTS_MAX
    cdef uint32_t batch = 1
    if <uint32_t>worker.turn == listener.skip + 2:
        batch = 2 * listener.scanned if 2 * listener.scanned < most else most
    listener.skip = <uint32_t>worker.turn
    listener.scanned = batch
    return batch


cdef void _accept(Worker* worker, Conn* listener) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t size
    cdef uint32_t i
    cdef int fd
    for i in range(_batch(worker, listener)):
        size = sizeof(address)
        fd = accept4(
            listener.fd, <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC
        )
        if fd >= 0:
            _greet(worker, listener, fd, &address)
            continue
        if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
            _without_descriptors(worker, listener)
        elif errno == EINTR or errno == ECONNABORTED:
            continue
        listener.scanned = i // 2 + 1  # about as many next turn
        return


cdef int watch_listener(Worker* worker, Conn* listener) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.ptr = listener
    return 1 if epoll_ctl(worker.epoll_fd, EPOLL_CTL_ADD, listener.fd, &event) == 0 else -errno


# --- the inbox --------------------------------------------------------------------------------------


cdef void _begin_drain(Worker* worker, uint64_t spread_ms) noexcept nogil:
    """Stop listening, drop connections without a request, and spread the ends over time."""
    cdef int i
    cdef uint32_t index
    cdef Conn* conn
    if worker.draining:
        return
    worker.draining = 1
    for i in range(worker.listener_count):
        conn_close(worker, worker.listeners[i])
    worker.listener_count = 0
    pool_clear(worker)
    for index in range(worker.conns.chunk_count * SLAB_CHUNK):
        conn = <Conn*>slab_at(&worker.conns, index)
        if (
            conn.kind == CONN_CLIENT and conn.session == NULL and conn.request == NULL
            and conn.state == STATE_HEAD and not conn.flags & FLAG_DEAD
        ):
            _act(worker, conn, linger(worker, conn) if buffer_size(&conn.output) else STEP_CLOSE)
    worker.drain_from_ms = worker.now_ms
    worker.drain_until_ms = worker.now_ms + spread_ms
    worker.drain_total = nx_peek(&worker.counters.sessions_live)


cdef void _go_on_draining(Worker* worker) noexcept nogil:
    """Tell as many sessions to end as should have been told by now."""
    cdef uint64_t span = worker.drain_until_ms - worker.drain_from_ms
    cdef uint64_t due = worker.drain_total
    cdef Session* session = worker.all_sessions.prev
    cdef Session* before
    if worker.now_ms < worker.drain_until_ms and span:
        due = (worker.drain_total * (worker.now_ms - worker.drain_from_ms) + span - 1) // span
    while session != &worker.all_sessions and (
        worker.drain_ended < due or worker.now_ms >= worker.drain_until_ms
    ):
        before = session.prev
        if not session.ending:
            relay_end(worker, session, b"gateway is shutting down", 1012, 1001, BY_GATEWAY)
            worker.drain_ended += 1
        session = before


cdef void _read_inbox(Worker* worker) noexcept nogil:
    cdef uint64_t count
    cdef Note* note
    cdef Conn* client
    cdef uint8_t question
    cdef int step
    read(worker.inbox_fd, &count, sizeof(count))
    note = <Note*>ring_peek(&worker.inbox)
    while note != NULL:
        if note.kind == NOTE_STOP:
            worker.stopping = 1
        elif note.kind == NOTE_DRAIN:
            _begin_drain(worker, note.value)
        elif note.kind == NOTE_PARTED:
            parting_begin(worker)
        elif note.kind == NOTE_ENDED:
            follow_ended(worker, note.text, note.text_len // 32)
        elif note.kind == NOTE_MOVED:
            follow_moved(worker, note)
        elif note.kind == NOTE_GONE:
            follow_gone(worker, <Hunt*>note.text)
            note.text = NULL
        else:
            client = conn_find(worker, note.ref)
            if client != NULL and client.state == STATE_PARKED and client.request != NULL:
                question = client.request.question
                client.request.question = 0
                wheel_cancel(&worker.wheel, &client.timer)
                if question == QUESTION_TICKET:
                    step = handshake_redeemed(
                        worker, client, <int>note.value,
                        note.text if note.text_len == 32 else NULL,
                    )
                elif note.kind == NOTE_VERDICT:
                    step = handshake_resume(worker, client, <int>note.value)
                else:
                    step = exchange_respond(
                        worker, client, note.text, note.text_len, <uint32_t>note.value
                    )
                _act(worker, client, step)
        free(note.text)
        note.text = NULL
        ring_release(&worker.inbox)
        note = <Note*>ring_peek(&worker.inbox)


# --- timers -----------------------------------------------------------------------------------------


cdef int _parked_too_long(Worker* worker, Conn* client) noexcept nogil:
    cdef uint8_t question = client.request.question
    client.request.question = 0
    if question == QUESTION_TOKEN or question == QUESTION_TICKET:
        return handshake_resume(worker, client, VERDICT_UNAVAILABLE)
    if question == QUESTION_NAME:
        return handshake_resume(worker, client, VERDICT_NAME_FAILED)
    return exchange_unavailable(worker, client, b"the issuer did not answer in time")


cdef void _timer_fired(void* context, Timer* timer) noexcept nogil:
    cdef Worker* worker = <Worker*>context
    cdef Conn* conn = <Conn*>timer
    cdef Conn* client
    cdef int step = STEP_CLOSE
    if conn.kind == CONN_LISTENER:
        if worker.spare_fd < 0:
            worker.spare_fd = eventfd(0, EFD_CLOEXEC)
        if watch_listener(worker, conn) < 0:  # without memory: again
            wheel_arm(&worker.wheel, timer, worker.now_ms + ACCEPT_PAUSE_MS)
    elif conn.session != NULL:
        relay_timer(worker, conn)
    elif conn.state == STATE_IDLE:
        pool_end(worker, conn)
    elif conn.kind == CONN_UPSTREAM:
        client = conn.peer  # what follows may let go of `conn`
        if client != NULL:
            _act(worker, client, proxy_timer(worker, conn))
    elif conn.state == STATE_PROXY:
        _act(worker, conn, proxy_timer(worker, conn))
    elif conn.state == STATE_PARKED:
        _act(worker, conn, _parked_too_long(worker, conn))
    else:
        if conn.request != NULL and conn.state == STATE_BODY and not conn.request.judged_by_body:
            step = exchange_refuse(worker, conn, 408, b"Request timeout", NULL)
        elif conn.request != NULL and conn.state in (STATE_HEAD, STATE_BODY):
            if conn.state == STATE_HEAD:
                conn.request.is_handshake = 1
            step = answer_engine(worker, 408, b"Request timeout", NULL)
            worker.answer.close = 1
        _act(worker, conn, step)


# --- the loop ---------------------------------------------------------------------------------------


cdef void _dispatch(Worker* worker, epoll_event* event) noexcept nogil:
    cdef Conn* conn = <Conn*>event.data.ptr
    cdef uint32_t events = event.events
    if nx_unlikely(conn.flags & FLAG_DEAD):
        return
    if nx_unlikely(conn.kind <= CONN_INBOX):
        if conn.kind == CONN_LISTENER:
            _accept(worker, conn)
        elif conn.kind == CONN_INBOX:
            _read_inbox(worker)
        return
    if events & EPOLLIN:
        conn.flags = (conn.flags | FLAG_READABLE) & ~FLAG_DRAINED
    if events & EPOLLOUT:
        conn.flags |= FLAG_WRITABLE
    if nx_unlikely(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)):
        conn.flags = (conn.flags | FLAG_READABLE | FLAG_HUNG_UP) & ~FLAG_DRAINED
        if events & (EPOLLHUP | EPOLLERR):
            conn.flags |= FLAG_WRITABLE
    _serve(worker, conn, events & (EPOLLHUP | EPOLLERR))


cdef void _serve_ready(Worker* worker, Conn* conn) noexcept nogil:
    """Give those that had spent their budget in the turn before another."""
    cdef Conn* next
    while conn != NULL:
        next = conn.next
        conn.flags &= ~FLAG_READY
        conn.next = NULL
        if conn.flags & FLAG_DEAD:
            conn.next = worker.graveyard
            worker.graveyard = conn
        else:
            _serve(worker, conn, False)
        conn = next


cdef void worker_run(Worker* worker) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef Conn* ready
    cdef int count, i, sleep_ms
    nx_exchange_u64(&worker.turn, worker.turn + 1)  # odd: from here on it works
    while not worker.stopping:
        sleep_ms = 0 if worker.ready != NULL else wheel_sleep_ms(&worker.wheel, worker.now_ms)
        if worker.draining and sleep_ms > PULSE_MS:
            sleep_ms = PULSE_MS
        if nx_unlikely(worker.walk.under_way):
            sleep_ms = parting_sleep_ms(worker, sleep_ms)
        if nx_unlikely(follow_busy(worker)):
            sleep_ms = 0
        nx_store_u64(&worker.turn, worker.turn + 1)  # even: no published memory is in use
        count = epoll_wait(worker.epoll_fd, events, EVENTS_MAX, sleep_ms)
        nx_exchange_u64(&worker.turn, worker.turn + 1)  # odd, before anything published is read
        worker.now_ms = clock_ms(CLOCK_MONOTONIC)
        ready = worker.ready
        worker.ready = NULL  # who spends its budget from here on waits for the next turn
        for i in range(count):
            _dispatch(worker, &events[i])
        if ready != NULL:
            _serve_ready(worker, ready)
        wheel_run(&worker.wheel, worker.now_ms, _timer_fired, worker)
        if worker.draining:
            _go_on_draining(worker)
        if nx_unlikely(worker.walk.under_way):
            parting_go_on(worker)
        if nx_unlikely(follow_busy(worker)):
            follow_go_on(worker)
        if worker.graveyard != NULL:
            conn_bury(worker)
    _end_all(worker)
    nx_store_u64(&worker.turn, worker.turn + 1)


cdef void _end_all(Worker* worker) noexcept nogil:
    """The worker stops: cut what is left, with its records written."""
    cdef uint32_t index
    cdef Conn* conn
    while worker.all_sessions.next != &worker.all_sessions:
        if worker.all_sessions.next.why == NULL:
            worker.all_sessions.next.why = b"gateway is shutting down"
        relay_cut(worker, worker.all_sessions.next)
    pool_clear(worker)
    for index in range(worker.conns.chunk_count * SLAB_CHUNK):
        conn = <Conn*>slab_at(&worker.conns, index)
        if conn.kind == CONN_CLIENT and not conn.flags & FLAG_DEAD:
            upstream_abandon(worker, conn)
            conn_end(worker, conn)
        elif conn.kind == CONN_LISTENER and not conn.flags & FLAG_DEAD:
            conn_close(worker, conn)
    worker.listener_count = 0
    conn_bury(worker)
