"""One request and its answer.

Our own answers are composed here; a request for the token endpoint is read whole (64 KiB at the
most), parked, and answered with what the issuer says.  A connection is kept when both sides may
keep it and the request has been read to its end; else our side ends it and what the client still
sends is read and dropped for a while, so that no reset overtakes the answer (RFC 9112 §9.6). The
next request is read when the last answer is out: a client may ask ahead, or end its side, and reads
in its own time.
"""

# --- our own answers --------------------------------------------------------------------------------


cdef const char* _reason(int status) noexcept nogil:
    """The reason phrase of a status that we answer with.  RFC 9110 §15."""
    if status == 200:
        return b"OK"
    if status == 301:
        return b"Moved Permanently"
    if status == 302:
        return b"Found"
    if status == 307:
        return b"Temporary Redirect"
    if status == 308:
        return b"Permanent Redirect"
    if status == 400:
        return b"Bad Request"
    if status == 401:
        return b"Unauthorized"
    if status == 403:
        return b"Forbidden"
    if status == 404:
        return b"Not Found"
    if status == 405:
        return b"Method Not Allowed"
    if status == 408:
        return b"Request Timeout"
    if status == 413:
        return b"Content Too Large"
    if status == 414:
        return b"URI Too Long"
    if status == 426:
        return b"Upgrade Required"
    if status == 429:
        return b"Too Many Requests"
    if status == 500:
        return b"Internal Server Error"
    if status == 502:
        return b"Bad Gateway"
    if status == 503:
        return b"Service Unavailable"
    if status == 504:
        return b"Gateway Timeout"
    if status == 505:
        return b"HTTP Version Not Supported"
    return b""


cdef const char* _put_body(Writer* out, const Answer* a, int kind, const Request* request) noexcept nogil:
    """The error template in the type asked for.  Returns its content type.  §9."""
    if a.message == NULL:
        put_span(out, &a.body)
        return b"application/json; charset=utf-8"
    if kind == ANSWER_PLAIN:
        _put_message(out, a, kind)
        put_text(out, b"\nrequest_id: ")
        put_hex(out, request.id, 16)
        put_text(out, b"\n")
        return b"text/plain; charset=utf-8"
    if kind == ANSWER_XML:
        put_text(out, b'<?xml version="1.0" encoding="UTF-8"?>\n<error>\n  <message>')
        _put_message(out, a, kind)
        put_text(out, b"</message>\n  <requestid>")
        put_hex(out, request.id, 16)
        put_text(out, b"</requestid>\n</error>\n")
        return b"application/xml; charset=utf-8"
    if kind == ANSWER_HTML:
        put_text(
            out,
            b"<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n"
            b"  </head>\n  <body>\n    <h1>Error</h1>\n    <p>",
        )
        _put_message(out, a, kind)
        put_text(out, b"</p>\n    <p>request_id: ")
        put_hex(out, request.id, 16)
        put_text(out, b"</p>\n  </body>\n</html>\n")
        return b"text/html; charset=utf-8"
    put_text(out, b'{\n  "message":"')
    _put_message(out, a, kind)
    put_text(out, b'",\n  "request_id":"')
    put_hex(out, request.id, 16)
    put_text(out, b'"\n}')
    return b"application/json; charset=utf-8"


cdef void _put_json(Writer* out, const uint8_t* text, uint32_t size) noexcept nogil:
    """Text inside a JSON string; it has no control bytes."""
    cdef uint32_t i
    for i in range(size):
        if text[i] == 34 or text[i] == 92:
            put(out, b"\\", 1)
        put(out, text + i, 1)


cdef void _put_markup(Writer* out, const uint8_t* text, uint32_t size) noexcept nogil:
    """Text inside an element of HTML or XML."""
    cdef uint32_t i
    for i in range(size):
        if text[i] == 38:
            put(out, b"&amp;", 5)
        elif text[i] == 60:
            put(out, b"&lt;", 4)
        elif text[i] == 62:
            put(out, b"&gt;", 4)
        else:
            put(out, text + i, 1)


cdef void _put_message(Writer* out, const Answer* a, int kind) noexcept nogil:
    """The message, with what may stand behind it, as the type asks for it."""
    cdef const Span* more = &a.message_more
    put_text(out, a.message)
    if kind == ANSWER_PLAIN:
        put_span(out, more)
    elif kind == ANSWER_HTML or kind == ANSWER_XML:
        _put_markup(out, more.data, more.size)
    else:
        _put_json(out, more.data, more.size)
    if a.message_end != NULL:
        put_text(out, a.message_end)


cdef void _put_common(
    Writer* out, Worker* worker, const Request* request, bint keep, bint upgrade
) noexcept nogil:
    """What every answer made by the gateway carries.  §8; Upgrade is named, RFC 9110 §7.8."""
    put_text(out, b"Connection: ")
    if upgrade:
        put_text(out, b"Upgrade\r\n" if keep else b"Upgrade, close\r\n")
    else:
        put_text(out, b"keep-alive\r\n" if keep else b"close\r\n")
    put_field(out, b"Server", worker.shared.server_token.data, worker.shared.server_token.size)
    put_text(out, b"X-Kong-Response-Latency: ")
    put_uint(out, worker.now_ms - request.began_ms)
    put_text(out, b"\r\nX-Kong-Request-Id: ")
    put_hex(out, request.id, 16)
    put_text(out, b"\r\n\r\n")


cdef bint _can_keep(Conn* client) noexcept nogil:
    """Drop the body of a request answered early, what came of it and, by `skip`, what will.

    Whether the connection can go on: not with chunks, a large body, or one that may never come.
    """
    cdef Request* request = client.request
    cdef uint32_t here = buffer_size(&client.input)
    if not client.flags & FLAG_KEEP or request.body_left < 0:
        return False
    if request.body_left > SKIP_BYTES_MAX or (request.expects and request.body_left):
        return False
    if here > <uint32_t>request.body_left:
        here = <uint32_t>request.body_left
    client.skip = <uint32_t>request.body_left - here
    if here:
        buffer_consume(&client.input, here)
    return True


cdef int exchange_answer(Worker* worker, Conn* client) noexcept nogil:
    cdef Answer* a = &worker.answer
    cdef Request* request = client.request
    cdef Writer body
    cdef Writer out
    cdef const char* kind_text
    cdef int kind = a.type_wanted if a.type_wanted else request.type_wanted
    cdef bint keep = not a.close and not worker.draining and _can_keep(client)
    if kind == ANSWER_DEFAULT and a.engine:
        kind = ANSWER_PLAIN
    body.data = worker.scratch
    body.size = 0
    body.capacity = HEADROOM + SCRATCH_BYTES
    body.full = 0
    out.data = worker.compose + AT_HEAD
    out.size = 0
    out.capacity = COMPOSE_BYTES - AT_HEAD
    out.full = 0
    put_text(&out, b"HTTP/1.1 ")
    put_uint(&out, a.status)
    put(&out, b" ", 1)
    put_text(&out, _reason(a.status))
    put(&out, b"\r\n", 2)
    if a.location.size:
        put_field(&out, b"Location", a.location.data, a.location.size)
        put_text(&out, b"Content-Length: 0\r\n")
    else:
        kind_text = _put_body(&body, a, kind, request)
        put_text(&out, b"Content-Type: ")
        put_text(&out, kind_text)
        put_text(&out, b"\r\nContent-Length: ")
        put_uint(&out, body.size)
        put(&out, b"\r\n", 2)
    if a.challenge.size:
        put_field(&out, b"WWW-Authenticate", a.challenge.data, a.challenge.size)
    if a.fields != NULL:
        put_text(&out, a.fields)
    _put_common(&out, worker, request, keep, a.status == 426)
    if not request.head_only:
        put(&out, body.data, body.size)
    BUG_ON(out.full or body.full)
    nx_bump(&worker.counters.requests, 1)
    request_note(worker, client, a.status, a.why)
    if conn_write(client, out.data, out.size) < 0:
        return STEP_CLOSE
    return _after_answer(worker, client, keep)


cdef int _after_answer(Worker* worker, Conn* client, bint keep) noexcept nogil:
    """The answer is on its way: wait for the next request, or linger."""
    request_drop(worker, client)
    client.scanned = 0
    if not client.flags & FLAG_REGISTERED and conn_register(worker, client) < 0:
        return STEP_CLOSE
    if not keep:
        return linger(worker, client)
    client.state = STATE_HEAD
    client.flags |= FLAG_USED
    wheel_arm(&worker.wheel, &client.timer, worker.now_ms + KEEPALIVE_MS)
    if buffer_size(&client.input) or client.flags & FLAG_READABLE:
        conn_ready(worker, client)
    return STEP_WAIT


cdef int exchange_close(Worker* worker, Conn* client) noexcept nogil:
    cdef Answer* a = &worker.answer
    nx_bump(&worker.counters.requests, 1)
    nx_bump(&worker.counters.closes[close_slot(a.close_code)], 1)
    request_note(worker, client, a.status, a.why)
    if conn_write(client, a.composed.data, a.composed.size) < 0:
        return STEP_CLOSE
    return _after_answer(worker, client, False)


cdef int exchange_done(Worker* worker, Conn* client) noexcept nogil:
    return _after_answer(worker, client, client.flags & FLAG_KEEP and not worker.draining)


# --- lingering --------------------------------------------------------------------------------------


cdef int linger(Worker* worker, Conn* conn) noexcept nogil:
    conn.state = STATE_LINGER
    conn.scanned = 0  # from here on: bytes dropped
    buffer_drop(&conn.input)
    wheel_arm(
        &worker.wheel, &conn.timer,
        worker.now_ms + (REFUSED_MS if conn.flags & FLAG_REFUSED else WRITE_MS),
    )
    return linger_read(worker, conn)


cdef int linger_read(Worker* worker, Conn* conn) noexcept nogil:
    cdef uint32_t pending = buffer_size(&conn.output)
    cdef ssize_t got
    if conn_flush(conn) < 0:
        return STEP_CLOSE
    if buffer_size(&conn.output) == 0:
        if conn.flags & FLAG_EOF:
            return STEP_CLOSE
        if not conn.flags & FLAG_SHUT:
            conn_shutdown(conn)
            if not conn.flags & FLAG_REFUSED:
                wheel_arm(&worker.wheel, &conn.timer, worker.now_ms + LINGER_MS)
    elif buffer_size(&conn.output) < pending and not conn.flags & FLAG_REFUSED:
        wheel_arm(&worker.wheel, &conn.timer, worker.now_ms + WRITE_MS)
    while conn.flags & FLAG_READABLE:
        got = conn_recv(conn, worker.scratch, SCRATCH_BYTES)
        if got == IO_EOF and buffer_size(&conn.output):
            return STEP_WAIT  # it has said all, and may still read
        if got < 0:
            return STEP_CLOSE
        if got == 0:
            break
        conn.scanned += <uint32_t>got
        if conn.scanned > LINGER_BYTES_MAX:
            return STEP_CLOSE
    return STEP_WAIT


# --- the token endpoint -----------------------------------------------------------------------------


cdef const char* TOKEN_FIELDS = (
    b"Cache-Control: no-store\r\nPragma: no-cache\r\nX-Content-Type-Options: nosniff\r\n"
)
cdef const char* TOKEN_RETRY_FIELDS = (
    b"Retry-After: 1\r\n"
    b"Cache-Control: no-store\r\nPragma: no-cache\r\nX-Content-Type-Options: nosniff\r\n"
)


cdef int exchange_refuse(
    Worker* worker, Conn* client, int status, const char* message, const char* why
) noexcept nogil:
    client.flags &= ~FLAG_KEEP
    answer(worker, status, message, why)
    worker.answer.type_wanted = ANSWER_JSON
    worker.answer.fields = TOKEN_FIELDS
    return STEP_ANSWER


cdef int exchange_unavailable(Worker* worker, Conn* client, const char* why) noexcept nogil:
    client.flags &= ~FLAG_KEEP
    answer(worker, 503, NULL, why)
    worker.answer.body.data = <const uint8_t*>b'{"error":"temporarily_unavailable"}'
    worker.answer.body.size = 35
    worker.answer.fields = TOKEN_RETRY_FIELDS
    return STEP_ANSWER


cdef int _too_large(Worker* worker, Conn* client) noexcept nogil:
    return exchange_refuse(worker, client, 413, b"Payload too large", NULL)


cdef int exchange_begin(Worker* worker, Conn* client) noexcept nogil:
    cdef Request* request = client.request
    if request.body_left > TOKEN_BODY_MAX:
        return _too_large(worker, client)
    if not client.flags & FLAG_REGISTERED and conn_register(worker, client) < 0:
        return STEP_CLOSE
    request.body_have = 0
    request.body_raw = 0
    memset(request.chunked, 0, sizeof(request.chunked))
    client.state = STATE_BODY
    wheel_arm(&worker.wheel, &client.timer, worker.now_ms + BODY_MS)
    if (
        request.expects
        and request.body_left != 0
        and buffer_size(&client.input) == request.head_len
        and conn_write(client, <const uint8_t*>b"HTTP/1.1 100 Continue\r\n\r\n", 25) < 0
    ):
        return STEP_CLOSE
    return exchange_read(worker, client)


cdef int exchange_read(Worker* worker, Conn* client) noexcept nogil:
    """Read on until the body is whole, then ask the issuer."""
    cdef int whole
    cdef ssize_t got
    cdef int budget = READS_MAX
    while True:
        whole = body_whole(&client.input, client.request.head_len, client.request, TOKEN_BODY_MAX)
        if whole == CORE_FULL:
            return _too_large(worker, client)
        if whole < 0:
            return exchange_refuse(worker, client, 400, b"Bad request", b"malformed body")
        if whole:
            return _ask_issuer(worker, client)
        if not client.flags & FLAG_READABLE:
            return STEP_WAIT
        if budget == 0:
            conn_ready(worker, client)
            return STEP_WAIT
        budget -= 1
        got = conn_recv(client, worker.scratch, SCRATCH_BYTES)
        if got < 0:
            return STEP_CLOSE
        if got == 0:
            return STEP_WAIT
        if buffer_append(
            &client.input, worker.scratch, <uint32_t>got, INPUT_BYTES_MAX + SCRATCH_BYTES
        ) < 0:
            return _too_large(worker, client)


cdef int _ask_issuer(Worker* worker, Conn* client) noexcept nogil:
    """Park the request and hand its head and body to the Python side."""
    cdef Request* request = client.request
    cdef Policy* policy = request.policy
    cdef Question* question = <Question*>ring_reserve(&worker.questions)
    cdef uint32_t size = request.head_len + request.body_have
    cdef uint32_t behind
    cdef uint64_t one = 1
    cdef uint8_t* text
    text = <uint8_t*>malloc(size) if question != NULL else NULL
    if text == NULL:
        nx_bump(&worker.counters.questions_dropped, 1)
        return exchange_unavailable(worker, client, b"questions are full")
    memset(question, 0, sizeof(Question))
    memcpy(text, client.input.data + client.input.head, size)
    question.kind = QUESTION_REQUEST
    conn_renew(client)
    question.ref = conn_ref(worker, client)
    question.text = text
    question.text_len = size
    question.head_len = request.head_len
    memcpy(question.plugin, request.plugin, 16)
    if policy != NULL:  # metadata has no route
        memcpy(question.route, policy.route, 16)
        memcpy(question.service, policy.service, 16)
        question.has_service = 1 if policy.flags & POLICY_SERVICE else 0
    question.tls = client.ssl != NULL
    question.trusted = peer_trusted(worker.shared, client)
    question.v6 = 1 if client.flags & FLAG_V6 else 0
    memcpy(question.address, client.remote, 16)
    memcpy(question.id, request.id, 16)
    ring_publish(&worker.questions)
    write(worker.shared.question_fd, &one, sizeof(one))
    behind = request.body_raw if request.body_left < 0 else request.body_have
    buffer_consume(&client.input, request.head_len + behind)
    client.state = STATE_PARKED
    request.question = QUESTION_REQUEST
    wheel_arm(&worker.wheel, &client.timer, worker.now_ms + PARK_MS)
    return STEP_WAIT


cdef int exchange_respond(
    Worker* worker, Conn* client, const uint8_t* text, uint32_t size, uint32_t head_len
) noexcept nogil:
    cdef bint keep = client.flags & FLAG_KEEP and not worker.draining
    cdef Writer out
    out.data = worker.compose
    out.size = 0
    out.capacity = COMPOSE_BYTES
    out.full = 0
    put(&out, text, head_len)
    _put_common(&out, worker, client.request, keep, False)
    if not client.request.head_only:
        put(&out, text + head_len, size - head_len)
    nx_bump(&worker.counters.requests, 1)
    if out.full or conn_write(client, out.data, out.size) < 0:
        return STEP_CLOSE
    return _after_answer(worker, client, keep)
