"""From a client's first byte to its 101: read the head, admit, connect, upgrade, answer.

        HEAD ──admitted──► PROXY ──(upstream: CONNECT ► HEAD ► 101)──► RELAY
          │  ◄──answer──    │
          └──question──► PARKED ──note──► the head is judged again, on the tables of then

A head that comes in one read is judged where it lies, in the worker's scratch; it is copied into
the connection's input only when something has to be waited for.  What a client sends behind its
handshake is held there until the upstream's 101, and from then on is frames (S46).
"""

# --- reading --------------------------------------------------------------------------------------


cdef int _refuse_head(Worker* worker, Conn* client, int code) noexcept nogil:
    """Answer a head that cannot be understood; nobody knows where the next would start."""
    cdef int status = http_refusal_status(code)
    client.request.is_handshake = 1
    client.request.body_left = 0
    if code == -(HTTP_REFUSED + HTTP_TOO_LARGE):
        refused(worker, REFUSED_HEAD)
        answer_engine(worker, 400, b"Request header or cookie too large", NULL)
    elif status == 414:
        answer_engine(worker, 414, b"URI too long", NULL)
    elif status == 405:
        answer_engine(worker, 405, b"Method not allowed", NULL)
    elif status == 505:
        answer_engine(worker, 505, b"HTTP version not supported", NULL)
    else:
        answer_engine(worker, 400, b"Bad request", b"malformed request head")
    worker.answer.close = 1
    return STEP_ANSWER


cdef int _begin_request(Worker* worker, Conn* client) noexcept nogil:
    """Take a request for the head that begins.  Returns 1 or CORE_FULL."""
    cdef Request* request = <Request*>slab_take(&worker.requests)
    cdef uint64_t id[2]
    if request == NULL:
        nx_bump(&worker.counters.refused_full, 1)
        return CORE_FULL
    id[0] = worker_random(worker)
    id[1] = worker_random(worker)
    memcpy(request.id, id, 16)
    request.began_ms = worker.now_ms
    client.request = request
    client_is_peer(client)
    return 1


cdef ssize_t _skip(Conn* client, uint8_t* data, ssize_t got) noexcept nogil:
    """Drop from the front what still belongs to an answered request.  Returns the bytes left."""
    cdef uint32_t dropped = client.skip if client.skip < <uint32_t>got else <uint32_t>got
    client.skip -= dropped
    memmove(data, data + dropped, got - dropped)
    return got - dropped


cdef const char* full_answer() noexcept nogil:
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


cdef const char* busy_answer() noexcept nogil:
    return (
        b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 1\r\n"
        b"Content-Length: 0\r\n\r\n"
    )


cdef int _no_room(Conn* client) noexcept nogil:
    conn_write(client, <const uint8_t*>full_answer(), <uint32_t>strlen(full_answer()))
    return STEP_CLOSE


cdef int _scan(Worker* worker, Conn* client, const uint8_t* data, uint32_t size) noexcept nogil:
    """As http_scan_head, with HEAD_BYTES for its bound."""
    cdef int found = http_scan_head(data, size, &client.scanned)
    if nx_unlikely(found >= 0 and (found if found else size + 1) > worker.shared.head_max):
        return -(HTTP_REFUSED + HTTP_TOO_LARGE)
    return found


cdef int handshake_read(Worker* worker, Conn* client) noexcept nogil:
    cdef const uint8_t* data
    cdef uint32_t size = buffer_size(&client.input)
    cdef ssize_t got
    cdef int found
    if size:  # a request that came in behind the last one
        data = client.input.data + client.input.head
        if client.request == NULL:
            if _begin_request(worker, client) < 0:
                return _no_room(client)
            wheel_arm(&worker.wheel, &client.timer, worker.now_ms + HEAD_MS)
        found = _scan(worker, client, data, size)
        if found < 0:
            return _refuse_head(worker, client, found)
        if found:
            return _judge(worker, client, data, size, <uint32_t>found, VERDICT_NONE)
    while client.flags & FLAG_READABLE:
        got = conn_recv(client, worker.scratch + HEADROOM, SCRATCH_BYTES)
        if got < 0:
            return STEP_CLOSE
        if got == 0:
            break
        if client.skip:
            got = _skip(client, worker.scratch + HEADROOM, got)
            if got == 0:
                continue
        if client.request == NULL:
            if _begin_request(worker, client) < 0:
                return _no_room(client)
            if client.flags & FLAG_REGISTERED:
                wheel_arm(&worker.wheel, &client.timer, worker.now_ms + HEAD_MS)
        if size:
            if buffer_append(
                &client.input, worker.scratch + HEADROOM, <uint32_t>got, INPUT_BYTES_MAX
            ) < 0:
                return STEP_CLOSE
            data = client.input.data + client.input.head
            size = buffer_size(&client.input)
        else:
            data = worker.scratch + HEADROOM
            size = <uint32_t>got
        found = _scan(worker, client, data, size)
        if found < 0:
            return _refuse_head(worker, client, found)
        if found:
            return _judge(worker, client, data, size, <uint32_t>found, VERDICT_NONE)
        if conn_keep(client, data, size) < 0:
            return STEP_CLOSE
    return STEP_WAIT


cdef int handshake_resume(Worker* worker, Conn* client, int verdict) noexcept nogil:
    """The question of a parked client was answered, or took too long: judge its head again."""
    client.state = STATE_HEAD
    return _judge(
        worker, client, client.input.data + client.input.head, buffer_size(&client.input),
        client.request.head_len, verdict,
    )


cdef int handshake_redeemed(
    Worker* worker, Conn* client, int verdict, const uint8_t* digest
) noexcept nogil:
    """A ticket is good once: what became of it holds however often the head is judged from here."""
    if digest != NULL:
        memcpy(client.request.ticket_token, digest, 32)
        client.request.redeemed = TICKET_GOOD
    elif verdict != VERDICT_UNAVAILABLE:
        client.request.redeemed = TICKET_BAD
    return handshake_resume(worker, client, verdict)


# --- judging --------------------------------------------------------------------------------------


cdef bint _write_place(Question* question, const Visit* visit) noexcept nogil:
    """Write where a handshake wants to go and from which page, for its ticket.  False: no memory."""
    cdef const HttpField* origin = visit_field(visit, HTTP_FIELD_ORIGIN)
    cdef uint32_t size = origin.value_len if origin != NULL else 0
    cdef uint8_t* text = <uint8_t*>malloc(visit.host.size + visit.path.size + size + 1)
    if text == NULL:
        return False
    question.text = text
    question.head_len = visit.host.size
    question.path_len = visit.path.size
    question.text_len = visit.host.size + visit.path.size + size
    question.has_origin = origin != NULL
    memcpy(text, visit.host.data, visit.host.size)
    memcpy(text + visit.host.size, visit.path.data, visit.path.size)
    if origin != NULL:
        memcpy(text + visit.host.size + visit.path.size, visit.head + origin.value_off, size)
    return True


cdef int _ask(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    """Put the question in the ring.  Returns 1, or CORE_FULL when Python is behind."""
    cdef Question* question = <Question*>ring_reserve(&worker.questions)
    cdef uint64_t one = 1
    cdef const Span* text = NULL
    if question == NULL:
        nx_bump(&worker.counters.questions_dropped, 1)
        return CORE_FULL
    memset(question, 0, sizeof(Question))
    question.kind = visit.question
    conn_renew(client)
    question.ref = conn_ref(worker, client)
    if visit.question == QUESTION_NAME:
        text = &visit.wanted.host_name
    elif visit.question == QUESTION_TICKET:
        memcpy(question.digest, visit.digest, 32)
        if not _write_place(question, visit):
            return CORE_FULL
    else:
        question.check_passed = visit.check_passed
        memcpy(question.digest, visit.digest, 32)
        if visit.is_jwt:
            text = &visit.token  # TOKEN_BYTES_MAX at most
    if text != NULL:
        question.text_len = text.size
        question.text = <uint8_t*>malloc(text.size + 1)
        if question.text == NULL:
            return CORE_FULL
        memcpy(question.text, text.data, text.size)
    ring_publish(&worker.questions)
    write(worker.shared.question_fd, &one, sizeof(one))
    return 1


cdef int _judge(
    Worker* worker, Conn* client, const uint8_t* data, uint32_t size, uint32_t head_len, int verdict
) noexcept nogil:
    """Take the request whose head is data[0:head_len] as far as it goes now."""
    cdef Visit visit
    cdef Request* request = client.request
    cdef int step = http_parse_request(data, head_len, &visit.http)
    if step < 0:
        return _refuse_head(worker, client, step)
    visit.head = data
    visit.body.size = 0
    if 0 < visit.http.content_length <= size - head_len:
        visit.body.data = data + head_len
        visit.body.size = <uint32_t>visit.http.content_length
    request.head_len = head_len
    request.is_handshake = visit.http.upgrade_websocket
    request.head_only = visit.http.method == HTTP_METHOD_HEAD
    request.body_left = -1 if visit.http.chunked else (
        visit.http.content_length if visit.http.content_length > 0 else 0
    )
    request.expects = (
        visit.http.expect_continue and visit.http.version_minor and not request.judged_by_body
    )
    client.flags &= ~FLAG_KEEP
    if visit.http.keep_alive:
        client.flags |= FLAG_KEEP
    step = admit(worker, client, &visit, verdict)
    if visit.policy != NULL:
        _note_policy(worker, request, &visit)
    if step == STEP_ADMITTED:
        if nx_unlikely(visit.policy.flags & POLICY_HIDE_CREDENTIALS and visit.in_form):
            size -= _hide_in_form(client, &visit, size)
        step = upstream_begin(worker, client, &visit)
        if step == STEP_WAIT:
            if conn_head_done(client, data, size, head_len) < 0:
                return STEP_CLOSE
            client.state = STATE_PROXY
            wheel_cancel(&worker.wheel, &client.timer)  # the upstream's bounds hold from here
            if request.body_left or client.flags & FLAG_HUNG_UP:
                return STEP_PROXY
        if step == STEP_WAIT or step == STEP_CLOSE:
            return step
    elif step == STEP_PARK:
        if conn_keep(client, data, size) < 0:
            return STEP_CLOSE
        if _ask(worker, client, &visit) > 0:
            request.question = visit.question
            client.state = STATE_PARKED
            wheel_arm(&worker.wheel, &client.timer, worker.now_ms + PARK_MS)
            return STEP_WAIT
        answer(worker, 503, b"the gateway is overloaded, try again", b"questions are full")
        step = STEP_ANSWER
    elif step == STEP_BODY:
        return _await_body(worker, client, data, size)
    elif step == STEP_REQUEST:
        if visit.policy == NULL and request.policy != NULL:  # a route's, when it was parked
            policy_release(worker, request.policy)
            request.policy = NULL
        memcpy(request.plugin, visit.plugin, 16)
        return step if conn_keep(client, data, size) > 0 else STEP_CLOSE
    if nx_unlikely(refuse_readably(worker, client, &visit)):
        step = STEP_REFUSE
    else:
        negotiate(worker, &visit)
        step = STEP_ANSWER
    if worker.answer.close:
        client.flags &= ~FLAG_KEEP
    return step if conn_head_done(client, data, size, head_len) > 0 else STEP_CLOSE


cdef uint32_t _hide_in_form(Conn* client, Visit* visit, uint32_t size) noexcept nogil:
    """Take the token out of a form where it is to be hidden.  oauth2.md §6.4.

    `size`: bytes from the head on that are here.  Returns how many fewer that are now.
    """
    cdef uint8_t* body = <uint8_t*>visit.body.data
    cdef uint32_t left, gap, behind
    left = form_hide_token(body, visit.body.size)
    visit.http.content_length = left
    client.request.body_left = left
    gap = visit.body.size - left
    behind = size - visit.http.head_len - visit.body.size
    memmove(body + left, body + visit.body.size, behind)
    if client.input.data != NULL and visit.head == client.input.data + client.input.head:
        client.input.tail -= gap
    return gap


cdef int _await_body(
    Worker* worker, Conn* client, const uint8_t* data, uint32_t size
) noexcept nogil:
    """The token may be in the body: read that whole, then judge again."""
    cdef Request* request = client.request
    if conn_keep(client, data, size) < 0:
        return STEP_CLOSE
    if not client.flags & FLAG_REGISTERED and conn_register(worker, client) < 0:
        return STEP_CLOSE
    client.state = STATE_BODY
    request.judged_by_body = 1
    wheel_arm(&worker.wheel, &client.timer, worker.now_ms + HEAD_MS)
    if request.expects and size == request.head_len and (
        conn_write(client, <const uint8_t*>b"HTTP/1.1 100 Continue\r\n\r\n", 25) < 0
    ):
        return STEP_CLOSE
    return handshake_read_body(worker, client)


cdef int handshake_read_body(Worker* worker, Conn* client) noexcept nogil:
    cdef Request* request = client.request
    cdef uint32_t whole = request.head_len + <uint32_t>request.body_left
    cdef ssize_t got
    while buffer_size(&client.input) < whole:
        if not client.flags & FLAG_READABLE:
            return STEP_WAIT
        got = conn_recv(
            client, worker.scratch,
            min(whole - buffer_size(&client.input), <uint32_t>SCRATCH_BYTES),
        )
        if got == 0:
            return STEP_WAIT
        if got < 0 or buffer_append(
            &client.input, worker.scratch, <uint32_t>got, INPUT_BYTES_MAX
        ) < 0:
            return STEP_CLOSE
    wheel_cancel(&worker.wheel, &client.timer)
    return handshake_resume(worker, client, VERDICT_NONE)


cdef void _note_policy(Worker* worker, Request* request, const Visit* visit) noexcept nogil:
    """Hold the policy, and remember who asks."""
    if request.policy != visit.policy:
        if request.policy != NULL:
            policy_release(worker, request.policy)
        request.policy = visit.policy
        policy_hold(worker, visit.policy)
    if visit.policy.flags & POLICY_WS:
        request.is_handshake = 1
    request.has_token = visit.claims != NULL
    request.has_consumer = visit.principal != NULL
    if visit.principal != NULL:
        memcpy(request.consumer, visit.principal.consumer, 16)
        memcpy(request.credential, visit.principal.credential, 16)
    else:  # what it was before it was judged anew does not count
        memset(request.consumer, 0, 16)
        memset(request.credential, 0, 16)
    memset(&request.grant, 0, sizeof(Grant))  # it is in no list yet
    if visit.claims != NULL:
        memcpy(request.grant.digest, visit.digest, 32)
        memcpy(request.grant.jti, visit.claims.jti, 16)
        memcpy(request.grant.plugin, visit.claims.plugin, 16)
        request.grant.expires_at = visit.claims.expires_at
