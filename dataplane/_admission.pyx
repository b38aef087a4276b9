"""Who may: the checks between a client's head and its upstream, in the order of the contract.

route (routing-and-proxy.md §2) → TLS policy (§4) → handshake validity (§12.1) → limits → Origin
(§12.6) → authentication (oauth2.md §6) → is there somewhere to go.  Nothing is sent and nothing is
kept here: what a check needs from elsewhere (a token not in the cache, a name without an address)
is named as a question, and the whole runs again when it was answered, on the tables of then.
"""

cdef enum:  # where in Worker.compose this module puts things, beside AT_TOKEN; _forward: behind them
    AT_HOST = 0
    AT_PATH = 512  # HTTP_LINE_MAX bytes
    AT_LOCATION = 32768  # 2 × HTTP_LINE_MAX bytes
    FIELDS_SHOWN = 100

cdef const char* WEBSOCKET_FIELDS = (
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
)
cdef const char* RETRY_FIELDS = b"Retry-After: 1\r\n"
cdef const char* TLS_FIELDS = b"Upgrade: TLS/1.2, HTTP/1.1\r\n"


cdef double worker_realtime(const Worker* worker) noexcept nogil:
    """Seconds since 1970, as the last look at both clocks has it."""
    return <double>(worker.now_ms + nx_load_u64(&worker.shared.realtime_offset_ms)) / 1000.0


cdef int answer(Worker* worker, int status, const char* message, const char* why) noexcept nogil:
    """Answer with the error template; JSON unless the client asks otherwise."""
    memset(&worker.answer, 0, sizeof(Answer))
    worker.answer.status = <uint16_t>status
    worker.answer.message = message
    worker.answer.why = why if why != NULL else message
    return STEP_ANSWER


cdef int answer_engine(
    Worker* worker, int status, const char* message, const char* why
) noexcept nogil:
    """As `answer`, with text/plain where the client asks for nothing (§9)."""
    answer(worker, status, message, why)
    worker.answer.engine = 1
    return STEP_ANSWER


cdef int answer_full(Worker* worker, const char* why) noexcept nogil:
    answer(worker, 503, b"the gateway is full, try again", why)
    worker.answer.fields = RETRY_FIELDS
    return STEP_ANSWER


cdef Span _span(const char* text) noexcept nogil:
    cdef Span span
    span.data = <const uint8_t*>text
    span.size = <uint32_t>strlen(text)
    return span


cdef int _answer_oauth(
    Worker* worker, const char* body, Span challenge, const char* why
) noexcept nogil:
    """401 with an OAuth 2.0 error body.  oauth2.md §6.2."""
    answer(worker, 401, NULL, why)
    worker.answer.body = _span(body)
    worker.answer.challenge = challenge
    return STEP_ANSWER


# --- the type of an error body, §9 ------------------------------------------------------------------


cdef int _type_of(const uint8_t* name, uint32_t size) noexcept nogil:
    if same_name(name, size, <const uint8_t*>b"application/json", 16):
        return ANSWER_JSON
    if same_name(name, size, <const uint8_t*>b"text/plain", 10):
        return ANSWER_PLAIN
    if same_name(name, size, <const uint8_t*>b"text/html", 9):
        return ANSWER_HTML
    if same_name(name, size, <const uint8_t*>b"application/xml", 15):
        return ANSWER_XML
    if same_name(name, size, <const uint8_t*>b"*/*", 3):
        return ANSWER_JSON
    if same_name(name, size, <const uint8_t*>b"application/*", 13):
        return ANSWER_JSON
    if same_name(name, size, <const uint8_t*>b"text/*", 6):
        return ANSWER_PLAIN
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


cdef void negotiate(Worker* worker, const Visit* visit) noexcept nogil:
    """The type of an error body: Accept, then Content-Type for the engine's own errors.  §9.

    An Accept that names nothing we make gets JSON.
    """
    cdef const HttpField* field
    cdef const uint8_t* item
    cdef uint32_t i, size, part, name
    cdef int kind
    cdef int best = 0
    cdef bint accepts = False
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind == HTTP_FIELD_CONTENT_TYPE and worker.answer.engine and best == 0:
            name = 0
            while name < field.value_len and visit.head[field.value_off + name] != 59:
                name += 1
            worker.answer.type_wanted = <uint8_t>_type_of(visit.head + field.value_off, name)
        if field.kind != HTTP_FIELD_ACCEPT:
            continue
        accepts = True
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
    if accepts and best == 0:
        worker.answer.type_wanted = ANSWER_JSON


# --- route ----------------------------------------------------------------------------------------


cdef int _name_target(Worker* worker, Visit* visit) noexcept nogil:
    """Host and path as routes are matched by them.  Returns STEP_ADMITTED or STEP_ANSWER."""
    cdef HttpRequest* http = &visit.http
    cdef uint8_t* host = worker.compose + AT_HOST
    cdef uint8_t* path = worker.compose + AT_PATH
    cdef uint32_t i
    cdef int size = http_normalise_path(visit.head + http.path_off, http.path_len, path)
    if size < 0:
        answer_engine(worker, http_refusal_status(size), b"Bad request", b"bad path")
        worker.answer.close = 1
        return STEP_ANSWER
    for i in range(http.host_len):
        host[i] = lower(visit.head[http.host_off + i])
    visit.host.data = host
    visit.host.size = http.host_len
    visit.path.data = path
    visit.path.size = <uint32_t>size
    return STEP_ADMITTED


cdef bint _answered_here(const Policy* policy, int endpoint) noexcept nogil:
    """Whether the issuer answers this endpoint on a route.  oauth2.md §2, `endpoints`."""
    if policy.flags & POLICY_WS or not policy.flags & POLICY_OAUTH2:
        return False
    return endpoint == ENDPOINT_KONG or (
        endpoint == ENDPOINT_OURS and policy.flags & POLICY_ENDPOINTS
    )


cdef bint _match_preflight(
    const TableSet* tables, const Visit* visit, RouteQuery* query, RouteMatch* match
) noexcept nogil:
    """Whether this asks, in a browser's name, for an endpoint that its route would answer.

    The route of an endpoint may take only POST; a preflight belongs to the request that follows.
    """
    cdef const HttpField* field
    cdef Span method = query.method
    cdef bint found
    cdef int endpoint = endpoint_of(&visit.path)
    if endpoint == ENDPOINT_NONE or visit_field(visit, HTTP_FIELD_ORIGIN) == NULL:
        return False
    field = visit_field_named(
        visit, <const uint8_t*>b"access-control-request-method", 29
    )
    if field == NULL:
        return False
    query.method.data = visit.head + field.value_off
    query.method.size = field.value_len
    found = tables_match(tables, query, match) and _answered_here(match.policy, endpoint)
    query.method = method
    return found


cdef int _route(Worker* worker, Conn* client, Visit* visit, const TableSet* tables) noexcept nogil:
    """Find the policy.  Returns STEP_ADMITTED or STEP_ANSWER."""
    cdef RouteQuery query
    cdef RouteMatch match
    cdef Span names[FIELDS_SHOWN]
    cdef Span values[FIELDS_SHOWN]
    cdef HttpRequest* http = &visit.http
    cdef uint32_t i
    query.host = visit.host
    query.port = <uint16_t>(http.port if http.port else client.local_port)
    query.method.data = visit.head
    query.method.size = http.method_len
    query.path = visit.path
    query.fields_n = 0
    if tables.wants_fields:
        for i in range(http.fields_n):
            names[i].data = visit.head + http.fields[i].name_off
            names[i].size = http.fields[i].name_len
            values[i].data = visit.head + http.fields[i].value_off
            values[i].size = http.fields[i].value_len
        query.fields_n = http.fields_n
    query.names = names
    query.values = values
    if not (
        nx_unlikely(http.method == HTTP_METHOD_OPTIONS)
        and _match_preflight(tables, visit, &query, &match)
    ) and not tables_match(tables, &query, &match):
        return answer(worker, 404, b"no Route matched with those values", NULL)
    visit.policy = match.policy
    visit.prefix_len = match.prefix_len
    return STEP_ADMITTED


cdef bint _asks_metadata(Visit* visit, const TableSet* tables) noexcept nogil:
    """Whether this is for a document of the issuer's, routes or not.  oauth2.md §14."""
    cdef const Document* document
    if visit.http.upgrade_websocket or (
        visit.http.method != HTTP_METHOD_GET and visit.http.method != HTTP_METHOD_HEAD
    ):
        return False
    document = tables_document(tables, &visit.host, &visit.path)
    if document == NULL:
        return False
    memcpy(visit.plugin, document.plugin, 16)
    return True


cdef void _name_client(Conn* client, const Visit* visit) noexcept nogil:
    """Take the client's address from a trusted peer's X-Real-IP, where that is one.  §7.

    It changes what is logged and forwarded, never who is trusted.
    """
    cdef const HttpField* field = visit_field(visit, HTTP_FIELD_X_REAL_IP)
    cdef char text[48]
    if field == NULL or field.value_len >= sizeof(text):
        return
    memcpy(text, visit.head + field.value_off, field.value_len)
    text[field.value_len] = 0
    if inet_pton(AF_INET, text, client.remote) == 1:
        client.flags &= ~FLAG_V6
    elif inet_pton(AF_INET6, text, client.remote) == 1:
        client.flags |= FLAG_V6
    else:
        return
    client.remote_port = 0


cdef bint _secure(Conn* client, Visit* visit) noexcept nogil:
    """Whether the request counts as https: its connection's word, or a trusted peer's.  §4."""
    cdef const HttpField* proto = NULL
    if visit.trusted:
        proto = visit_field(visit, HTTP_FIELD_X_FORWARDED_PROTO)
    if proto != NULL:
        return same_name(
            visit.head + proto.value_off, proto.value_len, <const uint8_t*>b"https", 5
        )
    return client.ssl != NULL


cdef int _redirect_to_tls(Worker* worker, Visit* visit) noexcept nogil:
    """426, or the configured redirect to https.  routing-and-proxy.md §4."""
    cdef const HttpField* host = NULL
    cdef Writer out
    if visit.policy.redirect_status == 426:
        answer(worker, 426, b"Please use HTTPS protocol", NULL)
        worker.answer.fields = TLS_FIELDS
        return STEP_ANSWER
    out.data = worker.compose + AT_LOCATION
    out.size = 0
    out.full = 0
    out.capacity = 2 * HTTP_LINE_MAX
    put_text(&out, b"https://")
    if visit.trusted:
        host = visit_field(visit, HTTP_FIELD_X_FORWARDED_HOST)
    if host != NULL:
        put(&out, visit.head + host.value_off, host.value_len)
    else:
        put(&out, visit.head + visit.http.host_off, visit.http.host_len)
    put(&out, visit.head + visit.http.path_off, visit.http.path_len)
    if visit.http.has_query:
        put(&out, b"?", 1)
        put(&out, visit.head + visit.http.query_off, visit.http.query_len)
    answer(worker, visit.policy.redirect_status, NULL, b"Please use HTTPS protocol")
    worker.answer.location.data = out.data
    worker.answer.location.size = out.size
    return STEP_ANSWER


# --- the opening handshake, RFC 6455 §4.2 -----------------------------------------------------------


cdef int _invalid(Worker* worker, int status, const char* reason) noexcept nogil:
    answer(worker, status, b"invalid WebSocket handshake: ", reason)
    worker.answer.message_more = _span(reason)
    if status == 426:
        worker.answer.fields = WEBSOCKET_FIELDS
    return STEP_ANSWER


cdef const char* handshake_fault(const Visit* visit, int* status) noexcept nogil:
    cdef const HttpRequest* http = &visit.http
    cdef const HttpField* field
    status[0] = 400
    if http.version_minor == 0:
        return b"bad http version"
    if http.method != HTTP_METHOD_GET:
        return b"bad method"
    if http.chunked or http.content_length > 0:
        return b"a body is not allowed"
    status[0] = 426
    if not http.upgrade_websocket:
        return b'bad "upgrade" request header'
    if not http.connection_upgrade:
        return b'bad "connection" request header'
    status[0] = 400
    if http.ws_key_n != 1:
        return b'bad "sec-websocket-key" request header'
    field = &http.fields[http.ws_key]
    if not http_key_valid(visit.head + field.value_off, field.value_len):
        return b'bad "sec-websocket-key" request header'
    status[0] = 426
    if http.ws_version_n != 1:
        return b'bad "sec-websocket-version" request header'
    field = &http.fields[http.ws_version]
    if field.value_len != 2 or memcmp(visit.head + field.value_off, b"13", 2) != 0:
        return b'bad "sec-websocket-version" request header'
    return NULL


cdef int _check_handshake(Worker* worker, Visit* visit) noexcept nogil:
    """The checks of routing-and-proxy.md §12.1, first failure wins.  STEP_ADMITTED or STEP_ANSWER."""
    cdef int status
    cdef const char* fault = handshake_fault(visit, &status)
    return STEP_ADMITTED if fault == NULL else _invalid(worker, status, fault)


# --- the token, oauth2.md §6 ------------------------------------------------------------------------


cdef int _check_origin(Worker* worker, const Visit* visit) noexcept nogil:
    """403 for a handshake from elsewhere; what is no browser sends no Origin.  RFC 6455 §10.2."""
    cdef const HttpField* field
    cdef uint32_t i
    cdef int found = 0
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind != HTTP_FIELD_ORIGIN:
            continue
        found += 1
        if found > 1 or not origin_listed(
            &visit.policy.origins, visit.head + field.value_off, field.value_len
        ):
            return answer(worker, 403, b"Origin not allowed", NULL)
    return STEP_ADMITTED


cdef int _refuse_token(Worker* worker, Visit* visit, const char* why) noexcept nogil:
    """401 invalid_token, or on as the anonymous consumer where one is configured.  §6.5."""
    cdef Policy* policy = visit.policy
    if policy.anonymous_missing.size:
        answer(worker, 500, b"anonymous consumer ", b"anonymous consumer is missing")
        worker.answer.message_more = policy.anonymous_missing
        worker.answer.message_end = b" is configured but doesn't exist"
        return STEP_ANSWER
    if policy.anonymous != NULL:
        visit.principal = policy.anonymous
        visit.claims = NULL
        return STEP_ADMITTED
    if visit.token.size == 0:
        return _answer_oauth(
            worker,
            b'{"error":"invalid_request","error_description":"The access token is missing"}',
            policy.challenge_missing,
            b"token missing",
        )
    return _answer_oauth(
        worker,
        b'{"error":"invalid_token",'
        b'"error_description":"The access token is invalid or has expired"}',
        policy.challenge_invalid,
        why,
    )


cdef int _park(Visit* visit, uint8_t question) noexcept nogil:
    visit.question = question
    return STEP_PARK


cdef int _cannot_tell(Worker* worker) noexcept nogil:
    """503: whether the token is good cannot be found out now."""
    answer(
        worker,
        503,
        b"the access token cannot be checked right now, try again",
        b"token cannot be checked",
    )
    worker.answer.fields = RETRY_FIELDS
    return STEP_ANSWER


cdef int _two_tokens(Worker* worker, const Visit* visit) noexcept nogil:
    """400: RFC 6750 §3.1, more than one token, or one that cannot be read."""
    _answer_oauth(
        worker,
        b'{"error":"invalid_request",'
        b'"error_description":"The access token is malformed, or there is more than one"}',
        visit.policy.challenge_missing,
        b"two tokens or a malformed one",
    )
    worker.answer.status = 400
    return STEP_ANSWER


cdef int _redeem(
    Worker* worker, Visit* visit, const Request* request, const TableSet* tables, int verdict
) noexcept nogil:
    """Ask once whose a ticket is: STEP_ADMITTED when that is known.  oauth2.md §14."""
    if request.redeemed == TICKET_GOOD:
        memcpy(visit.digest, request.ticket_token, 32)
        return STEP_ADMITTED
    if request.redeemed == TICKET_BAD:
        return _refuse_token(worker, visit, b"ticket unknown, used or not for this")
    if not token_check_passes(tables.check_key, visit.token.data, visit.token.size):
        return _refuse_token(worker, visit, b"ticket malformed")
    if verdict == VERDICT_UNAVAILABLE:
        return _cannot_tell(worker)
    token_digest(visit.token.data, visit.token.size, visit.digest)
    return _park(visit, QUESTION_TICKET)


cdef int _park_token(
    Worker* worker, Visit* visit, const TableSet* tables, int verdict
) noexcept nogil:
    """Ask who an unknown token is, where it can be one and nobody was asked yet.

    Without a check and a JWT's shape it is junk, unless it was made by hand: then we had it, and
    have it still.
    """
    cdef TokenStore* store = <TokenStore*>worker.shared.tokens
    visit.check_passed = token_check_passes(tables.check_key, visit.token.data, visit.token.size)
    visit.is_jwt = visit.policy.flags & POLICY_JWT and token_is_jwt(
        visit.token.data, visit.token.size
    )
    if not visit.check_passed and not visit.is_jwt and nx_load_u64(&store.evicted) == 0:
        return _refuse_token(worker, visit, b"token malformed")
    if verdict == VERDICT_UNAVAILABLE or verdict == VERDICT_KNOWN:
        return _cannot_tell(worker)
    return _park(visit, QUESTION_TOKEN)


cdef int _authenticate(
    Worker* worker, Visit* visit, const Request* request, const TableSet* tables, int verdict
) noexcept nogil:
    """Judge the token by what the cache says of it, now.  STEP_ADMITTED, _ANSWER, _PARK or _BODY."""
    cdef TokenStore* store = <TokenStore*>worker.shared.tokens
    cdef const Claims* claims
    cdef double now = worker_realtime(worker)
    cdef int step = find_token(worker, visit)
    if nx_unlikely(step != FOUND):
        return STEP_BODY if step == FOUND_BODY else _two_tokens(worker, visit)
    if visit.token.size == 0 or visit.token.size > TOKEN_BYTES_MAX:
        return _refuse_token(worker, visit, b"token too long")
    if nx_unlikely(visit.source == SOURCE_TICKET):
        step = _redeem(worker, visit, request, tables, verdict)
        if step != STEP_ADMITTED:
            return step
    else:
        token_digest(visit.token.data, visit.token.size, visit.digest)
    claims = token_find(store, visit.digest)
    if claims == NULL:
        nx_bump(&worker.counters.token_misses, 1)
        if verdict == VERDICT_UNKNOWN or token_negative(store, visit.digest, now):
            return _refuse_token(worker, visit, b"token unknown")
        return _park_token(worker, visit, tables, verdict)
    nx_bump(&worker.counters.token_hits, 1)
    if claims.expires_at != 0 and now >= claims.expires_at:
        return _refuse_token(worker, visit, b"token expired")
    if claims.has_issuer and not visit.policy.flags & POLICY_JWT:
        return _refuse_token(worker, visit, b"token is a JWT")
    if (claims.has_issuer or claims.audience_n) and not token_meant_for(
        claims, visit.policy.issuer, visit.policy.audience
    ):
        return _refuse_token(worker, visit, b"token of another issuer or audience")
    if claims.has_service:
        if (
            not visit.policy.flags & POLICY_SERVICE
            or memcmp(claims.service, visit.policy.service, 16) != 0
        ):
            return _refuse_token(worker, visit, b"token of another service")
    elif not visit.policy.flags & POLICY_GLOBAL_CREDENTIALS:
        return _answer_oauth(
            worker,
            b'{"error":"invalid_token","error_description":"The access token is global, but the '
            b"current plugin is configured without 'global_credentials'\"}",
            visit.policy.challenge_invalid,
            b"token is global",
        )
    visit.principal = tables_principal(tables, claims.credential)
    if visit.principal == NULL:
        if claims.version > tables.version:
            if verdict == VERDICT_UNAVAILABLE or verdict == VERDICT_KNOWN:
                return _cannot_tell(worker)
            visit.check_passed = 1
            visit.is_jwt = 0
            return _park(visit, QUESTION_TOKEN)
        return _refuse_token(worker, visit, b"credential gone")
    visit.claims = claims
    return STEP_ADMITTED


cdef bint still_admitted(Worker* worker, const Request* request) noexcept nogil:
    cdef const TableSet* tables = <const TableSet*>nx_load_ptr(&worker.shared.tables)
    cdef TokenStore* store = <TokenStore*>worker.shared.tokens
    cdef double now = worker_realtime(worker)
    if request.grant.ended:
        return False
    if not request.has_token:
        return True
    if request.grant.expires_at != 0 and now >= request.grant.expires_at:
        return False
    return not token_negative(store, request.grant.digest, now) and (
        tables_principal(tables, request.credential) != NULL
    )


cdef int still_routed(Worker* worker, const Request* request) noexcept nogil:
    cdef uint64_t parting
    nx_fence()  # between our hold and this look: see PolicyBox.part
    parting = nx_load_u64(&request.policy.parting)
    if nx_likely(not parting & PARTING_SHUT):
        return STEP_ADMITTED
    if parting & PARTING_GONE:
        return answer(
            worker, 404, b"no Route matched with those values", b"route gone during the handshake"
        )
    answer(
        worker, 503, b"the configuration of this route has just changed, try again",
        b"configuration changed during the handshake",
    )
    worker.answer.fields = RETRY_FIELDS
    return STEP_ANSWER


# --- limits -----------------------------------------------------------------------------------------


cdef int _too_many(Worker* worker, int refusal, const char* message) noexcept nogil:
    refused(worker, refusal)
    answer(worker, 429, message, NULL)
    worker.answer.fields = RETRY_FIELDS
    worker.answer.close = 1
    return STEP_ANSWER


cdef int _count_named(Worker* worker, Conn* client) noexcept nogil:
    """Hold the address that a trusted peer names to its bound.  STEP_ADMITTED or STEP_ANSWER."""
    if client.remote_port:  # it names nobody
        conn_uncount_address(worker, client)
    elif not conn_count_address(worker, client):
        return _too_many(
            worker, REFUSED_ADDRESS, b"too many connections from this address, try again"
        )
    return STEP_ADMITTED


cdef int _within_limits(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    """What can be refused before a token is looked at (S74).  STEP_ADMITTED or STEP_ANSWER."""
    cdef Limits* limits = &worker.shared.limits
    if visit.http.upgrade_websocket and nx_load_u64(&limits.sessions.count) >= limits.sessions.most:
        refused(worker, REFUSED_SESSIONS)
        return answer_full(worker, b"too many sessions")
    if visit.http.upgrade_websocket and client.address_cell and not limit_spend(
        &limits.addresses, client.address_cell, worker.now_ms * 1000000, False
    ):
        return _too_many(
            worker, REFUSED_RATE, b"too many handshakes from this address, try again"
        )
    return STEP_ADMITTED


cdef int reserve_session(Worker* worker, Request* request, const Visit* visit) noexcept nogil:
    cdef Limits* limits = &worker.shared.limits
    cdef uint64_t key[2]
    cdef int64_t cell
    if worker.draining:
        refused(worker, REFUSED_DRAINING)
        return answer_full(worker, b"the gateway is shutting down")
    if not quota_take(&limits.sessions):
        refused(worker, REFUSED_SESSIONS)
        return answer_full(worker, b"too many sessions")
    request.counted = 1
    if limits.consumers.cells == NULL or visit.claims == NULL:
        return STEP_ADMITTED
    memcpy(key, visit.principal.consumer, 16)
    cell = limit_take(&limits.consumers, key[0], key[1], 0)
    if cell == LIMIT_OVER:
        return _too_many(worker, REFUSED_CONSUMER, b"too many sessions of this consumer, try again")
    request.consumer_cell = <uint32_t>cell
    return STEP_ADMITTED


# --- where it goes ----------------------------------------------------------------------------------


cdef int _find_name(
    Worker* worker, Visit* visit, const Target* target, int verdict
) noexcept nogil:
    """Ask for the address of a name that has none yet, once."""
    if verdict == VERDICT_NAME_FAILED or nx_load_u64(&target.name.failed):
        return answer(worker, 503, b"name resolution failed", NULL)
    visit.wanted = target
    return _park(visit, QUESTION_NAME)


cdef int _find_target(Worker* worker, Visit* visit, int verdict) noexcept nogil:
    """Whether an upstream has a target to go to; which one is chosen when it is gone to."""
    cdef Balance* balance = visit.policy.balance
    cdef const Target* wanted
    if balance.count == 0:
        return answer(worker, 503, b"failure to get a peer from the ring-balancer", NULL)
    wanted = balance_unresolved(balance)
    return STEP_ADMITTED if wanted == NULL else _find_name(worker, visit, wanted, verdict)


# --- all of it --------------------------------------------------------------------------------------


cdef int admit(Worker* worker, Conn* client, Visit* visit, int verdict) noexcept nogil:
    cdef const TableSet* tables = <const TableSet*>nx_load_ptr(&worker.shared.tables)
    cdef int step
    visit.policy = NULL
    visit.principal = NULL
    visit.claims = NULL
    if tables == NULL:
        answer(worker, 503, b"no configuration has arrived yet", NULL)
        worker.answer.fields = RETRY_FIELDS
        return STEP_ANSWER
    visit.trusted = peer_trusted(worker.shared, client)
    if visit.trusted:
        _name_client(client, visit)
        if worker.shared.limits.addresses.cells != NULL and verdict == VERDICT_NONE:
            step = _count_named(worker, client)
            if step != STEP_ADMITTED:
                return step
    if visit.http.method == HTTP_METHOD_TRACE or visit.http.method == HTTP_METHOD_CONNECT:
        return answer_engine(worker, 405, b"Method not allowed", NULL)
    step = _name_target(worker, visit)
    if step != STEP_ADMITTED:
        return step
    if nx_unlikely(tables.documents_n != 0) and _asks_metadata(visit, tables):
        return STEP_REQUEST
    step = _route(worker, client, visit, tables)
    if step != STEP_ADMITTED:
        return step
    visit.secure = _secure(client, visit)
    if visit.policy.flags & POLICY_TLS_ONLY and not visit.secure:
        return _redirect_to_tls(worker, visit)
    if visit.policy.flags & POLICY_WS:
        step = _check_handshake(worker, visit)
        if step != STEP_ADMITTED:
            return step
    elif visit.policy.flags & POLICY_OAUTH2 and (
        _answered_here(visit.policy, endpoint_of(&visit.path))
    ):
        memcpy(visit.plugin, visit.policy.plugin, 16)
        return STEP_REQUEST
    elif visit.http.upgrade_websocket and (visit.http.chunked or visit.http.content_length > 0):
        return _invalid(worker, 400, b"a body is not allowed")  # S52
    if verdict == VERDICT_NONE:
        step = _within_limits(worker, client, visit)
        if step != STEP_ADMITTED:
            return step
    if nx_unlikely(visit.policy.origins.size != 0) and visit.http.upgrade_websocket:
        step = _check_origin(worker, visit)
        if step != STEP_ADMITTED:
            return step
    if visit.policy.flags & POLICY_OAUTH2:
        step = _authenticate(worker, visit, client.request, tables, verdict)
        if step != STEP_ADMITTED:
            return step
    if not visit.policy.flags & POLICY_SERVICE:
        return answer(worker, 503, b"no Service found with those values", NULL)
    if nx_unlikely(visit.policy.balance != NULL):
        return _find_target(worker, visit, verdict)
    if nx_load_ptr(&visit.policy.target.name.addresses) == NULL:
        return _find_name(worker, visit, &visit.policy.target, verdict)
    return STEP_ADMITTED
