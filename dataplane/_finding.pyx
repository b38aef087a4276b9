"""Where a request has its token: header, query and body; then what only browsers need.

A header, if there, rules out query and body (§6.1).  Only where these hold no token are the others
looked at: subprotocol, ticket, cookie.  Each is looked for only where the plugin lists it.
"""

cdef bint _is_space(uint8_t byte) noexcept nogil:
    return byte == 32 or byte == 9


cdef void _token_in_value(const uint8_t* value, uint32_t size, Span* token) noexcept nogil:
    """`bearer t` and `token t` give t, anything else itself.  §6.1."""
    cdef uint32_t scheme = 0
    cdef uint32_t at, end
    token.data = value
    token.size = size
    while scheme < size and not _is_space(value[scheme]):
        scheme += 1
    at = scheme
    while at < size and _is_space(value[at]):
        at += 1
    if at == size:
        return
    end = at
    while end < size and not _is_space(value[end]):
        end += 1
    if end != size:
        return  # three parts
    if same_name(value, scheme, <const uint8_t*>b"bearer", 6) or same_name(
        value, scheme, <const uint8_t*>b"token", 5
    ):
        token.data = value + at
        token.size = size - at


cdef void _token_in_query(Worker* worker, Visit* visit) noexcept nogil:
    """Take the one `access_token=…`.  Repeated, it is a list and thus no token.  §3.1, §6.1."""
    cdef int count = form_value(
        visit.head + visit.http.query_off, visit.http.query_len, token_param(),
        worker.compose + AT_TOKEN, &visit.token,
    )
    if count:
        visit.source = SOURCE_QUERY
    if count > 1:
        visit.token.size = 0


cdef int _body_kind(const Visit* visit) noexcept nogil:
    """The kind of body that this request has, when it may hold the token; else 0.  §6.1."""
    cdef const HttpField* field = visit_field(visit, HTTP_FIELD_CONTENT_TYPE)
    cdef const uint8_t* type
    cdef uint32_t size = 0
    if (
        visit.http.method != HTTP_METHOD_POST and visit.http.method != HTTP_METHOD_PUT
        and visit.http.method != HTTP_METHOD_PATCH
    ):
        return SOURCE_NONE
    if field == NULL or not 0 < visit.http.content_length <= TOKEN_SEARCH_MAX:
        return SOURCE_NONE
    type = visit.head + field.value_off
    while size < field.value_len and type[size] != 59 and not _is_space(type[size]):
        size += 1
    if same_name(type, size, <const uint8_t*>b"application/x-www-form-urlencoded", 33):
        return SOURCE_FORM
    if same_name(type, size, <const uint8_t*>b"application/json", 16):
        return SOURCE_JSON
    if same_name(type, size, <const uint8_t*>b"multipart/form-data", 19):
        return SOURCE_MULTIPART
    return SOURCE_NONE


cdef bint _token_in_body(Worker* worker, Visit* visit) noexcept nogil:
    """Look for the token in the body, which overrides the query's (§3.1).

    Returns False when that is not here yet.
    """
    cdef int kind = _body_kind(visit)
    cdef const HttpField* type
    cdef Span boundary, found
    cdef int count
    if kind == SOURCE_NONE:
        return True
    if visit.body.size == 0:
        return False
    if kind == SOURCE_FORM:
        count = form_value(
            visit.body.data, visit.body.size, token_param(), worker.compose + AT_TOKEN, &found
        )
    elif kind == SOURCE_JSON:
        count = json_token(visit.body.data, visit.body.size, &found)
    else:
        type = visit_field(visit, HTTP_FIELD_CONTENT_TYPE)
        header_param(visit.head + type.value_off, type.value_len, b"boundary", &boundary)
        count = multipart_token(visit.body.data, visit.body.size, &boundary, &found)
    if count == 0:
        return True
    if count > 1 and kind != SOURCE_JSON:  # a list; of JSON's members the last counts
        found.size = 0
    visit.token = found
    visit.source = <uint8_t>kind
    visit.in_form = kind == SOURCE_FORM
    return True


cdef bint _in_header(Visit* visit) noexcept nogil:
    """Whether the header for tokens is there; its token, if it has one, is then the token."""
    cdef HttpRequest* http = &visit.http
    cdef const Span* name = &visit.policy.auth_header
    cdef HttpField* field
    cdef uint32_t i
    if name.size == 13 and memcmp(name.data, b"authorization", 13) == 0:
        visit.token_field = http.authorization
    else:
        for i in range(http.fields_n):
            if same_name(
                visit.head + http.fields[i].name_off, http.fields[i].name_len, name.data, name.size
            ):
                visit.token_field = <int16_t>i
                break
    if visit.token_field < 0:
        return False
    field = &http.fields[visit.token_field]
    visit.source = SOURCE_HEADER
    _token_in_value(visit.head + field.value_off, field.value_len, &visit.token)
    return True


cdef bint _in_request(Worker* worker, Visit* visit) noexcept nogil:
    """Look at header, query and body.  Returns False when the body must be here to tell."""
    if visit.policy.flags & POLICY_CARRIER_HEADER and _in_header(visit):
        return True
    if not visit.policy.flags & POLICY_CARRIER_QUERY:
        return True
    if visit.http.query_len:
        _token_in_query(worker, visit)
    if nx_likely(visit.policy.flags & POLICY_WS):
        return True
    return _token_in_body(worker, visit)


# --- what only browsers need, §14 --------------------------------------------------------------------


cdef void protocol_rules(const Policy* policy, ProtocolRules* rules) noexcept nogil:
    rules.prefix = &policy.protocol_prefix
    rules.tokens = policy.flags & POLICY_CARRIER_PROTOCOL != 0
    rules.tickets = policy.flags & POLICY_CARRIER_TICKET != 0


cdef void read_offer(const Visit* visit, const ProtocolRules* rules, Offer* offer) noexcept nogil:
    cdef const HttpField* field
    cdef ProtocolWalk walk
    cdef uint32_t i
    memset(offer, 0, sizeof(Offer))
    memset(&walk, 0, sizeof(ProtocolWalk))
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind == HTTP_FIELD_SEC_WEBSOCKET_PROTOCOL:
            offer_add(offer, &walk, rules, visit.head + field.value_off, field.value_len)


cdef int _in_protocols(Worker* worker, Visit* visit, const Offer* offer) noexcept nogil:
    """Take the one token that the subprotocols hold."""
    cdef int size
    if offer.tokens > 1:
        return FOUND_AMBIGUOUS
    visit.source = SOURCE_PROTOCOL
    visit.token = offer.token
    if offer.encoded:
        size = base64url_decode(
            offer.token.data, offer.token.size, worker.compose + AT_TOKEN
        )
        if size <= 0 or offer.theirs == 0:
            visit.token.size = 0
            return FOUND_AMBIGUOUS
        visit.token.data = worker.compose + AT_TOKEN
        visit.token.size = <uint32_t>size
    return FOUND


cdef int _in_tickets(Worker* worker, Visit* visit, const Offer* offer) noexcept nogil:
    """Take the one ticket of query and subprotocols, if there is one."""
    cdef Span shown
    cdef int count = form_value(
        visit.head + visit.http.query_off, visit.http.query_len, ticket_param(),
        worker.compose + AT_TOKEN, &shown,
    )
    if count + offer.tickets > 1:
        return FOUND_AMBIGUOUS
    if count + offer.tickets:
        visit.source = SOURCE_TICKET
        visit.token = shown if count else offer.ticket
    return FOUND


cdef bint _from_listed_page(const Visit* visit) noexcept nogil:
    """Whether this says that a page of a listed origin sent it: what sends cookies by itself."""
    cdef const HttpField* field
    cdef const HttpField* origin = NULL
    cdef uint32_t i
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind == HTTP_FIELD_ORIGIN:
            if origin != NULL:
                return False
            origin = field
    return origin != NULL and origin_listed(
        &visit.policy.origins, visit.head + origin.value_off, origin.value_len
    )


cdef int _in_cookies(Visit* visit) noexcept nogil:
    """Take the one cookie of the plugin's name, which counts from listed origins alone (S60)."""
    cdef const HttpField* field
    cdef uint32_t count = 0
    cdef uint32_t i
    cdef Span found
    if not _from_listed_page(visit):
        return FOUND
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if field.kind == HTTP_FIELD_COOKIE:
            count += cookie_find(
                visit.head + field.value_off, field.value_len, &visit.policy.cookie_name, &found
            )
            if count > 1:
                return FOUND_AMBIGUOUS
            if count and visit.source != SOURCE_COOKIE:
                visit.source = SOURCE_COOKIE
                visit.token = found
    return FOUND


cdef int _in_more(Worker* worker, Visit* visit) noexcept nogil:
    cdef ProtocolRules rules
    cdef Offer offer
    cdef int found
    if visit.http.upgrade_websocket:
        protocol_rules(visit.policy, &rules)
        read_offer(visit, &rules, &offer)
        if offer.tokens:
            return _in_protocols(worker, visit, &offer)
        if rules.tickets:
            found = _in_tickets(worker, visit, &offer)
            if found != FOUND or visit.source == SOURCE_TICKET:
                return found
    return _in_cookies(visit) if visit.policy.flags & POLICY_CARRIER_COOKIE else FOUND


cdef int find_token(Worker* worker, Visit* visit) noexcept nogil:
    visit.source = SOURCE_NONE
    visit.in_form = False
    visit.token_field = -1
    visit.token.size = 0
    if not _in_request(worker, visit):
        return FOUND_BODY
    if nx_unlikely(visit.policy.flags & POLICY_CARRIERS_MORE) and visit.token.size == 0:
        return _in_more(worker, visit)
    return FOUND
