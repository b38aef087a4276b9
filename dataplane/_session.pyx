"""What every part of an established session does with it: begin, count, leave a record."""

cdef enum:
    READ_MIN = 1024  # bytes, where less than that may be pending


cdef void session_note_close(Worker* worker, Session* session, Conn* sink, int code) noexcept nogil:
    cdef int side = 0 if sink == session.client else 1
    nx_bump(&worker.counters.closes[side * CLOSE_SLOTS + close_slot(code)], 1)
    if side == 0:
        session.client_code = <uint16_t>code
    else:
        session.upstream_code = <uint16_t>code


cdef void _begin_flow(
    Worker* worker, Session* session, Flow* flow, uint32_t message_max
) noexcept nogil:
    cdef Policy* policy = session.policy
    flow.message_max = message_max
    flow.read_max = SCRATCH_BYTES if policy.buffered_max > SCRATCH_BYTES else policy.buffered_max
    if flow.read_max < READ_MIN:
        flow.read_max = READ_MIN
    flow.heard_ms = worker.now_ms
    flow.data_ms = worker.now_ms
    if session.opaque:
        flow.flags |= FLOW_OPAQUE
    elif policy.flags & POLICY_VALIDATE_UTF8:
        flow.flags |= FLOW_CHECKED


cdef void session_begin(Worker* worker, Session* session) noexcept nogil:
    nx_bump(&worker.counters.sessions_total, 1)
    nx_bump(&worker.counters.sessions_live, 1)
    nx_bump(&worker.counters.handshakes[101], 1)
    _begin_flow(worker, session, &session.up, session.policy.client_message_max)
    _begin_flow(worker, session, &session.down, session.policy.upstream_message_max)


cdef void session_free(Worker* worker, Session* session) noexcept nogil:
    cdef Record* record = record_reserve(worker)
    if record != NULL:
        record.kind = RECORD_ENDED
        record.why = session.why
        record.ended_by = session.ended_by
        record.client_code = session.client_code
        record.upstream_code = session.upstream_code
        memcpy(record.id, session.id, 16)
        memcpy(record.route, session.policy.route, 16)
        memcpy(record.service, session.policy.service, 16)
        memcpy(record.consumer, session.consumer, 16)
        memcpy(record.credential, session.credential, 16)
        record.flags = RECORD_HAS_ROUTE | RECORD_HAS_SERVICE
        if session.has_consumer:
            record.flags |= RECORD_HAS_CONSUMER
        if session.has_credential:
            record.flags |= RECORD_HAS_CREDENTIAL
        memcpy(record.remote, session.client.remote, 16)
        record.remote_port = session.client.remote_port
        record.v6 = 1 if session.client.flags & FLAG_V6 else 0
        record.duration_ms = worker.now_ms - session.began_ms
        record.messages_up = session.up.messages
        record.messages_down = session.down.messages
        record.bytes_up = session.up.bytes
        record.bytes_down = session.down.bytes
        ring_publish(&worker.records)
    grant_leave(worker, &session.grant)
    policy_release(worker, session.policy)
    session.prev.next = session.next
    session.next.prev = session.prev
    nx_bump(&worker.counters.sessions_live, <uint64_t>-1)
    session_uncount(worker, session.consumer_cell)
    slab_give(&worker.sessions, session)
