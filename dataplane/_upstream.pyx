"""The upstream's side of a handshake: connect, deliver the head, judge the answer, make the session.

  TLS ► CONNECT ──head out──► HEAD ──101──► RELAY
           │ next address ◄──── │ ──other──► BODY ──whole──► handed on to the client
"""

# --- connecting -------------------------------------------------------------------------------------


cdef int upstream_begin(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    """Compose the upstream's handshake and start to deliver it.  STEP_WAIT or STEP_ANSWER."""
    cdef Request* request = client.request
    cdef const HttpField* key = &visit.http.fields[visit.http.ws_key]
    cdef int size
    if reserve_session(worker, request, visit) != STEP_ADMITTED:
        return STEP_ANSWER
    memset(&worker.answer, 0, sizeof(Answer))
    worker.answer.engine = 1
    negotiate(worker, visit)
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


cdef int _give_up(Worker* worker, int error) noexcept nogil:
    if error == -ETIMEDOUT:
        return answer_engine(
            worker, 504, b"The upstream server is timing out", b"upstream timed out"
        )
    if error == -EMFILE or error == -ENFILE:
        refused(worker, REFUSED_DESCRIPTORS)
        return answer_full(worker, b"no descriptor for a connection")
    if error == CORE_FULL:
        nx_bump(&worker.counters.refused_full, 1)
        return answer_full(worker, b"no room for a connection")
    return answer_engine(
        worker, 502, b"An invalid response was received from the upstream server",
        tls_why(error) if error == IO_TLS or error <= IO_VERIFY else
        <const char*>b"upstream refused or ended the connection",
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
    if request.policy.tls != NULL:
        return _begin_tls(worker, client, fd, head, size)
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


cdef int _begin_tls(
    Worker* worker, Conn* client, int fd, const uint8_t* head, uint32_t size
) noexcept nogil:
    """Begin TLS on a socket that is being connected.  Returns 1 when it is under way."""
    cdef Request* request = client.request
    cdef Conn* upstream = conn_new(worker, fd, CONN_UPSTREAM, STATE_TLS)
    if upstream == NULL:
        close(fd)
        return CORE_FULL
    if (
        tls_connect(upstream, request.policy.tls, head, size) < 0
        or _keep_upstream_head(request, head, size, 0) < 0
        or conn_register(worker, upstream) < 0
    ):
        conn_end(worker, upstream)
        return CORE_FULL
    upstream.peer = client
    request.upstream = upstream
    request.upstream_sent = 0
    # The connect and the TLS handshake together, as nginx has it for the second one.
    wheel_arm(
        &worker.wheel, &upstream.timer, worker.now_ms + request.policy.connect_timeout_ms
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
    cdef bint answering = request.upstream.state == STATE_BODY
    upstream_abandon(worker, client)
    if answering:
        request.body_left = 0
        return _give_up(worker, error)
    return _connect(worker, client, request.upstream_head, request.upstream_head_len, error)


cdef int upstream_event(Worker* worker, Conn* upstream) noexcept nogil:
    cdef Conn* client = upstream.peer
    cdef Request* request = client.request
    cdef ssize_t put
    if upstream.state == STATE_TLS:
        put = tls_handshake(upstream)
        if put <= 0:
            return STEP_WAIT if put == 0 else upstream_failed(worker, client, <int>put)
        upstream.state = STATE_CONNECT
        upstream.flags |= FLAG_WRITABLE
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


# --- the upstream's answer ---------------------------------------------------------------------------


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
                if conn_keep(upstream, data, size) < 0:
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


cdef bint _agrees_compression(const uint8_t* head, const HttpResponse* http) noexcept nogil:
    """Whether permessage-deflate was agreed: only then may RSV1 be set.  RFC 7692 §6."""
    cdef const HttpField* field
    cdef uint32_t i
    for i in range(http.fields_n):
        field = &http.fields[i]
        if (
            field.kind == HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS and field.value_len >= 18
            and same_name(head + field.value_off, 18, <const uint8_t*>b"permessage-deflate", 18)
        ):
            return True
    return False


cdef int _judge_upstream(
    Worker* worker, Conn* upstream, Conn* client, const uint8_t* data, uint32_t size,
    uint32_t head_len,
) noexcept nogil:
    """STEP_ESTABLISHED, STEP_ANSWER, or STEP_PARK after an interim answer: read on."""
    cdef bint compression
    cdef HttpResponse http
    cdef Request* request = client.request
    cdef int result = http_parse_response(data, head_len, &http)
    if result < 0:
        return _bad_upstream(worker, b"upstream's answer is malformed")
    if http.status != 101:
        if http.status < 200:
            if conn_head_done(upstream, data, size, head_len) < 0 or request.interim >= 8:
                return _bad_upstream(worker, b"upstream's answer is malformed")
            request.interim += 1
            return STEP_PARK
        return _refused_by_upstream(worker, upstream, client, data, size, &http)
    if not _accepts(data, &http, request):
        return _bad_upstream(worker, b"upstream's 101 is not an answer to this handshake")
    if nx_unlikely(still_routed(worker, request) != STEP_ADMITTED):
        return STEP_ANSWER
    if not still_admitted(worker, request):
        answer(worker, 401, NULL, b"token ended during the handshake")
        worker.answer.body.data = <const uint8_t*>(
            b'{"error":"invalid_token",'
            b'"error_description":"The access token is invalid or has expired"}'
        )
        worker.answer.body.size = <uint32_t>strlen(<const char*>worker.answer.body.data)
        worker.answer.challenge = request.policy.challenge_invalid
        return STEP_ANSWER
    compression = _agrees_compression(data, &http)
    result = forward_switching(worker, data, &http, request)
    if result < 0:
        return _bad_upstream(worker, b"upstream's answer is too large")
    if conn_head_done(upstream, data, size, head_len) < 0:
        return STEP_CLOSE
    if conn_write(client, worker.compose + AT_HEAD, <uint32_t>result) < 0:
        return STEP_CLOSE
    return _establish(worker, client, upstream, compression)


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
    if conn_keep(upstream, data, size) < 0:
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
    cdef int budget = READS_MAX
    while True:
        whole = body_whole(
            &upstream.input, request.upstream_head_len, request, REFUSAL_BYTES_MAX
        )
        if whole < 0:
            request.body_left = 0  # the client's own request has no body
            return _bad_upstream(worker, b"upstream's refusal is malformed or too large")
        if whole:
            return _hand_on_refusal(worker, upstream, client)
        if not upstream.flags & FLAG_READABLE:
            return STEP_WAIT
        if budget == 0:
            conn_ready(worker, upstream)
            return STEP_WAIT
        budget -= 1
        got = conn_recv(upstream, worker.scratch + HEADROOM, SCRATCH_BYTES)
        if got == 0:
            return STEP_WAIT
        if got == IO_EOF and request.body_left == BODY_TO_END:
            return _hand_on_refusal(worker, upstream, client)
        if got < 0 or buffer_append(
            &upstream.input, worker.scratch + HEADROOM, <uint32_t>got,
            INPUT_BYTES_MAX + REFUSAL_BYTES_MAX,
        ) < 0:
            request.body_left = 0
            return _bad_upstream(worker, b"upstream's refusal was cut short")


cdef int _hand_on_refusal(Worker* worker, Conn* upstream, Conn* client) noexcept nogil:
    cdef Request* request = client.request
    cdef HttpResponse http
    cdef uint8_t* head = upstream.input.data + upstream.input.head
    cdef int size
    BUG_ON(http_parse_response(head, request.upstream_head_len, &http) <= 0)
    size = forward_refusal(worker, head, &http, request, request.body_have)
    request.body_left = 0  # from here on the client's own request is meant, which has none
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
    session.consumer_cell = request.consumer_cell  # it is counted until it ends
    request.counted = 0
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
