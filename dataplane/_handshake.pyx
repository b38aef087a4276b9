"""From a client's first byte to its 101: read the head, admit, connect, upgrade, answer.

        HEAD ──admitted──► WAIT ──(upstream: CONNECT ► HEAD ► 101)──► RELAY
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
    return 1


cdef int _keep(Conn* client, const uint8_t* data, uint32_t size) noexcept nogil:
    """Make sure that data[0:size] stands in the connection's input.  Returns 1 or CORE_FULL."""
    if client.input.data != NULL and data == client.input.data + client.input.head:
        return 1
    return buffer_append(&client.input, data, size, INPUT_BYTES_MAX)


cdef int _done_with_head(
    Conn* client, const uint8_t* data, uint32_t size, uint32_t head_len
) noexcept nogil:
    """Take the head off; what follows it stands in the input.  Returns 1 or CORE_FULL."""
    client.scanned = 0
    if client.input.data != NULL and data == client.input.data + client.input.head:
        buffer_consume(&client.input, head_len)
        return 1
    return buffer_append(&client.input, data + head_len, size - head_len, INPUT_BYTES_MAX)


cdef ssize_t _skip(Conn* client, uint8_t* data, ssize_t got) noexcept nogil:
    """Drop from the front what still belongs to an answered request.  Returns the bytes left."""
    cdef uint32_t dropped = client.skip if client.skip < <uint32_t>got else <uint32_t>got
    client.skip -= dropped
    memmove(data, data + dropped, got - dropped)
    return got - dropped


cdef int handshake_read(Worker* worker, Conn* client) noexcept nogil:
    cdef const uint8_t* data
    cdef uint32_t size = buffer_size(&client.input)
    cdef ssize_t got
    cdef int found
    if size:  # a request that came in behind the last one
        data = client.input.data + client.input.head
        if client.request == NULL:
            if _begin_request(worker, client) < 0:
                return STEP_CLOSE
            wheel_arm(&worker.wheel, &client.timer, worker.now_ms + HEAD_MS)
        found = http_scan_head(data, size, &client.scanned)
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
                return STEP_CLOSE
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
        found = http_scan_head(data, size, &client.scanned)
        if found < 0:
            return _refuse_head(worker, client, found)
        if found:
            return _judge(worker, client, data, size, <uint32_t>found, VERDICT_NONE)
        if _keep(client, data, size) < 0:
            return STEP_CLOSE
    return STEP_WAIT


cdef int handshake_resume(Worker* worker, Conn* client, int verdict) noexcept nogil:
    """The question of a parked client was answered, or took too long: judge its head again."""
    client.state = STATE_HEAD
    return _judge(
        worker, client, client.input.data + client.input.head, buffer_size(&client.input),
        client.request.head_len, verdict,
    )


# --- judging --------------------------------------------------------------------------------------


cdef int _ask(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    """Put the question in the ring.  Returns 1, or CORE_FULL when Python is behind."""
    cdef Question* question = <Question*>ring_reserve(&worker.questions)
    cdef uint64_t one = 1
    if question == NULL:
        nx_bump(&worker.counters.questions_dropped, 1)
        return CORE_FULL
    memset(question, 0, sizeof(Question))
    question.kind = visit.question
    conn_renew(client)
    question.ref = conn_ref(worker, client)
    if visit.question == QUESTION_NAME:
        question.text_len = visit.policy.host_name.size
        question.text = <uint8_t*>malloc(question.text_len + 1)
        if question.text == NULL:
            return CORE_FULL
        memcpy(question.text, visit.policy.host_name.data, question.text_len)
    else:
        question.check_passed = visit.check_passed
        memcpy(question.digest, visit.digest, 32)
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
    request.head_len = head_len
    request.is_handshake = visit.http.upgrade_websocket
    request.head_only = visit.http.method == HTTP_METHOD_HEAD
    request.body_left = -1 if visit.http.chunked else (
        visit.http.content_length if visit.http.content_length > 0 else 0
    )
    request.expects = visit.http.expect_continue
    client.flags &= ~FLAG_KEEP
    if visit.http.keep_alive:
        client.flags |= FLAG_KEEP
    step = admit(worker, client, &visit, verdict)
    if visit.policy != NULL:
        _note_policy(worker, request, &visit)
    if step == STEP_ADMITTED:
        step = _connect_for(worker, client, &visit)
        if step == STEP_WAIT:
            if _done_with_head(client, data, size, head_len) < 0:
                return STEP_CLOSE
            client.state = STATE_WAIT
            wheel_cancel(&worker.wheel, &client.timer)  # the upstream's bounds hold from here
        if step == STEP_WAIT or step == STEP_CLOSE:
            return step
    elif step == STEP_PARK:
        if _keep(client, data, size) < 0:
            return STEP_CLOSE
        if _ask(worker, client, &visit) > 0:
            request.question = visit.question
            client.state = STATE_PARKED
            wheel_arm(&worker.wheel, &client.timer, worker.now_ms + PARK_MS)
            return STEP_WAIT
        answer(worker, 503, b"the gateway is overloaded, try again", b"questions are full")
        step = STEP_ANSWER
    elif step == STEP_REQUEST:
        return step if _keep(client, data, size) > 0 else STEP_CLOSE
    _negotiate(worker, &visit)
    if worker.answer.close:
        client.flags &= ~FLAG_KEEP
    return STEP_ANSWER if _done_with_head(client, data, size, head_len) > 0 else STEP_CLOSE


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
    if visit.principal != NULL:
        memcpy(request.consumer, visit.principal.consumer, 16)
        memcpy(request.credential, visit.principal.credential, 16)
        request.has_consumer = 1
    if visit.claims != NULL:
        memcpy(request.digest, visit.digest, 32)
        request.expires_at = visit.claims.expires_at


cdef int _type_of(const uint8_t* name, uint32_t size) noexcept nogil:
    if same_name(name, size, <const uint8_t*>b"application/json", 16):
        return ANSWER_JSON
    if same_name(name, size, <const uint8_t*>b"text/plain", 10):
        return ANSWER_PLAIN
    if same_name(name, size, <const uint8_t*>b"text/html", 9):
        return ANSWER_HTML
    if same_name(name, size, <const uint8_t*>b"application/xml", 15):
        return ANSWER_XML
    return ANSWER_DEFAULT


cdef int _quality(const uint8_t* item, uint32_t size) noexcept nogil:
    """The q of one element of Accept, in thousandths."""
    cdef uint32_t i
    cdef int value
    cdef int unit = 100
    for i in range(size - 1 if size else 0):
        if lower(item[i]) == 113 and item[i + 1] == 61:
            i += 2
            value = 1000 if i < size and item[i] == 49 else 0
            i += 2
            while i < size and unit and 48 <= item[i] <= 57:
                value += (item[i] - 48) * unit
                unit //= 10
                i += 1
            return value
    return 1000


cdef void _negotiate(Worker* worker, const Visit* visit) noexcept nogil:
    """The type of an error body: Accept, then Content-Type for the engine's own errors.  §9."""
    cdef const HttpField* field
    cdef const uint8_t* item
    cdef uint32_t i, size, part, name
    cdef int kind
    cdef int best = 0
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind == HTTP_FIELD_CONTENT_TYPE and worker.answer.engine and best == 0:
            name = 0
            while name < field.value_len and visit.head[field.value_off + name] != 59:
                name += 1
            worker.answer.type_wanted = <uint8_t>_type_of(visit.head + field.value_off, name)
        if field.kind != HTTP_FIELD_ACCEPT:
            continue
        item = visit.head + field.value_off
        size = field.value_len
        while size:
            part = 0
            while part < size and item[part] != 44:
                part += 1
            name = 0
            while name < part and item[name] != 59 and item[name] != 32:
                name += 1
            kind = _type_of(item, name)
            if kind != ANSWER_DEFAULT and _quality(item + name, part - name) > best:
                best = _quality(item + name, part - name)
                worker.answer.type_wanted = <uint8_t>kind
            if part < size:
                part += 1
            while part < size and item[part] == 32:
                part += 1
            item += part
            size -= part


# --- the upstream -----------------------------------------------------------------------------------


cdef int _connect_for(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    """Compose the upstream's handshake and start to deliver it.  STEP_WAIT or STEP_ANSWER."""
    cdef Request* request = client.request
    cdef const HttpField* key = &visit.http.fields[visit.http.ws_key]
    cdef int size
    if worker.sessions.taken >= worker.sessions.ceiling or worker.draining:
        return _too_many(worker)
    memset(&worker.answer, 0, sizeof(Answer))
    worker.answer.engine = 1
    _negotiate(worker, visit)
    request.type_wanted = worker.answer.type_wanted
    request.upstream_began_ms = worker.now_ms
    request.address = <uint32_t>worker_random(worker)
    http_websocket_accept(visit.head + key.value_off, request.accept)
    request.offered_extension = visit.http.ws_extensions >= 0
    size = forward_handshake(worker, client, visit, request)
    if size < 0:
        return answer_engine(worker, 400, b"Request header or cookie too large", NULL)
    if not client.flags & FLAG_REGISTERED and conn_register(worker, client) < 0:
        return STEP_CLOSE
    return _connect(worker, client, worker.compose + AT_HEAD, <uint32_t>size, 0)


cdef int _too_many(Worker* worker) noexcept nogil:
    nx_bump(&worker.counters.refused_full, 1)
    return answer(worker, 503, b"the gateway is full, try again", b"too many sessions")


cdef int _give_up(Worker* worker, int error) noexcept nogil:
    if error == -ETIMEDOUT:
        return answer_engine(
            worker, 504, b"The upstream server is timing out", b"upstream timed out"
        )
    if error == CORE_FULL or error == -EMFILE or error == -ENFILE:
        nx_bump(&worker.counters.refused_full, 1)
        return answer(worker, 503, b"the gateway is full, try again", b"no room for a connection")
    return answer_engine(
        worker, 502, b"An invalid response was received from the upstream server",
        b"upstream refused or ended the connection",
    )


cdef int _connect(
    Worker* worker, Conn* client, const uint8_t* head, uint32_t size, int error
) noexcept nogil:
    """Try the addresses of the name, each once, until one takes the handshake or may yet.

    `error`: what the last try came to, 0 before the first.
    """
    cdef Request* request = client.request
    cdef Policy* policy = request.policy
    cdef AddressList* addresses = <AddressList*>nx_load_ptr(&policy.name.addresses)
    while addresses != NULL and request.attempts < addresses.count:
        error = _try_address(
            worker, client,
            &addresses.items[(request.address + request.attempts) % addresses.count], head, size,
        )
        request.attempts += 1
        if error > 0:
            return STEP_WAIT
        if error == CORE_FULL or error == -EMFILE or error == -ENFILE:
            break
    return _give_up(worker, error)


cdef int _open_upstream(const Address* address, uint16_t port, int* out_fd) noexcept nogil:
    """A socket on its way to the address.  Returns 1 or -errno."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    cdef int one = 1
    cdef int result
    cdef int fd = socket(
        AF_INET6 if address.v6 else AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    if fd < 0:
        return -errno
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if address.v6:
        memset(&v6, 0, sizeof(v6))
        v6.sin6_family = <unsigned short>AF_INET6
        v6.sin6_port = htons(port)
        memcpy(v6.sin6_addr.s6_addr, address.bytes, 16)
        result = connect(fd, <sockaddr*>&v6, sizeof(v6))
    else:
        memset(&v4, 0, sizeof(v4))
        v4.sin_family = <unsigned short>AF_INET
        v4.sin_port = htons(port)
        memcpy(&v4.sin_addr, address.bytes, 4)
        result = connect(fd, <sockaddr*>&v4, sizeof(v4))
    if result < 0 and errno != EINPROGRESS:
        result = -errno
        close(fd)
        return result
    out_fd[0] = fd
    return 1


cdef int _try_address(
    Worker* worker, Conn* client, const Address* address, const uint8_t* head, uint32_t size
) noexcept nogil:
    """Connect and, where the kernel is done already, send.  Returns 1 when it is under way."""
    cdef Request* request = client.request
    cdef Conn* upstream
    cdef ssize_t put
    cdef int fd = -1
    cdef int result = _open_upstream(address, request.policy.port, &fd)
    if result < 0:
        return result
    put = send(fd, head, size, MSG_NOSIGNAL)
    if put < 0:
        if errno != EAGAIN and errno != ENOTCONN:
            result = -errno
            close(fd)
            return result
        put = 0
    upstream = conn_new(worker, fd, CONN_UPSTREAM, STATE_CONNECT)
    if upstream == NULL:
        close(fd)
        return CORE_FULL
    if _keep_upstream_head(request, head, size, <uint32_t>put) < 0 or (
        conn_register(worker, upstream) < 0
    ):
        conn_end(worker, upstream)
        return CORE_FULL
    upstream.peer = client
    request.upstream = upstream
    if <uint32_t>put == size:
        upstream.state = STATE_HEAD
    request.upstream_sent = <uint32_t>put
    wheel_arm(
        &worker.wheel, &upstream.timer, worker.now_ms + (
            request.policy.connect_timeout_ms if put == 0 else request.policy.read_timeout_ms
        ),
    )
    return 1


cdef int _keep_upstream_head(
    Request* request, const uint8_t* head, uint32_t size, uint32_t sent
) noexcept nogil:
    """Keep the composed handshake while it may be needed again: for the rest, or another address."""
    if request.upstream_head != NULL:
        return 1
    request.upstream_head = <uint8_t*>malloc(size)
    if request.upstream_head == NULL:
        return CORE_FULL
    memcpy(request.upstream_head, head, size)
    request.upstream_head_len = size
    return 1


cdef void upstream_abandon(Worker* worker, Conn* client) noexcept nogil:
    if client.request != NULL and client.request.upstream != NULL:
        client.request.upstream.peer = NULL
        conn_end(worker, client.request.upstream)
        client.request.upstream = NULL


cdef int upstream_failed(Worker* worker, Conn* client, int error) noexcept nogil:
    """This address came to nothing: the next one, or 502 or 504."""
    cdef Request* request = client.request
    upstream_abandon(worker, client)
    return _connect(worker, client, request.upstream_head, request.upstream_head_len, error)


cdef int upstream_event(Worker* worker, Conn* upstream) noexcept nogil:
    cdef Conn* client = upstream.peer
    cdef Request* request = client.request
    cdef ssize_t put
    if upstream.state == STATE_CONNECT and upstream.flags & FLAG_WRITABLE:
        put = conn_send(
            upstream, request.upstream_head + request.upstream_sent,
            request.upstream_head_len - request.upstream_sent,
        )
        if put < 0:
            return upstream_failed(worker, client, <int>put)
        request.upstream_sent += <uint32_t>put
        if request.upstream_sent == request.upstream_head_len:
            upstream.state = STATE_HEAD
            wheel_arm(
                &worker.wheel, &upstream.timer, worker.now_ms + request.policy.read_timeout_ms
            )
    if upstream.state == STATE_HEAD and upstream.flags & FLAG_READABLE:
        return _read_upstream(worker, upstream, client)
    if upstream.state == STATE_BODY:
        return _read_refusal(worker, upstream, client)
    return STEP_WAIT


cdef int _read_upstream(Worker* worker, Conn* upstream, Conn* client) noexcept nogil:
    """Read the upstream's answer to the handshake and judge it once its head is whole."""
    cdef const uint8_t* data
    cdef uint32_t size
    cdef ssize_t got
    cdef int found
    while upstream.flags & FLAG_READABLE:
        got = conn_recv(upstream, worker.scratch + HEADROOM, SCRATCH_BYTES)
        if got < 0:
            return upstream_failed(worker, client, <int>got)
        if got == 0:
            return STEP_WAIT
        data = worker.scratch + HEADROOM
        size = <uint32_t>got
        if buffer_size(&upstream.input):
            if buffer_append(&upstream.input, data, size, INPUT_BYTES_MAX) < 0:
                return _bad_upstream(worker, b"upstream's answer is too large")
            data = upstream.input.data + upstream.input.head
            size = buffer_size(&upstream.input)
        while size:
            found = http_scan_head(data, size, &upstream.scanned)
            if found < 0:
                return _bad_upstream(worker, b"upstream's answer is malformed")
            if found == 0:
                if _keep(upstream, data, size) < 0:
                    return _bad_upstream(worker, b"upstream's answer is too large")
                break
            found = _judge_upstream(worker, upstream, client, data, size, <uint32_t>found)
            if found != STEP_PARK:
                return found
            # The interim answer was taken off; what came behind it stands in the input now.
            data = upstream.input.data + upstream.input.head
            size = buffer_size(&upstream.input)
    return STEP_WAIT


cdef int _bad_upstream(Worker* worker, const char* why) noexcept nogil:
    return answer_engine(
        worker, 502, b"An invalid response was received from the upstream server", why
    )


cdef bint _in_list(
    const uint8_t* list, uint32_t size, const uint8_t* item, uint32_t item_size
) noexcept nogil:
    """Whether a comma-separated list has this element, case and all."""
    cdef uint32_t at = 0
    cdef uint32_t end, last
    while at < size:
        end = at
        while end < size and list[end] != 44:
            end += 1
        while at < end and (list[at] == 32 or list[at] == 9):
            at += 1
        last = end
        while last > at and (list[last - 1] == 32 or list[last - 1] == 9):
            last -= 1
        if last - at == item_size and memcmp(list + at, item, item_size) == 0:
            return item_size != 0
        at = end + 1
    return False


cdef bint _offers(const Request* request, const uint8_t* protocol, uint32_t size) noexcept nogil:
    """Whether our handshake for the upstream offers this subprotocol.  RFC 6455 §4.1, S58."""
    cdef const uint8_t* name = <const uint8_t*>b"sec-websocket-protocol"
    cdef const uint8_t* line = request.upstream_head
    cdef const uint8_t* end = line + request.upstream_head_len
    cdef const uint8_t* after
    while line < end:
        after = <const uint8_t*>memchr(line, 10, end - line)
        if after == NULL:
            break
        if (
            after - line > 23 and line[22] == 58 and same_name(line, 22, name, 22)
            and _in_list(line + 23, <uint32_t>(after - line - 24), protocol, size)
        ):
            return True
        line = after + 1
    return False


cdef bint _accepts(
    const uint8_t* head, const HttpResponse* http, const Request* request
) noexcept nogil:
    """Whether a 101 is a good answer to our handshake.  RFC 6455 §4.1."""
    cdef const HttpField* field
    if not http.upgrade_websocket or not http.connection_upgrade or http.ws_accept_n != 1:
        return False
    field = &http.fields[http.ws_accept]
    if field.value_len != 28 or memcmp(head + field.value_off, request.accept, 28) != 0:
        return False
    if http.ws_protocol_n:
        field = &http.fields[http.ws_protocol]
        if http.ws_protocol_n > 1 or not _offers(
            request, head + field.value_off, field.value_len
        ):
            return False
    return http.ws_extensions_n == 0 or request.offered_extension


cdef int _judge_upstream(
    Worker* worker, Conn* upstream, Conn* client, const uint8_t* data, uint32_t size,
    uint32_t head_len,
) noexcept nogil:
    """STEP_ESTABLISHED, STEP_ANSWER, or STEP_PARK after an interim answer: read on."""
    cdef HttpResponse http
    cdef Request* request = client.request
    cdef int result = http_parse_response(data, head_len, &http)
    if result < 0:
        return _bad_upstream(worker, b"upstream's answer is malformed")
    if http.status != 101:
        if http.status < 200:
            if _done_with_head(upstream, data, size, head_len) < 0 or request.interim >= 8:
                return _bad_upstream(worker, b"upstream's answer is malformed")
            request.interim += 1
            return STEP_PARK
        return _refused_by_upstream(worker, upstream, client, data, size, &http)
    if not _accepts(data, &http, request):
        return _bad_upstream(worker, b"upstream's 101 is not an answer to this handshake")
    if not still_admitted(worker, request):
        answer(worker, 401, NULL, b"token ended during the handshake")
        worker.answer.body.data = <const uint8_t*>(
            b'{"error":"invalid_token",'
            b'"error_description":"The access token is invalid or has expired"}'
        )
        worker.answer.body.size = <uint32_t>strlen(<const char*>worker.answer.body.data)
        worker.answer.challenge = request.policy.challenge_invalid
        return STEP_ANSWER
    if worker.sessions.taken >= worker.sessions.ceiling:
        return _too_many(worker)  # others took the last slots while this one was on its way
    result = forward_switching(worker, data, &http, request)
    if result < 0:
        return _bad_upstream(worker, b"upstream's answer is too large")
    if _done_with_head(upstream, data, size, head_len) < 0:
        return STEP_CLOSE
    if conn_write(client, worker.compose + AT_HEAD, <uint32_t>result) < 0:
        return STEP_CLOSE
    return _establish(worker, client, upstream, http.ws_extensions_n != 0)


cdef int _refused_by_upstream(
    Worker* worker, Conn* upstream, Conn* client, const uint8_t* data, uint32_t size,
    const HttpResponse* http,
) noexcept nogil:
    """The upstream answered other than 101: read its body whole, to hand the answer on as it is."""
    cdef Request* request = client.request
    if http.status == 204 or http.status == 304:
        request.body_left = 0
    elif http.chunked:
        request.body_left = BODY_CHUNKED
    elif http.content_length >= 0:
        request.body_left = http.content_length
    else:
        request.body_left = BODY_TO_END
    if _keep(upstream, data, size) < 0:
        return _bad_upstream(worker, b"upstream's answer is too large")
    request.upstream_head_len = http.head_len
    request.body_have = 0
    request.body_raw = 0
    memset(request.chunked, 0, sizeof(request.chunked))
    upstream.state = STATE_BODY
    return _read_refusal(worker, upstream, client)


cdef int _read_refusal(Worker* worker, Conn* upstream, Conn* client) noexcept nogil:
    cdef Request* request = client.request
    cdef ssize_t got
    cdef int whole
    while True:
        whole = body_whole(
            &upstream.input, request.upstream_head_len, request, REFUSAL_BYTES_MAX
        )
        if whole < 0:
            return _bad_upstream(worker, b"upstream's refusal is malformed or too large")
        if whole:
            return _hand_on_refusal(worker, upstream, client)
        if not upstream.flags & FLAG_READABLE:
            return STEP_WAIT
        got = conn_recv(upstream, worker.scratch + HEADROOM, SCRATCH_BYTES)
        if got == 0:
            return STEP_WAIT
        if got == IO_EOF and request.body_left == BODY_TO_END:
            return _hand_on_refusal(worker, upstream, client)
        if got < 0 or buffer_append(
            &upstream.input, worker.scratch + HEADROOM, <uint32_t>got,
            INPUT_BYTES_MAX + REFUSAL_BYTES_MAX,
        ) < 0:
            return _bad_upstream(worker, b"upstream's refusal was cut short")


cdef int _hand_on_refusal(Worker* worker, Conn* upstream, Conn* client) noexcept nogil:
    cdef Request* request = client.request
    cdef HttpResponse http
    cdef uint8_t* head = upstream.input.data + upstream.input.head
    cdef int size
    BUG_ON(http_parse_response(head, request.upstream_head_len, &http) <= 0)
    size = forward_refusal(worker, head, &http, request, request.body_have)
    if size < 0:
        return _bad_upstream(worker, b"upstream's answer is too large")
    answer(worker, http.status, NULL, b"upstream refused the handshake")
    worker.answer.head.data = worker.compose + AT_HEAD
    worker.answer.head.size = <uint32_t>size
    worker.answer.body.data = head + request.upstream_head_len
    worker.answer.body.size = request.body_have
    # The request owns the bytes until the answer is out: the upstream goes before that.
    free(request.upstream_head)
    request.upstream_head = upstream.input.data
    memset(&upstream.input, 0, sizeof(Buffer))
    request.body_left = 0
    return STEP_ANSWER


cdef int _establish(
    Worker* worker, Conn* client, Conn* upstream, bint compression
) noexcept nogil:
    """Make the session.  Returns STEP_ESTABLISHED, or STEP_CLOSE when there is no slot left."""
    cdef Request* request = client.request
    cdef Session* session = <Session*>slab_take(&worker.sessions)
    if session == NULL:
        nx_bump(&worker.counters.refused_full, 1)
        return STEP_CLOSE
    session.client = client
    session.upstream = upstream
    session.policy = request.policy
    request.policy = NULL  # the hold goes over
    session.began_ms = worker.now_ms
    memcpy(session.id, request.id, 16)
    memcpy(session.consumer, request.consumer, 16)
    memcpy(session.credential, request.credential, 16)
    session.has_consumer = request.has_consumer
    session.has_credential = request.has_token
    session.up.flags = FLOW_MASKED
    if compression:
        session.up.flags |= FLOW_RSV1
        session.down.flags |= FLOW_RSV1
    session.next = worker.all_sessions.next
    session.prev = &worker.all_sessions
    session.next.prev = session
    worker.all_sessions.next = session
    client.session = session
    upstream.session = session
    upstream.peer = NULL
    request.upstream = NULL
    request_drop(worker, client)
    wheel_cancel(&worker.wheel, &client.timer)
    wheel_cancel(&worker.wheel, &upstream.timer)
    client.state = STATE_RELAY
    upstream.state = STATE_RELAY
    return STEP_ESTABLISHED
