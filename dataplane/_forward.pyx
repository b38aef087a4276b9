"""Heads to the upstream and back.

What the gateway says about a request (who, from where, by which path) it says alone: fields that
could say the same in a client's name are left out before ours are put in, so no order of fields
and no `Connection: X-Consumer-ID` can take one of ours away (S48, S54).
"""


# --- the path, routing-and-proxy.md §3 --------------------------------------------------------------


cdef bint _needs_escape(uint8_t byte) noexcept nogil:
    """Neither unreserved, nor reserved, nor %."""
    if byte <= 32 or byte >= 127:
        return True
    return byte == 34 or byte == 60 or byte == 62 or byte == 92 or byte == 94 or (
        byte == 96 or byte == 123 or byte == 124 or byte == 125
    )


cdef void _put_escaped(Writer* out, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef const char* digits = b"0123456789ABCDEF"
    cdef uint8_t triple[3]
    cdef uint32_t from_ = 0
    cdef uint32_t i
    for i in range(size):
        if not _needs_escape(data[i]):
            continue
        put(out, data + from_, i - from_)
        triple[0] = 37
        triple[1] = digits[data[i] >> 4]
        triple[2] = digits[data[i] & 15]
        put(out, triple, 3)
        from_ = i + 1
    put(out, data + from_, size - from_)


cdef uint32_t _leading_dots(const uint8_t* rest, uint32_t size) noexcept nogil:
    """Bytes of `./`, `../`, `.` or `..` at the start of what is left of a path."""
    cdef uint32_t skip = 0
    cdef uint32_t dots
    while skip < size:
        dots = 0
        while skip + dots < size and dots < 3 and rest[skip + dots] == 46:
            dots += 1
        if dots == 0 or dots == 3:
            break
        if skip + dots == size:
            return size
        if rest[skip + dots] != 47:
            break
        skip += dots + 1
    return skip


cdef void _put_v0(Writer* out, const Span* base, const Span* path, int prefix) noexcept nogil:
    """The table of §3.  `prefix`: bytes to strip, or -1 for none."""
    cdef bint slash = base.data[base.size - 1] == 47
    cdef bint path_slash = path.data[path.size - 1] == 47
    cdef const uint8_t* rest
    cdef uint32_t size, skip
    if prefix < 0:
        if slash:
            _put_escaped(out, base.data, base.size)
            _put_escaped(out, path.data + 1, path.size - 1)
        else:
            _put_escaped(out, base.data, base.size)
            if path.size > 1:
                _put_escaped(out, path.data, path.size)
        return
    rest = path.data + prefix
    size = path.size - <uint32_t>prefix
    skip = _leading_dots(rest, size)
    rest += skip
    size -= skip
    if size == 0:
        if slash and base.size > 1 and not path_slash:
            _put_escaped(out, base.data, base.size - 1)
            return
        _put_escaped(out, base.data, base.size)
        if not slash and path_slash and path.size > 1:
            put(out, b"/", 1)
    elif rest[0] == 47:
        _put_escaped(out, base.data, base.size - 1 if slash else base.size)
        _put_escaped(out, rest, size)
    else:
        _put_escaped(out, base.data, base.size)
        if not slash:
            put(out, b"/", 1)
        _put_escaped(out, rest, size)


cdef bint _is_hidden(const Visit* visit, const uint8_t* part, uint32_t size) noexcept nogil:
    """Whether a `name=value` of the query stays here: a ticket; a token where it is to be hidden.

    A header rules the query out, which then goes on (oauth2.md §6.4), but not with the same token
    in it (S61).
    """
    cdef uint32_t flags = visit.policy.flags
    if flags & POLICY_CARRIER_TICKET and param_is(part, size, ticket_param()):
        return True
    if not (flags & POLICY_HIDE_CREDENTIALS and flags & POLICY_CARRIER_QUERY):
        return False
    return param_is(part, size, token_param()) and (
        visit.source != SOURCE_HEADER or _holds(part, size, &visit.token)
    )


cdef inline bint _holds(const uint8_t* text, uint32_t size, const Span* token) noexcept nogil:
    """Whether the token stands somewhere in a text."""
    return token.size != 0 and memmem(text, size, token.data, token.size) != NULL


cdef void _put_query(Writer* out, const Visit* visit) noexcept nogil:
    """The query as it came, without what is not to go on."""
    cdef const uint8_t* query = visit.head + visit.http.query_off
    cdef uint32_t size = visit.http.query_len
    cdef const uint8_t* end
    cdef uint32_t at = 0
    cdef uint32_t part
    cdef bint first = True
    if not visit.http.has_query:
        return
    if not visit.policy.flags & (POLICY_HIDE_CREDENTIALS | POLICY_CARRIER_TICKET):
        put(out, b"?", 1)
        put(out, query, size)
        return
    while at <= size:  # an empty part may be the last
        end = <const uint8_t*>memchr(query + at, 38, size - at)
        part = <uint32_t>(end - query) - at if end != NULL else size - at
        if not _is_hidden(visit, query + at, part):
            put(out, b"?" if first else b"&", 1)
            put(out, query + at, part)
            first = False
        at += part + 1


cdef void forward_path(Writer* out, const Visit* visit) noexcept nogil:
    cdef Span base = visit.policy.service_path
    cdef int prefix = -1
    if base.size == 0:
        base.data = <const uint8_t*>b"/"
        base.size = 1
    if visit.policy.flags & POLICY_STRIP_PATH and visit.prefix_len:
        prefix = <int>visit.prefix_len
    _put_v0(out, &base, &visit.path, prefix)
    _put_query(out, visit)


# --- to the upstream, §7 ----------------------------------------------------------------------------


cdef bint _is_ours(const HttpField* field) noexcept nogil:
    """Fields that are put in anew, or never go on."""
    if field.flags & HTTP_FLAG_HOP:
        return True
    return (
        field.kind == HTTP_FIELD_HOST
        or field.kind == HTTP_FIELD_CONNECTION
        or field.kind == HTTP_FIELD_UPGRADE
        or field.kind == HTTP_FIELD_IDENTITY
        or field.kind == HTTP_FIELD_VIA
        or field.kind == HTTP_FIELD_CONTENT_LENGTH
        or field.kind == HTTP_FIELD_EXPECT
        or field.kind == HTTP_FIELD_HTTP2_SETTINGS
        or field.kind == HTTP_FIELD_X_KONG_REQUEST_ID
        or (HTTP_FIELD_X_FORWARDED_FOR <= field.kind and field.kind <= HTTP_FIELD_X_REAL_IP)
    )


cdef inline bint _announces_trailers(const uint8_t* head, const HttpField* field) noexcept nogil:
    """Whether this is Trailer: what it announces ends here (RFC 9110 §6.5.1)."""
    return field.name_len == 7 and same_name(
        head + field.name_off, 7, <const uint8_t*>b"trailer", 7
    )


cdef bint _put_all(Writer* out, const Visit* visit, int kind) noexcept nogil:
    """The values of every field of a kind, comma between.  Whether there was one."""
    cdef bint any = False
    cdef uint32_t i
    cdef const HttpField* field
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind == kind and field.value_len:
            if any:
                put(out, b", ", 2)
            put(out, visit.head + field.value_off, field.value_len)
            any = True
    return any


cdef const HttpField* _trusted_field(const Visit* visit, int kind) noexcept nogil:
    cdef uint32_t i
    if visit.trusted:
        for i in range(visit.http.fields_n):
            if visit.http.fields[i].kind == kind and visit.http.fields[i].value_len:
                return &visit.http.fields[i]
    return NULL


cdef void _put_forwarded(
    Writer* out, const Visit* visit, int kind, const char* name, const uint8_t* ours, uint32_t size
) noexcept nogil:
    """A trusted peer's word, else ours; nothing when ours is empty."""
    cdef const HttpField* theirs = _trusted_field(visit, kind)
    if theirs != NULL:
        put_field(out, name, visit.head + theirs.value_off, theirs.value_len)
    elif size:
        put_field(out, name, ours, size)


cdef void _put_where_from(Writer* out, Conn* client, const Visit* visit) noexcept nogil:
    cdef char ip[64]
    cdef char peer[64]
    cdef uint32_t peer_size
    cdef uint8_t port[8]
    cdef Writer digits
    cdef uint32_t ip_size = address_text(client.remote, client.flags & FLAG_V6, ip)
    cdef const uint8_t* head = visit.head
    cdef uint32_t prefix = 0
    put_field(out, b"X-Real-IP", ip, ip_size)
    put_text(out, b"X-Forwarded-For: ")
    if _put_all(out, visit, HTTP_FIELD_X_FORWARDED_FOR):
        peer_size = address_text(client.socket_address, client.flags & FLAG_SOCKET_V6, peer)
        put(out, b", ", 2)
        put(out, peer, peer_size)
    else:
        put(out, ip, ip_size)
    put(out, b"\r\n", 2)
    _put_forwarded(
        out, visit, HTTP_FIELD_X_FORWARDED_PROTO, b"X-Forwarded-Proto",
        <const uint8_t*>(b"https" if client.ssl != NULL else b"http"), 5 if client.ssl != NULL else 4,
    )
    _put_forwarded(
        out, visit, HTTP_FIELD_X_FORWARDED_HOST, b"X-Forwarded-Host",
        head + visit.http.host_off, visit.http.host_len,
    )
    digits.data = port
    digits.capacity = sizeof(port)
    digits.size = 0
    digits.full = 0
    put_uint(&digits, client.local_port)
    _put_forwarded(
        out, visit, HTTP_FIELD_X_FORWARDED_PORT, b"X-Forwarded-Port", port, digits.size
    )
    _put_forwarded(
        out, visit, HTTP_FIELD_X_FORWARDED_PATH, b"X-Forwarded-Path",
        head + visit.http.path_off, visit.http.path_len,
    )
    if visit.policy.flags & POLICY_STRIP_PATH and visit.prefix_len > 1:
        prefix = visit.prefix_len
    _put_forwarded(
        out, visit, HTTP_FIELD_X_FORWARDED_PREFIX, b"X-Forwarded-Prefix", visit.path.data, prefix
    )


cdef void _put_who(Writer* out, const Visit* visit) noexcept nogil:
    """The principal's prepared block, and what its token adds.  oauth2.md §6.3."""
    if visit.principal == NULL:
        return
    put_span(out, &visit.principal.headers)
    if visit.claims != NULL:
        if visit.claims.scope.size:
            put_field(
                out, b"X-Authenticated-Scope", visit.claims.scope.data, visit.claims.scope.size
            )
        if visit.claims.user_id.size:
            put_field(
                out, b"X-Authenticated-UserId",
                visit.claims.user_id.data, visit.claims.user_id.size,
            )


cdef void _put_via(Writer* out, Worker* worker) noexcept nogil:
    put(out, b"1.1 ", 4)
    put_span(out, &worker.shared.server_token)
    put(out, b"\r\n", 2)


cdef void _writer_at_head(Worker* worker, Writer* out) noexcept nogil:
    out.data = worker.compose + AT_HEAD
    out.size = 0
    out.capacity = COMPOSE_BYTES - AT_HEAD
    out.full = 0


cdef bint _takes_trailers(const Visit* visit) noexcept nogil:
    """Whether TE names `trailers`, all of TE that goes on."""
    cdef const HttpField* field
    cdef const uint8_t* item
    cdef uint32_t i, at, end
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind != HTTP_FIELD_TE:
            continue
        item = visit.head + field.value_off
        at = 0
        while at < field.value_len:
            while at < field.value_len and (item[at] <= 32 or item[at] == 44):
                at += 1
            end = at
            while end < field.value_len and item[end] > 32 and item[end] != 44:
                end += 1
            if same_name(item + at, end - at, <const uint8_t*>b"trailers", 8):
                return True
            at = end
    return False


cdef bint _tells_token(const Visit* visit, const HttpField* field) noexcept nogil:
    """Whether this is a Referer with the token in it, or with a whole `access_token` (S61)."""
    cdef const uint8_t* value = visit.head + field.value_off
    cdef Span name
    if not same_name(
        visit.head + field.name_off, field.name_len, <const uint8_t*>b"referer", 7
    ):
        return False
    name.data = <const uint8_t*>token_param()
    name.size = 12
    return _holds(value, field.value_len, &name) or _holds(value, field.value_len, &visit.token)


cdef bint _put_without_tokens(
    Writer* out, const Visit* visit, const HttpField* field, ProtocolWalk* walk
) noexcept nogil:
    """Put a field that browsers' carriers may be in without them.  False for any other field."""
    cdef bint is_cookie = (
        field.kind == HTTP_FIELD_COOKIE and visit.policy.flags & POLICY_CARRIER_COOKIE
    )
    cdef const uint8_t* value = visit.head + field.value_off
    cdef uint32_t begin = out.size
    cdef uint32_t left
    cdef ProtocolRules rules
    if not is_cookie and field.kind != HTTP_FIELD_SEC_WEBSOCKET_PROTOCOL:
        return False
    put(out, visit.head + field.name_off, <uint32_t>(field.value_off - field.name_off))
    if is_cookie:
        left = cookies_put(out, value, field.value_len, &visit.policy.cookie_name)
    else:
        protocol_rules(visit.policy, &rules)
        left = protocols_put(out, walk, &rules, value, field.value_len)
    if left:
        put(out, b"\r\n", 2)
    else:
        out.size = begin
    return True


cdef void _put_framing(Writer* out, const HttpRequest* http, const Request* request) noexcept nogil:
    """How the connection goes on, and what follows the head.  RFC 9112 §6, §7."""
    if not request.proxied:
        put_text(out, b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
        return
    if request.switches:
        put_text(out, b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n")
    else:
        put_text(out, b"Connection: keep-alive\r\n")
    if http.chunked:
        put_text(out, b"Transfer-Encoding: chunked\r\n")
    elif http.content_length >= 0:
        put_text(out, b"Content-Length: ")
        put_uint(out, <uint64_t>http.content_length)
        put(out, b"\r\n", 2)
    if request.expects and request.body_left:
        put_text(out, b"Expect: 100-continue\r\n")


cdef int forward_request(
    Worker* worker, Conn* client, const Visit* visit, const Request* request
) noexcept nogil:
    cdef const HttpRequest* http = &visit.http
    cdef bint hide = visit.policy.flags & POLICY_HIDE_CREDENTIALS and visit.token_field >= 0
    cdef bint untold = (
        visit.policy.flags & POLICY_HIDE_CREDENTIALS or visit.source >= SOURCE_PROTOCOL
    )
    cdef bint more = visit.policy.flags & POLICY_CARRIERS_MORE
    cdef const HttpField* field
    cdef ProtocolWalk walk
    cdef Writer out
    cdef uint32_t i
    memset(&walk, 0, sizeof(ProtocolWalk))
    _writer_at_head(worker, &out)
    put(&out, visit.head, http.method_len)
    put(&out, b" ", 1)
    forward_path(&out, visit)
    put_text(&out, b" HTTP/1.1\r\n")
    if request.host_kept:
        field = &http.fields[http.host]
        put_field(&out, b"Host", visit.head + field.value_off, field.value_len)
    else:
        put_field(
            &out, b"Host", request.target.host_header.data, request.target.host_header.size
        )
    _put_framing(&out, http, request)
    if _takes_trailers(visit):
        put_text(&out, b"TE: trailers\r\n")
    for i in range(http.fields_n):
        field = &http.fields[i]
        if _is_ours(field) or (hide and same_name(
            visit.head + field.name_off, field.name_len,
            visit.policy.auth_header.data, visit.policy.auth_header.size,
        )):
            continue
        if untold and _tells_token(visit, field):
            continue
        if nx_unlikely(more) and _put_without_tokens(&out, visit, field, &walk):
            continue
        if nx_unlikely(_announces_trailers(visit.head, field)):
            continue
        if nx_unlikely(visit.policy.flags & POLICY_REFUSE_DEFLATE) and (
            field.kind == HTTP_FIELD_SEC_WEBSOCKET_EXTENSIONS
        ):
            continue
        # Name to value as they stand, colon and white space between as the client wrote them.
        put(
            &out,
            visit.head + field.name_off,
            <uint32_t>(field.value_off + field.value_len - field.name_off),
        )
        put(&out, b"\r\n", 2)
    _put_where_from(&out, client, visit)
    put_text(&out, b"Via: ")
    if _put_all(&out, visit, HTTP_FIELD_VIA):
        put(&out, b", ", 2)
    _put_via(&out, worker)
    put_text(&out, b"X-Kong-Request-Id: ")
    put_hex(&out, request.id, 16)
    put(&out, b"\r\n", 2)
    _put_who(&out, visit)
    put(&out, b"\r\n", 2)
    return CORE_FULL if out.full else <int>out.size


# --- back to the client, §8 -------------------------------------------------------------------------


cdef inline bint _is_latency(const uint8_t* name, uint32_t size) noexcept nogil:
    """Whether a gateway behind us names times of its own where we name ours."""
    if size == 20:
        return same_name(name, size, <const uint8_t*>b"x-kong-proxy-latency", 20)
    return size == 23 and same_name(name, size, <const uint8_t*>b"x-kong-upstream-latency", 23)


cdef void _put_theirs(Writer* out, const uint8_t* head, const HttpResponse* http) noexcept nogil:
    """The upstream's fields that go on as they are."""
    cdef const HttpField* field
    cdef uint32_t i
    for i in range(http.fields_n):
        field = &http.fields[i]
        if (
            field.flags & HTTP_FLAG_HOP
            or field.kind == HTTP_FIELD_VIA
            or field.kind == HTTP_FIELD_CONNECTION
            or field.kind == HTTP_FIELD_UPGRADE
            or field.kind == HTTP_FIELD_CONTENT_LENGTH
            or field.kind == HTTP_FIELD_X_KONG_REQUEST_ID
            or _is_latency(head + field.name_off, field.name_len)
            or _announces_trailers(head, field)
        ):
            continue
        put(
            out,
            head + field.name_off,
            <uint32_t>(field.value_off + field.value_len - field.name_off),
        )
        put(out, b"\r\n", 2)


cdef void _put_back(
    Writer* out, Worker* worker, const uint8_t* head, const HttpResponse* http,
    const Request* request,
) noexcept nogil:
    """The upstream's fields that go on, Via, the latencies and the request id."""
    cdef const HttpField* field
    cdef uint32_t i
    _put_theirs(out, head, http)
    if http.server < 0:
        put_field(
            out, b"Server", worker.shared.server_token.data, worker.shared.server_token.size
        )
    put_text(out, b"Via: ")
    for i in range(http.fields_n):
        field = &http.fields[i]
        if field.kind == HTTP_FIELD_VIA and field.value_len:
            put(out, head + field.value_off, field.value_len)
            put(out, b", ", 2)
    _put_via(out, worker)
    put_text(out, b"X-Kong-Upstream-Latency: ")
    put_uint(out, worker.now_ms - request.upstream_began_ms)
    put_text(out, b"\r\nX-Kong-Proxy-Latency: ")
    put_uint(out, request.upstream_began_ms - request.began_ms)
    put_text(out, b"\r\nX-Kong-Request-Id: ")
    put_hex(out, request.id, 16)
    put(out, b"\r\n", 2)


cdef void _put_as_it_came(
    Writer* out, const uint8_t* head, const HttpResponse* http, int kind
) noexcept nogil:
    cdef const HttpField* field
    cdef uint32_t i
    for i in range(http.fields_n):
        field = &http.fields[i]
        if field.kind == kind:
            put(
                out,
                head + field.name_off,
                <uint32_t>(field.value_off + field.value_len - field.name_off),
            )
            put(out, b"\r\n", 2)


cdef int forward_switching(
    Worker* worker, const uint8_t* head, const HttpResponse* http, const Request* request
) noexcept nogil:
    cdef Writer out
    _writer_at_head(worker, &out)
    put_text(&out, b"HTTP/1.1 101 Switching Protocols\r\n")
    if request.proxied:  # §8: the opaque mode hands both on unchanged
        _put_as_it_came(&out, head, http, HTTP_FIELD_CONNECTION)
        _put_as_it_came(&out, head, http, HTTP_FIELD_UPGRADE)
    else:
        put_text(&out, b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    if request.marked and http.ws_protocol_n == 0:  # S58: else a browser takes it for a failure
        put_text(&out, b"Sec-WebSocket-Protocol: bearer\r\n")
    _put_back(&out, worker, head, http, request)
    put(&out, b"\r\n", 2)
    return CORE_FULL if out.full else <int>out.size


cdef void _put_status(Writer* out, const uint8_t* head, const HttpResponse* http) noexcept nogil:
    put_text(out, b"HTTP/1.1 ")
    put_uint(out, http.status)
    put(out, b" ", 1)
    put(out, head + http.reason_off, http.reason_len)
    put(out, b"\r\n", 2)


cdef int forward_answer(
    Worker* worker, const uint8_t* head, const HttpResponse* http, const Request* request,
    bint keep,
) noexcept nogil:
    cdef Writer out
    _writer_at_head(worker, &out)
    _put_status(&out, head, http)
    put_text(&out, b"Connection: keep-alive\r\n" if keep else b"Connection: close\r\n")
    _put_back(&out, worker, head, http, request)
    if http.content_length >= 0 and http.status != 204:  # to HEAD, and of 304: of what is not sent
        put_text(&out, b"Content-Length: ")
        put_uint(&out, <uint64_t>http.content_length)
        put(&out, b"\r\n", 2)
    elif request.answer_coded:
        put_text(&out, b"Transfer-Encoding: chunked\r\n")
    put(&out, b"\r\n", 2)
    return CORE_FULL if out.full else <int>out.size


cdef int forward_interim(
    Worker* worker, const uint8_t* head, const HttpResponse* http
) noexcept nogil:
    cdef Writer out
    _writer_at_head(worker, &out)
    _put_status(&out, head, http)
    _put_theirs(&out, head, http)
    put(&out, b"\r\n", 2)
    return CORE_FULL if out.full else <int>out.size


# --- bodies that are read whole ---------------------------------------------------------------------


cdef int body_whole(
    Buffer* input, uint32_t head_len, Request* request, uint32_t most
) noexcept nogil:
    cdef uint8_t* body = input.data + input.head + head_len
    cdef uint32_t size = buffer_size(input) - head_len
    cdef size_t payload_off, payload_len
    cdef int64_t used
    if request.body_left > most:
        return CORE_FULL
    if request.body_left >= 0:
        request.body_have = <uint32_t>request.body_left
        return 1 if size >= request.body_have else 0
    # Chunks are decoded in place: what is decoded moves down to stand behind the head.
    while request.body_raw < size and not http_chunked_done(<HttpChunked*>request.chunked):
        used = http_chunked_step(
            <HttpChunked*>request.chunked, body + request.body_raw, size - request.body_raw,
            &payload_off, &payload_len,
        )
        if used < 0:
            return -1
        if payload_len > most - request.body_have:
            return CORE_FULL
        memmove(body + request.body_have, body + request.body_raw + payload_off, payload_len)
        request.body_have += <uint32_t>payload_len
        request.body_raw += <uint32_t>used
    if http_chunked_done(<HttpChunked*>request.chunked):
        return 1
    input.tail = input.head + head_len + request.body_have
    request.body_raw = request.body_have
    return 0
