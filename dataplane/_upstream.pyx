"""The upstream's side of a request: connect or take a connection from the pool, deliver the head,
try again where that is allowed; and the switch from a 101 to a session.

  TLS ► CONNECT ──head out──► HEAD ──► what it answers is _proxy's
           ▲                   │
           └── next try ◄──────┘ failed before a byte of the answer went on
"""

# --- connecting -------------------------------------------------------------------------------------


cdef int upstream_begin(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    """Compose the head for the upstream and start to deliver it.  STEP_WAIT or STEP_ANSWER."""
    cdef Request* request = client.request
    cdef int size
    if visit.policy.flags & POLICY_WS:
        request.switches = 1
    else:
        _note_exchange(worker, request, &visit.http)
    if request.switches:
        if reserve_session(worker, request, visit) != STEP_ADMITTED:
            return STEP_ANSWER
        if visit.claims != NULL:
            grant_enter(worker, &request.grant)
    memset(&worker.answer, 0, sizeof(Answer))
    worker.answer.engine = 1
    negotiate(worker, visit)
    request.type_wanted = worker.answer.type_wanted
    request.upstream_began_ms = worker.now_ms
    request.address = <uint32_t>worker_random(worker)
    request.target = &visit.policy.target
    request.aimed = request.attempts
    request.round = 0
    request.tried_n = 0
    request.host_kept = visit.policy.flags & POLICY_PRESERVE_HOST and visit.http.host >= 0
    if nx_unlikely(visit.policy.balance != NULL) and not _aim(worker, request):
        return answer(worker, 503, b"failure to get a peer from the ring-balancer", NULL)
    if request.switches:
        _note_key(request, visit)
        if nx_unlikely(visit.policy.flags & POLICY_CARRIER_PROTOCOL):
            request.marked = _offers_marker(visit)
    size = forward_request(worker, client, visit, request)
    if size < 0:
        return answer_engine(worker, 400, b"Request header or cookie too large", NULL)
    if not client.flags & FLAG_REGISTERED and conn_register(worker, client) < 0:
        return STEP_CLOSE
    return _connect(worker, client, worker.compose + AT_HEAD, <uint32_t>size, 0)


cdef void _note_exchange(Worker* worker, Request* request, const HttpRequest* http) noexcept nogil:
    """What the exchange of an http or https route needs to know when the head is gone."""
    if not request.proxied:
        request.proxied = 1
        nx_bump(&worker.counters.exchanges_live, 1)
    request.version_minor = http.version_minor
    request.switches = http.upgrade_websocket and http.version_minor  # RFC 9110 §7.8
    request.body_chunked = http.chunked
    request.idempotent = http.method in (
        HTTP_METHOD_GET, HTTP_METHOD_HEAD, HTTP_METHOD_PUT, HTTP_METHOD_DELETE, HTTP_METHOD_OPTIONS
    )
    memset(request.chunked, 0, sizeof(request.chunked))


cdef void _note_key(Request* request, const Visit* visit) noexcept nogil:
    """What the upstream owes to the client's key, and whether an extension was offered."""
    cdef const HttpField* key
    request.offered_extension = visit.http.ws_extensions >= 0
    request.keys = 2 if visit.http.ws_key_n else 0
    if visit.http.ws_key_n == 1:
        key = &visit.http.fields[visit.http.ws_key]
        if key.value_len == HTTP_WS_KEY_LEN:
            request.keys = 1
            http_websocket_accept(visit.head + key.value_off, request.accept)


cdef bint _offers_marker(const Visit* visit) noexcept nogil:
    """Whether the client can be answered with `bearer`."""
    cdef ProtocolRules rules
    cdef Offer offer
    protocol_rules(visit.policy, &rules)
    read_offer(visit, &rules, &offer)
    return offer.marked


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


cdef uint32_t _tries(const Request* request, int error) noexcept nogil:
    """How often this request is tried in all.  routing-and-proxy.md §6, Retries.

    A target or address that answered nothing in its time, or whose TLS failed, is not asked again:
    only others are.
    """
    cdef const Balance* balance = request.policy.balance
    cdef uint32_t tries = 1 + request.policy.retries
    cdef uint32_t places
    if tries > TRIES_MAX:
        tries = TRIES_MAX
    if error == -ETIMEDOUT or error == IO_TLS or error <= IO_VERIFY:
        places = balance_places(balance) if balance != NULL else 1
        if places == 1:
            places = (<AddressList*>nx_load_ptr(&request.target.name.addresses)).count
        return min(places, tries)
    return tries


cdef bint _aim(Worker* worker, Request* request) noexcept nogil:
    """Choose the target of this try, one that has not had the request while there is one.

    False: none has an address.
    """
    cdef Balance* balance = request.policy.balance
    cdef int at = balance_pick(balance, worker.index, request.tried, request.tried_n)
    if at < 0 and request.tried_n:  # each has had it: another round, not with the last one first
        at = balance_pick(balance, worker.index, &request.tried[request.tried_n - 1], 1)
        if at < 0:
            at = balance_pick(balance, worker.index, NULL, 0)
        request.tried_n = 0
        request.round += 1
    if at < 0:
        return False
    request.target = &balance.targets[at]
    request.tried[request.tried_n] = <uint16_t>at
    request.tried_n += 1
    return True


cdef int _aim_again(
    Worker* worker, Request* request, const uint8_t* head, uint32_t size
) noexcept nogil:
    """Choose the next try's target, and give it a head with its own Host.  Returns 1 or CORE_FULL."""
    cdef const Target* last = request.target
    request.aimed = request.attempts
    if request.policy.balance == NULL:
        request.round = request.attempts
        return 1
    if not _aim(worker, request) or request.target == last or request.host_kept:
        return 1
    return _rehost(request, head, size)


cdef int _rehost(Request* request, const uint8_t* head, uint32_t size) noexcept nogil:
    """Keep the head with the target's Host, the field behind the request line, in place of the last's."""
    cdef const Span* host = &request.target.host_header
    cdef const uint8_t* line = <const uint8_t*>memchr(head, 10, size) + 1
    cdef const uint8_t* end = <const uint8_t*>memchr(line, 13, head + size - line)
    cdef uint32_t before = <uint32_t>(line - head) + 6  # "Host: "
    cdef uint32_t behind = <uint32_t>(head + size - end)
    cdef uint8_t* fresh = <uint8_t*>malloc(before + host.size + behind)
    if fresh == NULL:
        return CORE_FULL
    memcpy(fresh, head, before)
    memcpy(fresh + before, host.data, host.size)
    memcpy(fresh + before + host.size, end, behind)
    free(request.upstream_head)
    request.upstream_head = fresh
    request.upstream_head_len = before + host.size + behind
    return 1


cdef int _connect(
    Worker* worker, Conn* client, const uint8_t* head, uint32_t size, int error
) noexcept nogil:
    """Try the targets, and the addresses of each in turn, until one takes the request or may yet.

    `error`: what the last try came to, 0 before the first.
    """
    cdef Request* request = client.request
    cdef AddressList* addresses
    cdef const Address* address
    while request.attempts < _tries(request, error):
        if nx_unlikely(request.aimed != request.attempts):
            if _aim_again(worker, request, head, size) < 0:
                error = CORE_FULL
                break
            if request.upstream_head != NULL:
                head = request.upstream_head
                size = request.upstream_head_len
        addresses = <AddressList*>nx_load_ptr(&request.target.name.addresses)
        address = &addresses.items[(request.address + request.round) % addresses.count]
        if (
            request.proxied and not request.switches and not request.fresh
            and _try_idle(worker, client, address, head, size)
        ):
            return STEP_WAIT
        error = _try_address(worker, client, address, head, size)
        request.attempts += 1
        if error > 0:
            return STEP_WAIT
        if error == CORE_FULL or error == -EMFILE or error == -ENFILE:
            break
    return _give_up(worker, error)


cdef int _send_head(Conn* upstream, Request* request) noexcept nogil:
    """Send what is left of the head; TLS takes a record at a time.  1 when all is out, 0, or the error."""
    cdef ssize_t put
    while request.upstream_sent < request.upstream_head_len:
        put = conn_send(
            upstream, request.upstream_head + request.upstream_sent,
            request.upstream_head_len - request.upstream_sent,
        )
        if put <= 0:
            return <int>put
        request.upstream_sent += <uint32_t>put
    return 1


cdef bint _try_idle(
    Worker* worker, Conn* client, const Address* address, const uint8_t* head, uint32_t size
) noexcept nogil:
    """Send on a connection of the pool.  False: there is none that lives."""
    cdef Request* request = client.request
    cdef Conn* upstream = pool_take(worker, address, request.policy, request.target)
    cdef int result
    while upstream != NULL:
        request.upstream_sent = 0
        result = _keep_upstream_head(request, head, size)
        if result > 0:
            result = _send_head(upstream, request)
        if result >= 0:
            upstream.peer = client
            request.upstream = upstream
            request.reused = 1
            upstream.state = STATE_HEAD if result else STATE_CONNECT
            wheel_arm(
                &worker.wheel, &upstream.timer, worker.now_ms + request.policy.read_timeout_ms
            )
            nx_bump(&worker.counters.upstream_reused, 1)
            return True
        conn_end(worker, upstream)
        upstream = pool_take(worker, address, request.policy, request.target)
    return False


cdef int _open_upstream(const Address* address, uint16_t port, int* out_fd) noexcept nogil:
    """A socket on its way to the address.  Returns 1 or -errno."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    cdef int one = 1
    cdef int off = 0
    cdef int result
    cdef int fd = socket(
        AF_INET6 if address.v6 else AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    if fd < 0:
        return -errno
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off))  # the head carries the ACK
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


cdef void _remember_address(Conn* upstream, const Address* address, uint16_t port) noexcept nogil:
    memcpy(upstream.remote, address.bytes, 16)
    upstream.remote_port = port
    if address.v6:
        upstream.flags |= FLAG_V6


cdef int _try_address(
    Worker* worker, Conn* client, const Address* address, const uint8_t* head, uint32_t size
) noexcept nogil:
    """Connect and, where the kernel is done already, send.  Returns 1 when it is under way."""
    cdef Request* request = client.request
    cdef Conn* upstream
    cdef ssize_t put
    cdef int fd = -1
    cdef int result = _open_upstream(address, request.target.port, &fd)
    if result < 0:
        return result
    if request.policy.tls != NULL:
        return _begin_tls(worker, client, address, fd, head, size)
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
    _remember_address(upstream, address, request.target.port)
    if _keep_upstream_head(request, head, size) < 0 or (
        conn_register(worker, upstream) < 0
    ):
        conn_end(worker, upstream)
        return CORE_FULL
    upstream.peer = client
    request.upstream = upstream
    request.reused = 0
    if <uint32_t>put == size:
        upstream.state = STATE_HEAD
        upstream.flags |= FLAG_WRITABLE
    request.upstream_sent = <uint32_t>put
    wheel_arm(
        &worker.wheel, &upstream.timer, worker.now_ms + (
            request.policy.connect_timeout_ms if put == 0 else request.policy.read_timeout_ms
        ),
    )
    return 1


cdef int _begin_tls(
    Worker* worker, Conn* client, const Address* address, int fd, const uint8_t* head, uint32_t size
) noexcept nogil:
    """Begin TLS on a socket that is being connected.  Returns 1 when it is under way."""
    cdef Request* request = client.request
    cdef Conn* upstream = conn_new(worker, fd, CONN_UPSTREAM, STATE_TLS)
    if upstream == NULL:
        close(fd)
        return CORE_FULL
    _remember_address(upstream, address, request.target.port)
    if (
        tls_connect(upstream, request.policy.tls, head, size) < 0
        or _keep_upstream_head(request, head, size) < 0
        or conn_register(worker, upstream) < 0
    ):
        conn_end(worker, upstream)
        return CORE_FULL
    upstream.peer = client
    request.upstream = upstream
    request.reused = 0
    request.upstream_sent = 0
    # The connect and the TLS handshake together, as nginx has it for the second one.
    wheel_arm(
        &worker.wheel, &upstream.timer, worker.now_ms + request.policy.connect_timeout_ms
    )
    return 1


cdef int _keep_upstream_head(
    Request* request, const uint8_t* head, uint32_t size
) noexcept nogil:
    """Keep the composed head while it may be needed again: for the rest, or another try."""
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


cdef bint _may_retry(const Request* request) noexcept nogil:
    """Whether the request can go out again: RFC 9110 §9.2.2; a body is not kept."""
    return (
        not request.proxied or request.upstream_sent == 0
        or (request.idempotent and not request.body_begun)
    )


cdef int upstream_failed(Worker* worker, Conn* client, int error) noexcept nogil:
    """This try came to nothing before an answer: the next one, or 502 or 504."""
    cdef Request* request = client.request
    cdef bint again = _may_retry(request)
    if request.reused:
        request.fresh = 1
        if error == -ETIMEDOUT:
            request.attempts += 1  # it was alive: this address has had its time
    upstream_abandon(worker, client)
    if not again:
        return _give_up(worker, error)
    if request.body_left:
        conn_ready(worker, client)  # a connection of the pool takes it at once, without an event
    return _connect(worker, client, request.upstream_head, request.upstream_head_len, error)


cdef int upstream_deliver(Worker* worker, Conn* upstream) noexcept nogil:
    """Go on with TLS, then with the head.  Returns 1 when the head is out, 0, or the error."""
    cdef Request* request = upstream.peer.request
    cdef int result
    if upstream.state == STATE_TLS:
        result = tls_handshake(upstream)
        if result <= 0:
            return result
        upstream.state = STATE_CONNECT
        upstream.flags |= FLAG_WRITABLE
    if not upstream.flags & FLAG_WRITABLE:
        return 0
    result = _send_head(upstream, request)
    if result <= 0:
        return result
    upstream.state = STATE_HEAD
    wheel_arm(&worker.wheel, &upstream.timer, worker.now_ms + request.policy.read_timeout_ms)
    return 1


# --- from a 101 to a session --------------------------------------------------------------------------


cdef int upstream_bad(Worker* worker, const char* why) noexcept nogil:
    return answer_engine(
        worker, 502, b"An invalid response was received from the upstream server", why
    )


cdef int upstream_bad_switch(Worker* worker, const char* why) noexcept nogil:
    upstream_bad(worker, why)
    worker.answer.close = 1  # what the client sent behind its handshake is no request (S45)
    return STEP_ANSWER


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
    """Whether a 101 is a good answer to our handshake.  RFC 6455 §4.1, S45.

    On an http or https route the subprotocol and the extensions are the ends' own affair, but for
    an extension whose offer was left out.
    """
    cdef const HttpField* field
    if not http.upgrade_websocket or not http.connection_upgrade:
        return False
    if http.ws_extensions_n and request.policy.flags & POLICY_REFUSE_DEFLATE:
        return False
    if request.keys == 0:
        return True  # an http route: who sends no key is owed no answer to it
    if request.keys != 1 or http.ws_accept_n != 1:
        return False
    field = &http.fields[http.ws_accept]
    if field.value_len != 28 or memcmp(head + field.value_off, request.accept, 28) != 0:
        return False
    if request.proxied:
        return True
    if http.ws_protocol_n:
        field = &http.fields[http.ws_protocol]
        if http.ws_protocol_n > 1 or not _offers(
            request, head + field.value_off, field.value_len
        ):
            return False
    return http.ws_extensions_n == 0 or request.offered_extension


cdef bint _names_compression(const uint8_t* list, uint32_t size) noexcept nogil:
    """Whether permessage-deflate is among these extensions, with any parameters.  RFC 6455 §9.1."""
    cdef uint32_t at = 0
    cdef uint32_t name
    cdef bint quoted = False
    while at < size:
        while at < size and (list[at] == 44 or list[at] == 32 or list[at] == 9):
            at += 1
        name = at
        while at < size and list[at] not in (44, 59, 32, 9):
            at += 1
        if same_name(list + name, at - name, <const uint8_t*>b"permessage-deflate", 18):
            return True
        while at < size and (quoted or list[at] != 44):
            if list[at] == 34:
                quoted = not quoted
            at += 2 if quoted and list[at] == 92 else 1
    return False


cdef bint _agrees_compression(const uint8_t* head, const HttpResponse* http) noexcept nogil:
    """Whether permessage-deflate was agreed: only then may RSV1 be set.  RFC 7692 §6."""
    cdef const HttpField* field
    cdef uint32_t i
    for i in range(http.fields_n):
        field = &http.fields[i]
        if (
            field.kind == HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS
            and _names_compression(head + field.value_off, field.value_len)
        ):
            return True
    return False


cdef int upstream_switch(
    Worker* worker, Conn* upstream, Conn* client, const uint8_t* data, uint32_t size,
    const HttpResponse* http,
) noexcept nogil:
    cdef bint compression
    cdef Request* request = client.request
    cdef int result
    if not _accepts(data, http, request):
        return upstream_bad_switch(worker, b"upstream's 101 is not an answer to this handshake")
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
    compression = _agrees_compression(data, http)
    result = forward_switching(worker, data, http, request)
    if result < 0:
        return upstream_bad(worker, b"upstream's answer is too large")
    if conn_head_done(upstream, data, size, http.head_len) < 0:
        return STEP_CLOSE
    if conn_write(client, worker.compose + AT_HEAD, <uint32_t>result) < 0:
        return STEP_CLOSE
    return _establish(worker, client, upstream, compression)


cdef void _take_grant(Worker* worker, Session* session, Request* request) noexcept nogil:
    """The session rests on the request's token from now on."""
    grant_leave(worker, &request.grant)
    session.grant = request.grant
    session.grant.is_session = 1
    if request.has_token and not session.policy.flags & POLICY_IGNORE_EXPIRY:
        grant_enter(worker, &session.grant)


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
    _take_grant(worker, session, request)
    memcpy(session.consumer, request.consumer, 16)
    memcpy(session.credential, request.credential, 16)
    session.has_consumer = request.has_consumer
    session.has_credential = request.has_token
    session.opaque = request.proxied
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
