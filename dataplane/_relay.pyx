"""The established session: frames both ways, limits, close, counters.

One read takes what a side has into the worker's scratch; the frame headers are walked in place and
the bytes go to the other side from there.  Only three things are ever copied: what the other
socket would not take (its `output`; until that is out the fast side is not read), a frame header
that is not whole yet, and a Close that is not whole yet (both in the source's `input`, at most 131
bytes, put before the next read).  Masked payload passes masked.

A side hears a Close only at a frame boundary of its own stream.  Once it heard one, nothing more
goes to it.  When both have sent or been sent a Close, or ended their TCP, or CLOSE_MS passed, the
sockets end and the session leaves its close record.
"""

cdef enum Ending:
    ENDING_NOT = 0
    ENDING_CLOSE = 1  # Closes are on their way, or waited for
    ENDING_TCP = 2  # both streams are complete: only the sockets' ends are waited for


cdef inline Flow* _from(Session* session, Conn* source) noexcept nogil:
    return &session.up if source == session.client else &session.down


cdef inline Conn* _other(Session* session, Conn* conn) noexcept nogil:
    return session.upstream if conn == session.client else session.client


# --- counting ---------------------------------------------------------------------------------------


cdef int _close_slot(int code) noexcept nogil:
    """Where a close code is counted; see CLOSE_SLOTS."""
    if 1000 <= code <= 1015:
        return code - 1000
    if code == 4401:
        return 16
    if code == 4403:
        return 17
    if code == 4408:
        return 18
    if code == 4429:
        return 19
    if 3000 <= code <= 3999:
        return 20
    return 21 if 4000 <= code <= 4999 else 22


cdef void _note_close(Worker* worker, Session* session, Conn* sink, int code) noexcept nogil:
    """Count a Close that goes to a side, and remember it for the record."""
    cdef int side = 0 if sink == session.client else 1
    nx_bump(&worker.counters.closes[side * CLOSE_SLOTS + _close_slot(code)], 1)
    if side == 0:
        session.client_code = <uint16_t>code
    else:
        session.upstream_code = <uint16_t>code


cdef void _first_reason(Session* session, const char* why, int ended_by) noexcept nogil:
    if session.why == NULL:
        session.why = why
        session.ended_by = <uint8_t>ended_by


# --- ending -----------------------------------------------------------------------------------------


cdef void _free_session(Worker* worker, Session* session) noexcept nogil:
    """Both sockets are done: leave the close record and give the session back."""
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
    policy_release(worker, session.policy)
    session.prev.next = session.next
    session.next.prev = session.prev
    nx_bump(&worker.counters.sessions_live, <uint64_t>-1)
    session_uncount(worker, session.consumer_cell)
    slab_give(&worker.sessions, session)


cdef void relay_cut(Worker* worker, Session* session) noexcept nogil:
    cdef Conn* client = session.client
    cdef Conn* upstream = session.upstream
    client.session = NULL
    upstream.session = NULL
    _free_session(worker, session)
    conn_end(worker, client)
    conn_end(worker, upstream)


cdef uint16_t _due(Session* session, Conn* sink) noexcept nogil:
    return session.due_client if sink == session.client else session.due_upstream


cdef bint _close_waits(Session* session, Conn* sink) noexcept nogil:
    """Whether a Close of ours is due to this side and could not be sent yet."""
    cdef Flow* flow = _from(session, _other(session, sink))
    return (
        _due(session, sink) != 0
        and not flow.flags & (FLOW_CLOSE_SENT | FLOW_TORN)
        and not sink.flags & (FLAG_BROKEN | FLAG_SHUT)
    )


cdef bint _side_done(Session* session, Conn* side) noexcept nogil:
    """Nothing more is due from this side, and all that is due to it has been taken."""
    if side.flags & FLAG_BROKEN:
        return True
    if buffer_size(&side.output) or _close_waits(session, side):
        return False
    if _from(session, _other(session, side)).flags & FLOW_TORN:
        return True
    return side.flags & FLAG_EOF or (
        _from(session, side).flags & (FLOW_CLOSE_SEEN | FLOW_ENDED)
    )


cdef bint _may_send(Session* session, Conn* side) noexcept nogil:
    """Whether closing now could meet input, and a reset cost the peer its Close.

    A peer that has sent its Close sends nothing more; one that broke a rule may well.
    """
    if side.flags & (FLAG_BROKEN | FLAG_EOF):
        return False
    return side.flags & FLAG_READABLE or not _from(session, side).flags & FLOW_CLOSE_SEEN


cdef void _finish(Worker* worker, Session* session) noexcept nogil:
    """End the sockets when both sides are done; frees the session when they have ended."""
    cdef Conn* client = session.client
    cdef Conn* upstream = session.upstream
    if session.ending == ENDING_CLOSE:
        if not _side_done(session, client) or not _side_done(session, upstream):
            return
        session.ending = ENDING_TCP
        if _may_send(session, client) or _may_send(session, upstream):
            # A FIN before the close: what is in flight to us cannot turn a Close into a reset.
            conn_shutdown(client)
            conn_shutdown(upstream)
            wheel_arm(&worker.wheel, &client.timer, worker.now_ms + BOUNDARY_MS)
    if not (_may_send(session, client) or _may_send(session, upstream)):
        relay_cut(worker, session)


cdef bint _not_yet(Session* session, Conn* sink) noexcept nogil:
    """Whether this side broke a rule and the other has not finished: what that still sends in
    answer to what came before goes on first (frames.md, how to do it, 1)."""
    cdef Conn* innocent = _other(session, sink)
    if session.heard_out != (BY_CLIENT if sink == session.client else BY_UPSTREAM):
        return False
    return not innocent.flags & (FLAG_EOF | FLAG_BROKEN) and not (
        _from(session, innocent).flags & FLOW_CLOSE_SEEN
    )


cdef void _send_close(Worker* worker, Session* session, Conn* sink) noexcept nogil:
    """Send the Close that is due to a side, if its stream stands at a frame boundary."""
    cdef Flow* flow = _from(session, _other(session, sink))
    cdef uint16_t code = _due(session, sink)
    cdef uint8_t frame[FRAME_CLOSE_MAX]
    cdef uint8_t mask[4]
    cdef const char* reason = b""
    cdef int size
    if not _close_waits(session, sink) or flow.frame_left or _not_yet(session, sink):
        return
    if code != 1001:
        reason = session.why
    if sink == session.client:
        size = frame_write_close(frame, code, <const uint8_t*>reason, strlen(reason), NULL)
    else:
        worker_mask(worker, mask)
        size = frame_write_close(frame, code, <const uint8_t*>reason, strlen(reason), mask)
    flow.flags |= FLOW_CLOSE_SENT
    _note_close(worker, session, sink, code)
    if conn_write(sink, frame, <uint32_t>size) < 0:
        sink.flags |= FLAG_BROKEN
    if not _close_waits(session, _other(session, sink)):  # now the peers have their time to answer
        wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + CLOSE_MS)


cdef void relay_end(
    Worker* worker, Session* session, const char* why, int client_code, int upstream_code,
    int ended_by,
) noexcept nogil:
    cdef uint64_t wait = CLOSE_MS
    if session.ending:
        return
    _first_reason(session, why, ended_by)
    session.ending = ENDING_CLOSE
    session.due_client = <uint16_t>client_code
    session.due_upstream = <uint16_t>upstream_code
    _send_close(worker, session, session.client)
    _send_close(worker, session, session.upstream)
    wheel_cancel(&worker.wheel, &session.upstream.timer)
    if _not_yet(session, session.client) or _not_yet(session, session.upstream):
        wait = HEAR_OUT_MS
    elif _close_waits(session, session.client) or _close_waits(session, session.upstream):
        wait = BOUNDARY_MS
    wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + wait)


# --- walking frames ---------------------------------------------------------------------------------


cdef int _whole_close(
    Worker* worker, Session* session, Flow* flow, Conn* sink, const uint8_t* data,
    const FrameHeader* header,
) noexcept nogil:
    """Judge a Close whose payload is whole.

    Returns 1 to pass it on, 0 when the sink has, or is due, one of ours, or minus a close code.
    """
    cdef uint8_t payload[FRAME_CONTROL_MAX]
    cdef uint16_t code = 0
    cdef int result
    memcpy(payload, data + header.header_len, header.length)
    if header.masked:
        frame_unmask(payload, header.length, header.mask, 0)
    result = frame_check_close(payload, header.length, &code)
    if result < 0:
        return result
    flow.close_code = code
    flow.flags |= FLOW_CLOSE_SEEN
    if flow.flags & (FLOW_CLOSE_SENT | FLOW_TORN) or _due(session, sink):
        return 0
    # A side that went away without a Close hears none: what comes for it answers ours.
    if sink.flags & (FLAG_EOF | FLAG_BROKEN) and not _from(session, sink).flags & FLOW_CLOSE_SEEN:
        return 0
    _note_close(worker, session, sink, code)
    return 1


cdef int64_t _walk(
    Worker* worker, Session* session, Flow* flow, Conn* sink, const uint8_t* data, uint32_t size,
    int* violation,
) noexcept nogil:
    """Walk the frames of data[0:size].  Returns the bytes that may go on.

    What lies behind them is an incomplete header or Close, to be held, or, with `violation` set to
    minus a close code, what must not arrive.
    """
    cdef FrameHeader header
    cdef bint from_client = flow.flags & FLOW_MASKED
    cdef uint64_t most = CLIENT_MESSAGE_MAX if from_client else UPSTREAM_MESSAGE_MAX
    cdef uint64_t left = flow.frame_left
    cdef uint64_t messages = 0
    cdef uint64_t bytes = 0
    cdef uint32_t at = 0
    cdef int result
    while at < size:
        if left:
            if left > size - at:
                left -= size - at
                at = size
                break
            at += <uint32_t>left
            left = 0
            continue
        result = frame_parse_header(data + at, size - at, &header)
        if result == 0:
            break
        if result > 0:
            result = frame_check_role(
                &header, from_client, flow.flags & FLOW_IN_MESSAGE, flow.flags & FLOW_RSV1
            )
        if result < 0:
            violation[0] = result
            break
        if header.opcode < FRAME_CLOSE:
            if flow.message_bytes + header.length > most:
                violation[0] = -1009
                break
            flow.message_bytes += header.length
            bytes += header.length
            if header.fin:
                flow.flags &= ~FLOW_IN_MESSAGE
                flow.message_bytes = 0
                messages += 1
            else:
                flow.flags |= FLOW_IN_MESSAGE
        elif header.opcode == FRAME_CLOSE:
            if size - at < header.header_len + header.length:
                break
            result = _whole_close(worker, session, flow, sink, data + at, &header)
            if result < 0:
                violation[0] = result
            elif result:
                at += header.header_len + <uint32_t>header.length
                flow.flags |= FLOW_CLOSE_PASSES
            break
        at += header.header_len
        left = header.length
    flow.frame_left = left
    flow.messages += messages
    flow.bytes += bytes
    if from_client:
        nx_bump(&worker.counters.messages_up, messages)
        nx_bump(&worker.counters.bytes_up, bytes)
    else:
        nx_bump(&worker.counters.messages_down, messages)
        nx_bump(&worker.counters.bytes_down, bytes)
    return at


cdef void _violated(Worker* worker, Session* session, Conn* source, int code) noexcept nogil:
    """The source broke a rule: what came before has gone on; both sides hear of it."""
    cdef bint by_client = source == session.client
    cdef const char* why = b"protocol error"
    _from(session, source).flags |= FLOW_ENDED
    if not session.ending:
        session.heard_out = BY_CLIENT if by_client else BY_UPSTREAM
    if code == 1009:
        why = b"Payload Too Large"
    elif code == 1007:
        why = b"invalid payload data"
    if by_client:
        relay_end(worker, session, why, code, 1001, BY_CLIENT)
    else:
        relay_end(worker, session, why, 1001 if code == 1009 else 1011, code, BY_UPSTREAM)


cdef int _pass_on(
    Worker* worker, Session* session, Flow* flow, Conn* source, Conn* sink,
    const uint8_t* data, uint32_t size,
) noexcept nogil:
    """Send on what of data[0:size] may go, hold the rest.  Returns 1, or the sink's error."""
    cdef int violation = 0
    cdef uint32_t ready
    cdef int result = 1
    if flow.flags & (FLOW_CLOSE_SEEN | FLOW_ENDED):
        return 1  # anything after a Close is ignored, RFC 6455 §1.4
    if flow.frame_left and flow.frame_left < size and _close_waits(session, sink):
        # A Close of ours goes in where the frame in hand ends; what follows is only read.
        ready = <uint32_t>flow.frame_left
        result = _pass_on(worker, session, flow, source, sink, data, ready)
        if result < 0:
            return result
        _send_close(worker, session, sink)
        return _pass_on(worker, session, flow, source, sink, data + ready, size - ready)
    ready = <uint32_t>_walk(worker, session, flow, sink, data, size, &violation)
    if ready and not flow.flags & (FLOW_CLOSE_SENT | FLOW_TORN) and not sink.flags & FLAG_BROKEN:
        result = conn_write(sink, data, ready)
        if result > 0 and buffer_size(&sink.output) and sink.timer.prev == NULL:
            wheel_arm(&worker.wheel, &sink.timer, worker.now_ms + WRITE_MS)
    if flow.flags & FLOW_CLOSE_PASSES:
        flow.flags = (flow.flags & ~FLOW_CLOSE_PASSES) | FLOW_CLOSE_SENT
    if violation:
        _violated(worker, session, source, -violation)
    elif flow.flags & FLOW_CLOSE_SEEN:
        _close_passed(worker, session, source)
    elif ready < size:
        flow.held = <uint8_t>(size - ready)
        if buffer_append(&source.input, data + ready, size - ready, HEADROOM) < 0:
            return CORE_FULL
    return result


cdef void _close_passed(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """An endpoint closed, and its Close went on as it was: wait for the other's, within bounds."""
    _first_reason(
        session,
        b"closed by the client" if source == session.client else b"closed by the upstream",
        BY_CLIENT if source == session.client else BY_UPSTREAM,
    )
    if not session.ending:
        session.ending = ENDING_CLOSE
        wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + CLOSE_MS)


# --- reading ----------------------------------------------------------------------------------------


cdef void _lost(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """The source's TCP ended, with or without a Close before."""
    cdef Flow* flow = _from(session, source)
    flow.flags |= FLOW_ENDED
    if flow.frame_left and not flow.flags & FLOW_CLOSE_SENT:
        flow.flags |= FLOW_TORN  # the sink has half a frame: its stream can only end
    if source == session.client:
        relay_end(worker, session, b"client went away", 0, 1001, BY_CLIENT)
    else:
        relay_end(worker, session, b"upstream went away", 1011, 0, BY_UPSTREAM)
    _answer_for(session, source)


cdef void _answer_for(Session* session, Conn* lost) noexcept nogil:
    """A side that sent its Close is owed one: a lost peer's is ours to send."""
    cdef Conn* other = _other(session, lost)
    if not _from(session, other).flags & FLOW_CLOSE_SEEN or other.flags & FLAG_EOF:
        return
    if lost == session.client and session.due_upstream == 0:
        session.due_upstream = 1001
    elif lost == session.upstream and session.due_client == 0:
        session.due_client = 1011


cdef void _pump(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """Read and pass on while the source has more, the sink takes it and the budget lasts."""
    cdef Flow* flow = _from(session, source)
    cdef Conn* sink = _other(session, source)
    cdef uint8_t* data
    cdef uint32_t held
    cdef ssize_t got
    cdef int budget = READS_MAX
    while source.flags & FLAG_READABLE:
        if (
            buffer_size(&sink.output) and not sink.flags & FLAG_BROKEN
            and not flow.flags & (FLOW_ENDED | FLOW_CLOSE_SENT | FLOW_TORN)
        ):
            break  # back-pressure: goes on when the sink's output is out
        if budget == 0:
            conn_ready(worker, source)
            break
        budget -= 1
        data = worker.scratch + HEADROOM
        got = conn_recv(source, data, SCRATCH_BYTES)
        if got <= 0:
            if got < 0:
                _lost(worker, session, source)
            break
        if flow.held:
            held = flow.held
            data -= held
            memcpy(data, source.input.data + source.input.head, held)
            buffer_drop(&source.input)
            flow.held = 0
            got += held
        if _pass_on(worker, session, flow, source, sink, data, <uint32_t>got) < 0:
            sink.flags |= FLAG_BROKEN
            _lost(worker, session, sink)
            break


cdef void relay_begin(Worker* worker, Session* session) noexcept nogil:
    nx_bump(&worker.counters.sessions_total, 1)
    nx_bump(&worker.counters.sessions_live, 1)
    nx_bump(&worker.counters.handshakes[101], 1)
    _begin_side(worker, session, session.upstream)
    _begin_side(worker, session, session.client)
    relay_event(worker, session.upstream)


cdef void _begin_side(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """Pass on what this side sent behind its head."""
    cdef Conn* sink = _other(session, source)
    cdef Buffer behind = source.input
    if buffer_size(&behind) == 0:
        return
    memset(&source.input, 0, sizeof(Buffer))
    if _pass_on(
        worker, session, _from(session, source), source, sink,
        behind.data + behind.head, buffer_size(&behind),
    ) < 0:
        sink.flags |= FLAG_BROKEN
        _lost(worker, session, sink)
    buffer_drop(&behind)


cdef bint _flush(Worker* worker, Session* session, Conn* sink) noexcept nogil:
    """Send what is pending for a side.  Whether it has all now."""
    cdef int result
    if buffer_size(&sink.output) == 0:
        return True
    result = conn_flush(sink)
    if result < 0:
        sink.flags |= FLAG_BROKEN
        _lost(worker, session, sink)
        return True
    if result and not session.ending:
        wheel_cancel(&worker.wheel, &sink.timer)
    elif not result and sink.timer.prev != NULL and not session.ending:
        wheel_arm(&worker.wheel, &sink.timer, worker.now_ms + WRITE_MS)
    return result


cdef void relay_event(Worker* worker, Conn* conn) noexcept nogil:
    cdef Session* session = conn.session
    cdef Conn* other = _other(session, conn)
    if buffer_size(&conn.output) and conn.flags & FLAG_WRITABLE:
        if _flush(worker, session, conn) and other.flags & FLAG_READABLE:
            _pump(worker, session, other)
    if conn.flags & FLAG_READABLE:
        _pump(worker, session, conn)
    if other.flags & FLAG_READABLE and not other.flags & FLAG_READY and (
        buffer_size(&conn.output) == 0
    ):
        _pump(worker, session, other)
    if session.ending:
        _send_close(worker, session, session.client)
        _send_close(worker, session, session.upstream)
        _finish(worker, session)


cdef void _tear(Flow* flow, Conn* sink) noexcept nogil:
    """A frame was not completed in time: the sink's stream ends within it, without a Close."""
    flow.flags |= FLOW_TORN
    if buffer_size(&sink.output) == 0:
        conn_shutdown(sink)


cdef void relay_timer(Worker* worker, Conn* conn) noexcept nogil:
    """A side took nothing for too long, or an end was not completed in time."""
    cdef Session* session = conn.session
    cdef bint client_waits, upstream_waits
    if session.ending and session.heard_out:
        session.heard_out = 0  # the innocent side had its time
        _send_close(worker, session, session.client)
        _send_close(worker, session, session.upstream)
        wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + BOUNDARY_MS)
        _finish(worker, session)
        return
    if session.ending:
        client_waits = _close_waits(session, session.client)
        upstream_waits = _close_waits(session, session.upstream)
        if not (client_waits or upstream_waits):
            relay_cut(worker, session)
            return
        if client_waits:
            _tear(&session.down, session.client)
        if upstream_waits:
            _tear(&session.up, session.upstream)
        wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + CLOSE_MS - BOUNDARY_MS)
        _finish(worker, session)
        return
    if buffer_size(&conn.output) == 0:
        return
    conn.flags |= FLAG_BROKEN
    _note_close(worker, session, conn, 1013)
    if conn == session.client:
        relay_end(worker, session, b"client took nothing for too long", 0, 1001, BY_CLIENT)
    else:
        relay_end(worker, session, b"upstream took nothing for too long", 1011, 0, BY_UPSTREAM)
    _finish(worker, session)
