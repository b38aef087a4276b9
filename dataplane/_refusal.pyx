"""Refusals that a browser's script can read: a 101, and a Close that says why.

Of a refused handshake a script learns nothing but that it failed.  Where `on_auth_failure` says so
and the handshake is a good one but for who asks, it gets a 101 at once and a Close behind that, with
the error that HTTP would have had.  There is no session: nothing that the client sends is looked
at, no upstream hears of it, and two seconds later the connection is gone.
"""

# --- whether ------------------------------------------------------------------------------------------


cdef int _close_code(int status) noexcept nogil:
    if status == 401 or status == 403 or status == 429:
        return 4000 + status
    return 0


cdef bint _is_browser(const Visit* visit) noexcept nogil:
    cdef const HttpField* mode
    if visit_field(visit, HTTP_FIELD_ORIGIN) != NULL:
        return True
    mode = visit_field_named(visit, <const uint8_t*>b"sec-fetch-mode", 14)
    return mode != NULL and mode.value_len == 9 and (
        memcmp(visit.head + mode.value_off, b"websocket", 9) == 0
    )


cdef bint _is_wanted(const Visit* visit) noexcept nogil:
    """Whether the policy has it so, for a handshake that could have become a session."""
    cdef int status
    if visit.policy == NULL:
        return False
    if not visit.policy.flags & POLICY_REFUSE_CLOSE and not (
        visit.policy.flags & POLICY_REFUSE_AUTO and _is_browser(visit)
    ):
        return False
    return handshake_fault(visit, &status) == NULL


# --- what ---------------------------------------------------------------------------------------------


cdef void _put_error(Writer* out, const Answer* a) noexcept nogil:
    """The error as JSON, of FRAME_REASON_MAX bytes at the most."""
    if a.message == NULL and a.body.size <= FRAME_REASON_MAX:
        put_span(out, &a.body)
        return
    if a.status == 401:
        put_text(out, b'{"error":"invalid_token"}')
        return
    put_text(out, b'{"error":"')
    put_text(out, b"access_denied" if a.status == 403 else b"temporarily_unavailable")
    put_text(out, b'","error_description":"')
    put_text(out, a.message)
    put_text(out, b'"}')


cdef void _put_protocol(Writer* out, const Visit* visit) noexcept nogil:
    """The first that was offered and carries nothing, in whatever form carriers have (S58)."""
    cdef ProtocolRules rules
    cdef Offer offer
    protocol_rules(visit.policy, &rules)
    rules.tokens = 1
    rules.tickets = 1
    read_offer(visit, &rules, &offer)
    if offer.first.size:
        put_field(out, b"Sec-WebSocket-Protocol", offer.first.data, offer.first.size)


cdef void _compose(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    """A 101 and a Close, into Worker.compose + AT_HEAD."""
    cdef const HttpField* key = &visit.http.fields[visit.http.ws_key]
    cdef uint8_t reason[2 * FRAME_REASON_MAX]
    cdef uint8_t close[FRAME_CLOSE_MAX]
    cdef uint8_t accept[HTTP_WS_ACCEPT_LEN]
    cdef Answer* a = &worker.answer
    cdef Writer out
    out.data = reason
    out.size = out.full = 0
    out.capacity = sizeof(reason)
    _put_error(&out, a)
    BUG_ON(out.full or out.size > FRAME_REASON_MAX)
    a.close_code = <uint16_t>_close_code(a.status)
    cdef int size = frame_write_close(close, a.close_code, reason, out.size, NULL)
    out.data = worker.compose + AT_HEAD
    out.size = 0
    out.capacity = COMPOSE_BYTES - AT_HEAD
    put_text(
        &out,
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    )
    http_websocket_accept(visit.head + key.value_off, accept)
    put_field(&out, b"Sec-WebSocket-Accept", accept, sizeof(accept))
    _put_protocol(&out, visit)
    put_field(&out, b"Server", worker.shared.server_token.data, worker.shared.server_token.size)
    put_text(&out, b"X-Kong-Request-Id: ")
    put_hex(&out, client.request.id, 16)
    put_text(&out, b"\r\n\r\n")
    put(&out, close, <uint32_t>size)
    BUG_ON(out.full)
    a.composed.data = out.data
    a.composed.size = out.size


cdef bint refuse_readably(Worker* worker, Conn* client, const Visit* visit) noexcept nogil:
    if _close_code(worker.answer.status) == 0 or not _is_wanted(visit):
        return False
    if not quota_take(&worker.shared.limits.refusals):
        return False
    client.flags = (client.flags | FLAG_REFUSED) & ~FLAG_KEEP
    _compose(worker, client, visit)
    return True
