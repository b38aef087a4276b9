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


cdef void _first_reason(Session* session, const char* why, int ended_by) noexcept nogil:
    if session.why == NULL:
        session.why = why
        session.ended_by = <uint8_t>ended_by


# --- ending -----------------------------------------------------------------------------------------


cdef void relay_cut(Worker* worker, Session* session) noexcept nogil:
    cdef Conn* client = session.client
    cdef Conn* upstream = session.upstream
    client.session = NULL
    upstream.session = NULL
    session_free(worker, session)
    conn_end(worker, client)
    conn_end(worker, upstream)


cdef bint _close_waits(Session* session, Conn* sink) noexcept nogil:
    """Whether a Close of ours is due to this side and could not be sent yet."""
    cdef Flow* flow = flow_from(session, session_other(session, sink))
    return (
        session_due(session, sink) != 0
        and not flow.flags & (FLOW_CLOSE_SENT | FLOW_TORN)
        and not sink.flags & (FLAG_BROKEN | FLAG_SHUT)
    )


cdef bint _side_done(Session* session, Conn* side) noexcept nogil:
    """Nothing more is due from this side, and all that is due to it has been taken."""
    if side.flags & FLAG_BROKEN:
        return True
    if buffer_size(&side.output) or _close_waits(session, side):
        return False
    if flow_from(session, session_other(session, side)).flags & FLOW_TORN:
        return True
    return side.flags & FLAG_EOF or (
        flow_from(session, side).flags & (FLOW_CLOSE_SEEN | FLOW_ENDED)
    )


cdef bint _may_send(Session* session, Conn* side) noexcept nogil:
    """Whether closing now could meet input, and a reset cost the peer its Close.

    A peer that has sent its Close sends nothing more; one that broke a rule may well.
    """
    if side.flags & (FLAG_BROKEN | FLAG_EOF):
        return False
    return side.flags & FLAG_READABLE or not flow_from(session, side).flags & FLOW_CLOSE_SEEN


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
    cdef Conn* innocent = session_other(session, sink)
    if session.heard_out != (BY_CLIENT if sink == session.client else BY_UPSTREAM):
        return False
    return not innocent.flags & (FLAG_EOF | FLAG_BROKEN) and not (
        flow_from(session, innocent).flags & FLOW_CLOSE_SEEN
    )


cdef void _send_close(Worker* worker, Session* session, Conn* sink) noexcept nogil:
    """Send the Close that is due to a side, if its stream stands at a frame boundary."""
    cdef Flow* flow = flow_from(session, session_other(session, sink))
    cdef uint16_t code = session_due(session, sink)
    cdef uint8_t frame[FRAME_CLOSE_MAX]
    cdef uint8_t mask[4]
    cdef const char* reason = b""
    cdef int size
    if not _close_waits(session, sink) or not flow_at_boundary(flow) or _not_yet(session, sink):
        return
    if code != 1001:
        reason = session.why
    if sink == session.client:
        size = frame_write_close(frame, code, <const uint8_t*>reason, strlen(reason), NULL)
    else:
        worker_mask(worker, mask)
        size = frame_write_close(frame, code, <const uint8_t*>reason, strlen(reason), mask)
    flow.flags |= FLOW_CLOSE_SENT
    session_note_close(worker, session, sink, code)
    if session_write(session, sink, frame, <uint32_t>size) < 0:
        sink.flags |= FLAG_BROKEN
    if not _close_waits(session, session_other(session, sink)):  # now the peers have their time to answer
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
    if session.opaque:
        _settle_opaque(session, &session.up, session.upstream)
        _settle_opaque(session, &session.down, session.client)
    _send_close(worker, session, session.client)
    _send_close(worker, session, session.upstream)
    if _not_yet(session, session.client) or _not_yet(session, session.upstream):
        wait = HEAR_OUT_MS
    elif _close_waits(session, session.client) or _close_waits(session, session.upstream):
        wait = BOUNDARY_MS
    wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + wait)


cdef void _settle_opaque(Session* session, Flow* flow, Conn* sink) noexcept nogil:
    """An opaque session is told to end: no Close can follow what is no frame."""
    if flow.close_code:
        flow.flags |= FLOW_CLOSE_SEEN
    if flow.flags & FLOW_BLIND:
        _tear(session, flow, sink)


cdef void _end_tcp(
    Worker* worker, Session* session, const char* why, int ended_by
) noexcept nogil:
    """End both sides without a Close, once what is pending for them is out."""
    if session.ending:
        return
    _first_reason(session, why, ended_by)
    session.ending = ENDING_CLOSE
    session.up.flags |= FLOW_TORN | FLOW_ENDED
    session.down.flags |= FLOW_TORN | FLOW_ENDED
    wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + CLOSE_MS)


# --- passing on ------------------------------------------------------------------------------------


cdef void _violated(Worker* worker, Session* session, Conn* source, int code) noexcept nogil:
    """The source broke a rule: what came before has gone on; both sides hear of it."""
    cdef bint by_client = source == session.client
    cdef const char* why = b"protocol error"
    flow_from(session, source).flags |= FLOW_ENDED
    if session.ending:
        _answer_for(session, source)
    else:
        session.heard_out = BY_CLIENT if by_client else BY_UPSTREAM
    if code == 1009:
        why = b"Payload Too Large"
    elif code == 1007:
        why = b"invalid payload data"
    if by_client:
        relay_end(worker, session, why, code, 1001, BY_CLIENT)
    else:
        relay_end(worker, session, why, 1001 if code == 1009 else 1011, code, BY_UPSTREAM)


cdef inline bint _is_dropped(const Session* session, const Flow* flow) noexcept nogil:
    """Whether what the source sends goes nowhere: the sink's stream has ended, or will.

    An opaque session goes on behind a Close that only passed.
    """
    if nx_likely(not flow.flags & (FLOW_ENDED | FLOW_CLOSE_SENT | FLOW_TORN)):
        return False
    return flow.flags & (FLOW_ENDED | FLOW_TORN) or session.ending or not session.opaque


cdef int _send_on(
    Worker* worker, Session* session, Flow* flow, Conn* sink, uint8_t* data, const Walked* walked
) noexcept nogil:
    """Send what a walk let through.  Returns 1, or the sink's error."""
    cdef uint32_t size = walked.ready
    cdef bint was_pending
    cdef int result
    if nx_unlikely(_is_dropped(session, flow)) or sink.flags & FLAG_BROKEN:
        return 1
    if nx_unlikely(walked.head_len):
        # There is room: a header of the source's that was dropped, or the headroom of the read.
        data -= walked.head_len
        memcpy(data, walked.head, walked.head_len)
        size += walked.head_len
    was_pending = buffer_size(&sink.output) != 0
    result = session_write(session, sink, data, size)
    if nx_unlikely(buffer_size(&sink.output)) and not was_pending:
        heartbeat_pending(worker, session, flow)
    return result


cdef int _pass_on(
    Worker* worker, Session* session, Flow* flow, Conn* source, Conn* sink,
    uint8_t* data, uint32_t size,
) noexcept nogil:
    """Send on what of data[0:size] may go, hold the rest.  Returns 1, or the sink's error.

    What lies before `data` may be overwritten: HEADROOM bytes, or what was passed on before.
    """
    cdef Walked walked
    cdef uint32_t piece
    cdef int result = 1
    while size and not flow.flags & (FLOW_CLOSE_SEEN | FLOW_ENDED):  # RFC 6455 §1.4
        piece = size
        if nx_unlikely(session.ending) and flow.frame_left and flow.frame_left < size and (
            _close_waits(session, sink)
        ):
            piece = <uint32_t>flow.frame_left  # a Close of ours goes in where this frame ends
        walk(worker, session, flow, sink, data, piece, &walked)
        if walked.ready:
            result = _send_on(worker, session, flow, sink, data, &walked)
        if nx_unlikely(flow.flags & FLOW_CLOSE_PASSES):
            flow.flags = (flow.flags & ~FLOW_CLOSE_PASSES) | FLOW_CLOSE_SENT
        if nx_unlikely(walked.violation):
            _violated(worker, session, source, -walked.violation)
            return result
        if nx_unlikely(flow.flags & FLOW_CLOSE_SEEN):
            _close_passed(worker, session, source)
            return result
        if nx_unlikely(flow.flags & FLOW_OPAQUE) and flow.close_code:
            _close_named(session, source)
        if nx_unlikely(result < 0):
            return result
        data += walked.ready + walked.dropped
        size -= walked.ready + walked.dropped
        if nx_unlikely(piece < size + walked.ready + walked.dropped):
            _send_close(worker, session, sink)
        elif nx_likely(not walked.again):
            break
    if nx_unlikely(size) and not flow.flags & (FLOW_CLOSE_SEEN | FLOW_ENDED):
        flow.held = <uint8_t>size
        if buffer_append(&source.input, data, size, HEADROOM) < 0:
            return CORE_FULL
    return result


cdef void _close_named(Session* session, Conn* source) noexcept nogil:
    _first_reason(
        session,
        b"closed by the client" if source == session.client else b"closed by the upstream",
        BY_CLIENT if source == session.client else BY_UPSTREAM,
    )


cdef void _close_passed(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """An endpoint closed, and its Close went on as it was: wait for the other's, within bounds."""
    _close_named(session, source)
    if not session.ending:
        session.ending = ENDING_CLOSE
        wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + CLOSE_MS)


# --- reading ----------------------------------------------------------------------------------------


cdef void _lost(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """The source's TCP ended, with or without a Close before."""
    cdef Flow* flow = flow_from(session, source)
    flow.flags |= FLOW_ENDED
    if session.opaque and not session.ending:  # §11: a half-close closes both
        if source == session.client:
            _end_tcp(worker, session, b"client went away", BY_CLIENT)
        else:
            _end_tcp(worker, session, b"upstream went away", BY_UPSTREAM)
        return
    if not flow_at_boundary(flow) and not flow.flags & FLOW_CLOSE_SENT:
        flow.flags |= FLOW_TORN  # the sink has half a frame: its stream can only end
    if source == session.client:
        relay_end(worker, session, b"client went away", 0, 1001, BY_CLIENT)
    else:
        relay_end(worker, session, b"upstream went away", 1011, 0, BY_UPSTREAM)
    _answer_for(session, source)


cdef void _answer_for(Session* session, Conn* lost) noexcept nogil:
    """A side that sent its Close is owed one: that of a peer lost, or heard no more, is ours to send."""
    cdef Conn* other = session_other(session, lost)
    if not flow_from(session, other).flags & FLOW_CLOSE_SEEN or other.flags & FLAG_EOF:
        return
    if lost == session.client and session.due_upstream == 0:
        session.due_upstream = 1001
    elif lost == session.upstream and session.due_client == 0:
        session.due_client = 1011


cdef void _takes_no_more(Worker* worker, Session* session, Conn* sink) noexcept nogil:
    """Sending to a side failed: what it said before it went goes on first, then it is lost."""
    sink.flags = (sink.flags | FLAG_BROKEN | FLAG_READABLE) & ~FLAG_DRAINED
    _pump(worker, session, sink)
    _lost(worker, session, sink)


cdef bint _passed_large(
    Worker* worker, Session* session, Flow* flow, Conn* source, Conn* sink, ssize_t got
) noexcept nogil:
    """Note what came of a pass of large frames.  Returns whether both sides live."""
    if got < 0:
        _takes_no_more(worker, session, sink)
        return False
    if got:
        flow.heard_ms = worker.now_ms
        if nx_unlikely(buffer_size(&sink.output)):
            heartbeat_pending(worker, session, flow)
    if nx_unlikely(source.flags & FLAG_BROKEN):
        _lost(worker, session, source)
        return False
    return True


cdef void _pump(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """Read and pass on while the source has more, the sink takes it and the budget lasts."""
    cdef Flow* flow = flow_from(session, source)
    cdef Conn* sink = session_other(session, source)
    cdef uint8_t* data
    cdef uint32_t held
    cdef ssize_t got
    cdef bint last
    cdef uint8_t turn = <uint8_t>(worker.turn >> 1)
    if flow.turn != turn:  # both sides' events and the ready list may come here in one turn
        flow.turn = turn
        flow.reads = 0
    while source.flags & FLAG_READABLE:
        if nx_unlikely(not session_has_room(session, sink)) and not _is_dropped(session, flow):
            nx_bump(&worker.counters.reads_held, 1)
            break  # back-pressure: goes on when the sink has taken enough
        if flow.reads == READS_MAX:
            nx_bump(&worker.counters.budgets_spent, 1)
            conn_ready(worker, source)
            break
        flow.reads += 1
        if nx_unlikely(flow.flags & FLOW_LARGE) and large_may_pass(session, flow, source, sink):
            got = large_pass(worker, session, flow, source, sink)
            if got != LARGE_NOT:
                if not _passed_large(worker, session, flow, source, sink, got):
                    break
                continue
        data = worker.scratch + HEADROOM
        got = conn_recv(source, data, flow.read_max)
        if got <= 0:
            if got < 0:
                _lost(worker, session, source)
            break
        flow.heard_ms = worker.now_ms
        last = <uint32_t>got < flow.read_max
        if flow.held:
            held = flow.held
            data -= held
            memcpy(data, source.input.data + source.input.head, held)
            buffer_drop(&source.input)
            flow.held = 0
            got += held
        if _pass_on(worker, session, flow, source, sink, data, <uint32_t>got) < 0:
            _takes_no_more(worker, session, sink)
            break
        if nx_unlikely(flow.flags & FLOW_CLOSE_SEEN) and (
            last and source.flags & FLAG_HUNG_UP and source.ssl == NULL
        ):
            source.flags = (source.flags | FLAG_EOF) & ~FLAG_READABLE  # as the next read would say
            break


cdef void relay_begin(Worker* worker, Session* session) noexcept nogil:
    session_begin(worker, session)
    heartbeat(worker, session)
    _begin_side(worker, session, session.upstream)
    _begin_side(worker, session, session.client)
    relay_event(worker, session.upstream)


cdef void _begin_side(Worker* worker, Session* session, Conn* source) noexcept nogil:
    """Pass on what this side sent behind its head."""
    cdef Conn* sink = session_other(session, source)
    cdef Buffer behind = source.input
    if buffer_size(&behind) == 0:
        return
    memset(&source.input, 0, sizeof(Buffer))
    if _pass_on(
        worker, session, flow_from(session, source), source, sink,
        behind.data + behind.head, buffer_size(&behind),
    ) < 0:
        _takes_no_more(worker, session, sink)
    buffer_drop(&behind)


cdef void _flush(Worker* worker, Session* session, Conn* sink) noexcept nogil:
    """Send what is pending for a side."""
    cdef uint32_t pending = buffer_size(&sink.output)
    cdef int result = conn_flush(sink)
    if result < 0:
        _takes_no_more(worker, session, sink)
    elif buffer_size(&sink.output) < pending:
        flow_from(session, session_other(session, sink)).taken_ms = worker.now_ms
        flow_from(session, session_other(session, sink)).queued = 0


cdef void relay_event(Worker* worker, Conn* conn) noexcept nogil:
    cdef Session* session = conn.session
    cdef Conn* other = session_other(session, conn)
    if buffer_size(&conn.output) and conn.flags & FLAG_WRITABLE:
        _flush(worker, session, conn)
        if other.flags & FLAG_READABLE and session_has_room(session, conn):
            _pump(worker, session, other)
    if conn.flags & FLAG_READABLE:
        _pump(worker, session, conn)
    if other.flags & FLAG_READABLE and not other.flags & FLAG_READY and (
        session_has_room(session, conn)
    ):
        _pump(worker, session, other)
    if session.ending:
        _send_close(worker, session, session.client)
        _send_close(worker, session, session.upstream)
        _finish(worker, session)


cdef void _tear(Session* session, Flow* flow, Conn* sink) noexcept nogil:
    """A frame was not completed in time: the sink's stream ends within it, without a Close.

    What is pending for it still goes out, unless the right to it has ended.
    """
    flow.flags |= FLOW_TORN
    if session.grant.ended:
        buffer_drop(&sink.output)
    if buffer_size(&sink.output) == 0:
        conn_shutdown(sink)


cdef void relay_timer(Worker* worker, Conn* conn) noexcept nogil:
    """The session's heartbeat, or an end was not completed in time."""
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
            _tear(session, &session.down, session.client)
        if upstream_waits:
            _tear(session, &session.up, session.upstream)
        wheel_arm(&worker.wheel, &session.client.timer, worker.now_ms + CLOSE_MS - BOUNDARY_MS)
        _finish(worker, session)
        return
    _beat_ends(worker, session, heartbeat(worker, session))
    if session.ending:
        _finish(worker, session)


cdef void _beat_ends(Worker* worker, Session* session, int beat) noexcept nogil:
    """End a session as its heartbeat says: the table of ends, architecture.md."""
    if beat == BEAT_CLIENT_LOST or beat == BEAT_UPSTREAM_LOST:
        _lost(worker, session, session.client if beat == BEAT_CLIENT_LOST else session.upstream)
    elif beat == BEAT_CLIENT_SILENT:
        relay_end(worker, session, b"no Pong from the client", 4408, 1001, BY_CLIENT)
    elif beat == BEAT_UPSTREAM_SILENT:
        session.upstream.flags |= FLAG_BROKEN
        relay_end(worker, session, b"no Pong from the upstream", 1011, 0, BY_UPSTREAM)
    elif beat == BEAT_IDLE:
        relay_end(worker, session, b"idle for too long", 4408, 1001, BY_GATEWAY)
    elif beat == BEAT_QUIET:
        _end_tcp(worker, session, b"nothing came for too long", BY_GATEWAY)
    elif beat == BEAT_CLIENT_STALLED:
        _cut_stalled(worker, session, session.client)
    elif beat == BEAT_UPSTREAM_STALLED:
        _cut_stalled(worker, session, session.upstream)


cdef void _cut_stalled(Worker* worker, Session* session, Conn* side) noexcept nogil:
    """A side took nothing for too long: its stream is stuck, and 1013 stands in the record only."""
    cdef bint by_client = side == session.client
    cdef const char* why = b"upstream took nothing for too long"
    if by_client:
        why = b"client took nothing for too long"
    side.flags |= FLAG_BROKEN
    if session.opaque:
        _end_tcp(worker, session, why, BY_CLIENT if by_client else BY_UPSTREAM)
        return
    session_note_close(worker, session, side, 1013)
    if by_client:
        relay_end(worker, session, why, 0, 1001, BY_CLIENT)
    else:
        relay_end(worker, session, why, 1011, 0, BY_UPSTREAM)
