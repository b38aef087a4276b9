"""An exchange with an upstream: its answer's head, and the bodies both ways.

What one side sends is read into the worker's scratch, freed of its framing, given ours, and sent to
the other side from there: no framing goes on as it came, so that nobody behind us can read it
otherwise (request smuggling).  Trailers are dropped (RFC 9110 §6.5.1).  What a socket would not take
is kept in its `output`, and until that is out the other side is not read: a direction holds one read
and a head at the most.

An upstream may answer before it has the whole request.  Both bodies then go on, but the client's
connection ends behind the answer.  Once the head of an answer has gone to the client its end can
only be the whole body or a cut connection: a body that ends early is never completed by us.

A handshake takes the same way up to its 101; _upstream makes the session.
"""


cdef enum:
    BAD_BODY = -903  # beside the results of _core: chunks that cannot be read

# --- bodies -----------------------------------------------------------------------------------------


cdef ssize_t _take(Worker* worker, Conn* source, int64_t left) noexcept nogil:
    """Up to SCRATCH_BYTES of what a body may hold still, into the scratch.  As conn_recv."""
    cdef uint32_t most = SCRATCH_BYTES
    cdef uint32_t have = buffer_size(&source.input)
    if 0 <= left < most:
        most = <uint32_t>left
    if have:
        if have > most:
            have = most
        memcpy(worker.scratch + HEADROOM, source.input.data + source.input.head, have)
        buffer_consume(&source.input, have)
        return have
    if not source.flags & FLAG_READABLE:
        return 0
    return conn_recv(source, worker.scratch + HEADROOM, most)


cdef int _give_back(Conn* source, const uint8_t* data, uint32_t size) noexcept nogil:
    """Put what lies behind a body in front of the source's input again.  Returns 1 or CORE_FULL."""
    if buffer_size(&source.input):
        source.input.head -= size  # there it was taken from
        return 1
    return buffer_append(&source.input, data, size, INPUT_BYTES_MAX)


cdef int64_t _decode(
    HttpChunked* chunked, uint8_t* data, uint32_t size, uint32_t* payload
) noexcept nogil:
    """Move the payload of chunks to the start of `data`.  Returns the bytes read, or a refusal."""
    cdef size_t off, length
    cdef int64_t at = 0
    cdef int64_t used
    payload[0] = 0
    while at < size and not http_chunked_done(chunked):
        used = http_chunked_step(chunked, data + at, size - at, &off, &length)
        if used < 0:
            return used
        if length:
            memmove(data + payload[0], data + at + off, length)
            payload[0] += <uint32_t>length
        at += used
    return at


cdef int _put_payload(Conn* sink, uint8_t* data, uint32_t size, bint coded, bint last) noexcept nogil:
    """Send payload, as a chunk where it is coded.  HEADROOM before it and 64 bytes behind are ours."""
    cdef const char* digits = b"0123456789abcdef"
    cdef uint32_t left = size
    if coded:
        if size:
            memcpy(data + size, b"\r\n", 2)
            size += 4
            data -= 2
            memcpy(data, b"\r\n", 2)
            while left:
                data -= 1
                data[0] = digits[left & 15]
                left >>= 4
                size += 1
        if last:
            memcpy(data + size, b"0\r\n\r\n", 5)
            size += 5
    return conn_write_most(sink, data, size, PENDING_MAX) if size else 1


cdef int _pass(
    Worker* worker, Conn* source, Conn* sink, int64_t* left, uint64_t* chunked, bint coded, uint32_t got
) noexcept nogil:
    """Hand on the `got` bytes of a body in the scratch.

    Returns 1, BAD_BODY when they are not what they must be, CORE_FULL or the sink's error.
    """
    cdef uint8_t* data = worker.scratch + HEADROOM
    cdef uint32_t payload = got
    cdef int64_t used
    if left[0] == BODY_CHUNKED:
        used = _decode(<HttpChunked*>chunked, data, got, &payload)
        if used < 0:
            return BAD_BODY
        if http_chunked_done(<HttpChunked*>chunked):
            left[0] = 0
            if used < got and _give_back(source, data + used, got - <uint32_t>used) < 0:
                return CORE_FULL
    elif left[0] > 0:
        left[0] -= got
    return _put_payload(sink, data, payload, coded, left[0] == 0)


# --- up: the request's body -------------------------------------------------------------------------


cdef int _up(Worker* worker, Conn* client) noexcept nogil:
    """Move the request's body while there is some and the upstream takes it."""
    cdef Request* request = client.request
    cdef Conn* upstream = request.upstream
    cdef uint32_t pending = buffer_size(&upstream.output)
    cdef int budget = READS_MAX
    cdef int result
    cdef ssize_t got
    if pending:
        if conn_flush(upstream) < 0:
            _stop_sending(upstream, request)
        elif buffer_size(&upstream.output) < pending:
            request.moved = 1
    while request.body_left and not request.deaf and buffer_size(&upstream.output) == 0:
        if budget == 0:
            conn_ready(worker, client)
            break
        budget -= 1
        got = _take(worker, client, request.body_left)
        if got < 0:
            return STEP_CLOSE  # gone within its body
        if got == 0:
            break
        request.body_begun = 1
        request.moved = 1
        result = _pass(
            worker, client, upstream, &request.body_left, request.chunked, request.body_chunked,
            <uint32_t>got,
        )
        if result == BAD_BODY:
            return _bad_request(worker, client)
        if result < 0:
            _stop_sending(upstream, request)
    return STEP_WAIT


cdef void _stop_sending(Conn* upstream, Request* request) noexcept nogil:
    """The upstream takes no more.  What it has answered may lie in its socket: read on."""
    request.deaf = 1
    buffer_drop(&upstream.output)
    upstream.flags = (upstream.flags | FLAG_READABLE) & ~FLAG_DRAINED


cdef int _bad_request(Worker* worker, Conn* client) noexcept nogil:
    if client.request.upstream.state == STATE_PROXY:
        return _cut(client)
    answer_engine(worker, 400, b"Bad request", b"malformed body")
    worker.answer.close = 1
    return STEP_ANSWER


# --- down: the answer -------------------------------------------------------------------------------


cdef int _read_head(Worker* worker, Conn* client) noexcept nogil:
    """Read the upstream's answer and judge it once its head is whole.

    STEP_PROXY: it is on its way to the client; else as the worker is to act.
    """
    cdef Conn* upstream = client.request.upstream
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
        client.request.moved = 1
        data = worker.scratch + HEADROOM
        size = <uint32_t>got
        if buffer_size(&upstream.input):
            if buffer_append(&upstream.input, data, size, INPUT_BYTES_MAX) < 0:
                return upstream_bad(worker, b"upstream's answer is too large")
            data = upstream.input.data + upstream.input.head
            size = buffer_size(&upstream.input)
        while size:
            found = http_scan_head(data, size, &upstream.scanned)
            if found < 0:
                return upstream_bad(worker, b"upstream's answer is malformed")
            if found == 0:
                if conn_keep(upstream, data, size) < 0:
                    return upstream_bad(worker, b"upstream's answer is too large")
                break
            found = _judge_answer(worker, client, data, size, <uint32_t>found)
            if found != STEP_PARK:
                return found
            # The interim answer was taken off; what came behind it stands in the input now.
            data = upstream.input.data + upstream.input.head
            size = buffer_size(&upstream.input)
    return STEP_WAIT


cdef int _judge_answer(
    Worker* worker, Conn* client, const uint8_t* data, uint32_t size, uint32_t head_len
) noexcept nogil:
    """As _read_head, or STEP_PARK after an interim answer: read on."""
    cdef Request* request = client.request
    cdef Conn* upstream = request.upstream
    cdef HttpResponse http
    if http_parse_response(data, head_len, &http) < 0:
        return upstream_bad(worker, b"upstream's answer is malformed")
    if http.status == 101:
        if not request.switches:
            return upstream_bad_switch(worker, b"upstream switched protocols unasked")
        return upstream_switch(worker, upstream, client, data, size, &http)
    if http.status >= 200:
        return _begin_answer(worker, client, data, size, &http)
    request.interim += 1
    if request.interim > INTERIM_MAX:
        return upstream_bad(worker, b"upstream's answer is malformed")
    if request.proxied and request.version_minor:  # RFC 9110 §15.2
        head_len = <uint32_t>forward_interim(worker, data, &http)
        if <int>head_len < 0 or (
            conn_write_most(client, worker.compose + AT_HEAD, head_len, PENDING_MAX) < 0
        ):
            return STEP_CLOSE
    if conn_head_done(upstream, data, size, http.head_len) < 0:
        return upstream_bad(worker, b"upstream's answer is too large")
    return STEP_PARK


cdef int64_t _body_of(const Request* request, const HttpResponse* http) noexcept nogil:
    """What follows an answer's head.  RFC 9112 §6.3."""
    if request.head_only or http.status == 204 or http.status == 304:
        return 0
    if http.chunked:
        return BODY_CHUNKED
    return http.content_length if http.content_length >= 0 else BODY_TO_END


cdef int _begin_answer(
    Worker* worker, Conn* client, const uint8_t* data, uint32_t size, const HttpResponse* http
) noexcept nogil:
    """Queue the answer's head for the client.  STEP_PROXY, STEP_ANSWER or STEP_CLOSE."""
    cdef Request* request = client.request
    cdef Conn* upstream = request.upstream
    cdef int head_size
    request.answer_left = _body_of(request, http)
    if not request.proxied:
        request.version_minor = 1
        if request.answer_left > REFUSAL_BYTES_MAX:
            return upstream_bad(worker, b"upstream's refusal is too large")
    request.answer_coded = request.answer_left < 0 and request.version_minor
    request.upstream_keeps = (
        http.keep_alive and request.answer_left != BODY_TO_END and not request.switches
    )
    if worker.draining or request.body_left or (request.answer_left < 0 and not request.answer_coded):
        client.flags &= ~FLAG_KEEP
    head_size = forward_answer(worker, data, http, request, client.flags & FLAG_KEEP)
    if head_size < 0:
        return upstream_bad(worker, b"upstream's answer is too large")
    if buffer_append(
        &client.output, worker.compose + AT_HEAD, <uint32_t>head_size, PENDING_MAX
    ) < 0 or conn_head_done(upstream, data, size, http.head_len) < 0:
        return STEP_CLOSE
    upstream.state = STATE_PROXY
    if request.proxied:
        nx_bump(&worker.counters.proxied[http.status // 100], 1)
    request_note(worker, client, http.status, b"upstream refused the handshake")
    return STEP_PROXY


cdef int _down(Worker* worker, Conn* client) noexcept nogil:
    """Move the answer while there is some and the client takes it."""
    cdef Request* request = client.request
    cdef Conn* upstream = request.upstream
    cdef bint takes = buffer_size(&client.output) == 0
    cdef int budget = READS_MAX
    cdef int result
    cdef ssize_t got
    if upstream.state == STATE_HEAD:
        if not takes:
            return STEP_WAIT  # interim answers, which it has not taken yet
        result = _read_head(worker, client)
        if result != STEP_PROXY:
            return result
    while request.answer_left and takes:
        if budget == 0:
            conn_ready(worker, upstream)
            break
        budget -= 1
        got = _take(worker, upstream, request.answer_left)
        if got == 0:
            break
        if got < 0:
            if got != IO_EOF or request.answer_left != BODY_TO_END:
                return _cut(client)
            request.answer_left = 0
            got = 0
        request.moved = 1
        request.answer_passed += <uint64_t>got
        if not request.proxied and request.answer_passed > REFUSAL_BYTES_MAX:
            return _cut(client)
        result = _pass(
            worker, upstream, client, &request.answer_left, request.answer_chunked,
            request.answer_coded, <uint32_t>got,
        )
        if result == BAD_BODY:
            return _cut(client)
        # A head that waits in the output goes out with the first bytes behind it.
        if result < 0 or conn_flush(client) < 0:
            return STEP_CLOSE
        takes = buffer_size(&client.output) == 0
    if conn_flush(client) < 0:
        return STEP_CLOSE
    return STEP_WAIT if request.answer_left else _finish(worker, client)


cdef int _finish(Worker* worker, Conn* client) noexcept nogil:
    """All of the answer is on its way: the upstream's connection may serve another."""
    cdef Request* request = client.request
    cdef Conn* upstream = request.upstream
    if (
        request.upstream_keeps and request.body_left == 0 and not request.deaf
        and buffer_size(&upstream.output) == 0 and buffer_size(&upstream.input) == 0
        and not upstream.flags & (FLAG_EOF | FLAG_BROKEN | FLAG_HUNG_UP)
    ):
        request.upstream = NULL
        upstream.peer = NULL
        pool_put(worker, upstream, request.policy)
    return STEP_ANSWERED


cdef int _cut(Conn* client) noexcept nogil:
    """The answer cannot be completed: end it so that the client can tell."""
    cdef linger_option now
    client.flags &= ~FLAG_KEEP
    if client.request.answer_left < 0 and not client.request.answer_coded:
        # Only the end of the connection would end this body: a reset says that it is not whole.
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(client.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        return STEP_CLOSE
    return STEP_ANSWERED


# --- all of it --------------------------------------------------------------------------------------


cdef inline bint _delivered(const Conn* upstream) noexcept nogil:
    """Whether the upstream has the whole head of its request."""
    return upstream.state == STATE_HEAD or upstream.state == STATE_PROXY


cdef int proxy_go(Worker* worker, Conn* client) noexcept nogil:
    """Move what can be moved, both ways."""
    cdef int step = STEP_WAIT
    if _delivered(client.request.upstream):
        step = _up(worker, client)
        if step == STEP_WAIT:
            step = _down(worker, client)
    if step == STEP_WAIT:
        _settle(worker, client)
    return step


cdef int proxy_event(Worker* worker, Conn* upstream) noexcept nogil:
    cdef Conn* client = upstream.peer
    cdef int result
    if not _delivered(upstream):
        result = upstream_deliver(worker, upstream)
        if result < 0:
            return upstream_failed(worker, client, result)
        if result == 0:
            return STEP_WAIT
    return proxy_go(worker, client)


cdef void _bound(Worker* worker, Conn* conn, uint64_t most_ms, bint moved) noexcept nogil:
    """A side has this long for its next byte; 0: nothing is waited for from it."""
    if most_ms == 0:
        wheel_cancel(&worker.wheel, &conn.timer)
    elif moved or conn.timer.prev == NULL:
        wheel_arm(&worker.wheel, &conn.timer, worker.now_ms + most_ms)


cdef void _settle(Worker* worker, Conn* client) noexcept nogil:
    """Say who is waited for, and how long."""
    cdef Request* request = client.request
    cdef Conn* upstream = request.upstream
    cdef bint moved = request.moved
    cdef uint64_t client_ms = 0
    cdef uint64_t upstream_ms = 0
    request.moved = 0
    if not _delivered(upstream):
        if client.flags & FLAG_HUNG_UP:
            _bound(worker, client, GONE_MS, False)
        return
    if buffer_size(&upstream.output):
        upstream_ms = request.policy.write_timeout_ms
    if buffer_size(&client.output):
        client_ms = WRITE_MS
    elif request.body_left and not request.deaf and upstream_ms == 0:
        client_ms = BODY_GAP_MS
    elif upstream_ms == 0:
        upstream_ms = request.policy.read_timeout_ms
        if client.flags & FLAG_HUNG_UP and upstream.state == STATE_HEAD:
            client_ms = GONE_MS
    _bound(worker, client, client_ms, moved)
    _bound(worker, upstream, upstream_ms, moved)


cdef int proxy_timer(Worker* worker, Conn* conn) noexcept nogil:
    cdef Request* request
    if conn.kind == CONN_UPSTREAM:
        if conn.state == STATE_PROXY:
            return _cut(conn.peer)
        return upstream_failed(worker, conn.peer, -ETIMEDOUT)
    request = conn.request
    if buffer_size(&conn.output) or request.body_left == 0 or request.deaf:
        return STEP_CLOSE  # it takes nothing, or has gone
    if request.upstream.state == STATE_PROXY:
        return _cut(conn)
    answer_engine(worker, 408, b"Request timeout", NULL)
    worker.answer.close = 1
    return STEP_ANSWER
