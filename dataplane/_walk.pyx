"""The frames of one direction, walked where they lie.

A walk reads each header once and says how far the bytes may go on.  It stops at what is not whole
and must be (a header, a Close, what may be the Pong of a Ping of ours), at a violation, and where
the bytes that go on are not those that came:

- a Pong that answers our Ping is left out;
- text that is checked (FLOW_CHECKED) and longer than what is there goes on in chunks, each a
  fragment with a header of its own, so that the sink stands at a frame boundary whatever comes
  next (frames.md, how to do it, 2).  A masked chunk keeps its bytes: only its key is turned to
  where it begins.

Text is checked through its mask, a piece at a time on the stack; no byte of the stream is changed.
On an http or https route (FLOW_OPAQUE) nothing is judged: bytes go on as they come, and the headers
are only read to count and to know where a Close may go, until what comes is no frame (FLOW_BLIND).
"""

cdef enum:
    PIECE_BYTES = 1024  # of masked text, unmasked on the stack to be checked


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
    if flow.flags & (FLOW_CLOSE_SENT | FLOW_TORN) or session_due(session, sink):
        return 0
    # A side that went away without a Close hears none: what comes for it answers ours.
    if sink.flags & (FLAG_EOF | FLAG_BROKEN) and not (
        flow_from(session, sink).flags & FLOW_CLOSE_SEEN
    ):
        return 0
    session_note_close(worker, session, sink, code)
    return 1


# --- Pings and Pongs --------------------------------------------------------------------------------


cdef inline void _ping_passes(Worker* worker, Session* session, Conn* sink) noexcept nogil:
    """A Ping goes on to the sink, which owes a Pong."""
    cdef Flow* back = flow_from(session, sink)
    if not back.flags & FLOW_OWES_PONG:
        back.flags |= FLOW_OWES_PONG
        back.owes_ms = worker.now_ms


cdef bint _is_our_pong(
    const Flow* flow, const uint8_t* data, const FrameHeader* header
) noexcept nogil:
    """Whether this Pong, whole, echoes our last Ping to its source."""
    cdef uint8_t payload[8]
    memcpy(payload, data + header.header_len, 8)
    if header.masked:
        frame_unmask(payload, 8, header.mask, 0)
    return memcmp(payload, flow.ping, 8) == 0


# --- text -------------------------------------------------------------------------------------------


cdef int _check_text(
    Flow* flow, const uint8_t* data, uint64_t size, const uint8_t* mask
) noexcept nogil:
    """Go on checking text, masked unless `mask` is NULL.  Returns 0 or FRAME_BAD_TEXT."""
    cdef uint8_t piece[PIECE_BYTES]
    cdef uint64_t at = 0
    cdef uint64_t some
    if mask == NULL:
        return utf8_step(&flow.utf8, data, size)
    while at < size:
        some = size - at if size - at < PIECE_BYTES else PIECE_BYTES  # its phase stays 0
        memcpy(piece, data + at, some)
        frame_unmask(piece, some, mask, 0)
        if utf8_step(&flow.utf8, piece, some) < 0:
            return FRAME_BAD_TEXT
        at += some
    return 0


cdef int _text_begins(
    Flow* flow, const uint8_t* data, uint32_t have, const FrameHeader* header
) noexcept nogil:
    """Judge a data frame whose header is read, with data[0:have] behind that.

    Returns 1 when it may go on as it is, 0 when it goes on in chunks, or FRAME_BAD_TEXT.
    """
    if header.opcode != FRAME_CONTINUATION:
        flow.flags &= ~FLOW_TEXT
        if header.opcode == FRAME_TEXT and header.rsv == 0:  # compressed text is no text yet
            flow.flags |= FLOW_TEXT
            flow.utf8 = UTF8_BOUNDARY
    if not flow.flags & FLOW_TEXT:
        return 1
    if have < header.length:
        flow.flags |= FLOW_CHUNKED
        flow.opcode = header.opcode
        flow.fin = header.fin
        memcpy(flow.mask, header.mask, FRAME_MASK_LEN)
        return 0
    if _check_text(flow, data, header.length, header.mask if header.masked else NULL) < 0:
        return FRAME_BAD_TEXT
    return 1 if not header.fin or flow.utf8 == UTF8_BOUNDARY else FRAME_BAD_TEXT


cdef void _walk_chunk(Flow* flow, const uint8_t* data, uint32_t size, Walked* out) noexcept nogil:
    """Check what is there of the text frame in hand, and make it a fragment of its own."""
    cdef uint8_t* mask = flow.mask if flow.flags & FLOW_MASKED else NULL
    cdef uint32_t some = size if size < flow.frame_left else <uint32_t>flow.frame_left
    cdef bint last = some == flow.frame_left
    cdef uint8_t turned[4]
    cdef int i
    if _check_text(flow, data, some, mask) < 0 or (
        last and flow.fin and flow.utf8 != UTF8_BOUNDARY
    ):
        out.violation = FRAME_BAD_TEXT
        return
    out.head_len = frame_write_header(out.head, flow.opcode, last and flow.fin, some, mask)
    out.ready = some
    out.again = 1
    flow.opcode = FRAME_CONTINUATION
    flow.frame_left -= some
    if last:
        flow.flags &= ~FLOW_CHUNKED
    for i in range(4):
        turned[i] = flow.mask[(some + <uint32_t>i) & 3]
    memcpy(flow.mask, turned, 4)


# --- opaque -----------------------------------------------------------------------------------------


cdef void _note_opaque(
    Worker* worker, Session* session, Flow* flow, Conn* sink, const FrameHeader* header
) noexcept nogil:
    """Count a frame whose header, and of a Close its code, stands in flow.head."""
    cdef bint from_client = flow.flags & FLOW_MASKED
    cdef uint8_t code[2]
    if header.opcode < FRAME_CLOSE:
        flow.data_ms = worker.now_ms
        flow.messages += header.fin
        flow.bytes += header.length
        nx_bump(
            &worker.counters.messages_up if from_client else &worker.counters.messages_down,
            header.fin,
        )
        nx_bump(
            &worker.counters.bytes_up if from_client else &worker.counters.bytes_down,
            header.length,
        )
    elif header.opcode == FRAME_CLOSE:
        flow.close_code = FRAME_NO_CODE
        if header.length >= 2:
            memcpy(code, flow.head + header.header_len, 2)
            if header.masked:
                frame_unmask(code, 2, header.mask, 0)
            flow.close_code = (<uint16_t>code[0] << 8) | code[1]
            if flow.close_code == 0:
                flow.close_code = FRAME_NO_CODE  # 0 says that none came yet
        if session.ending:
            flow.flags |= FLOW_CLOSE_SEEN
        if not flow.flags & FLOW_CLOSE_SENT:
            flow.flags |= FLOW_CLOSE_SENT  # none of ours may follow; what does still goes on
            session_note_close(worker, session, sink, flow.close_code)
    elif header.opcode == FRAME_PING:
        _ping_passes(worker, session, sink)
    else:
        flow.flags &= ~FLOW_OWES_PONG


cdef bint _opaque_pong(
    Flow* flow, const uint8_t* data, uint32_t size, Walked* out
) noexcept nogil:
    """Whether the walk stops here: for the Pong of our Ping, or what may yet become that."""
    cdef FrameHeader header
    if data[0] != (0x80 | FRAME_PONG) or (size > 1 and data[1] & 0x7F != 8):
        return False
    if frame_parse_header(data, size, &header) <= 0 or size < header.header_len + 8:
        return True
    if not _is_our_pong(flow, data, &header):
        return False
    flow.flags &= ~FLOW_PINGED
    out.dropped = header.header_len + 8
    out.again = 1
    return True


cdef void _walk_opaque(
    Worker* worker, Session* session, Flow* flow, Conn* sink, const uint8_t* data, uint32_t size,
    Walked* out,
) noexcept nogil:
    cdef FrameHeader header
    cdef uint32_t at = 0
    cdef uint32_t more, have, need
    cdef int got
    while at < size and not flow.flags & FLOW_BLIND and flow.close_code == 0:
        if flow.frame_left:
            more = size - at if size - at < flow.frame_left else <uint32_t>flow.frame_left
            flow.frame_left -= more
            at += more
            continue
        if flow.flags & FLOW_PINGED and flow.seen == 0 and (
            _opaque_pong(flow, data + at, size - at, out)
        ):
            out.ready = at
            return
        more = FRAME_HEADER_MAX - flow.seen
        if more > size - at:
            more = size - at
        memcpy(flow.head + flow.seen, data + at, more)
        have = flow.seen + more
        got = frame_parse_header(flow.head, have, &header)
        if got < 0:
            flow.flags |= FLOW_BLIND
            break
        need = <uint32_t>got
        if got and header.opcode == FRAME_CLOSE and header.length >= 2:
            need += 2
        if got == 0 or have < need:
            flow.seen = <uint8_t>have
            break
        at += need - flow.seen
        flow.seen = 0
        flow.frame_left = header.length - (need - got)
        _note_opaque(worker, session, flow, sink, &header)
    out.ready = size


# --- the walk ---------------------------------------------------------------------------------------


cdef void walk(
    Worker* worker, Session* session, Flow* flow, Conn* sink, const uint8_t* data, uint32_t size,
    Walked* out,
) noexcept nogil:
    cdef FrameHeader header
    cdef bint from_client = flow.flags & FLOW_MASKED
    cdef uint64_t left = flow.frame_left
    cdef uint64_t messages = 0
    cdef uint64_t bytes = 0
    cdef uint32_t at = 0
    cdef bint data_seen = left > FRAME_CONTROL_MAX
    cdef int result
    out.dropped = 0
    out.head_len = 0
    out.violation = 0
    out.again = 0
    if nx_unlikely(flow.flags & (FLOW_OPAQUE | FLOW_CHUNKED)):
        out.ready = 0
        if flow.flags & FLOW_OPAQUE:
            _walk_opaque(worker, session, flow, sink, data, size, out)
        elif size:
            flow.data_ms = worker.now_ms
            _walk_chunk(flow, data, size, out)
        return
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
            out.violation = result
            break
        if header.opcode < FRAME_CLOSE:
            if flow.message_bytes + header.length > flow.message_max:
                out.violation = -1009
                break
            result = 1
            if nx_unlikely(flow.flags & FLOW_CHECKED):
                result = _text_begins(
                    flow, data + at + header.header_len, size - at - header.header_len, &header
                )
                if result < 0:
                    out.violation = result
                    break
            flow.message_bytes += header.length
            bytes += header.length
            data_seen = True
            if header.fin:
                flow.flags &= ~FLOW_IN_MESSAGE
                flow.message_bytes = 0
                messages += 1
            else:
                flow.flags |= FLOW_IN_MESSAGE
            if nx_unlikely(result == 0):
                out.dropped = header.header_len
                out.again = 1
                left = header.length
                break
        elif header.opcode == FRAME_CLOSE:
            if size - at < header.header_len + header.length:
                break
            result = _whole_close(worker, session, flow, sink, data + at, &header)
            if result < 0:
                out.violation = result
            elif result:
                at += header.header_len + <uint32_t>header.length
                flow.flags |= FLOW_CLOSE_PASSES
            break
        elif header.opcode == FRAME_PING:
            _ping_passes(worker, session, sink)
        elif flow.flags & FLOW_PINGED and header.length == 8:
            if size - at < header.header_len + 8:
                break
            if _is_our_pong(flow, data + at, &header):
                flow.flags &= ~FLOW_PINGED
                out.dropped = header.header_len + 8
                out.again = 1
                break
            flow.flags &= ~FLOW_OWES_PONG
        else:
            flow.flags &= ~FLOW_OWES_PONG
        at += header.header_len
        left = header.length
    out.ready = at
    flow.frame_left = left
    flow.messages += messages
    flow.bytes += bytes
    if data_seen:
        flow.data_ms = worker.now_ms
    if nx_unlikely(bytes >= LARGE_MIN) and header.length >= LARGE_MIN:  # the last header is read
        flow.flags |= FLOW_LARGE
    if from_client:
        nx_bump(&worker.counters.messages_up, messages)
        nx_bump(&worker.counters.bytes_up, bytes)
    else:
        nx_bump(&worker.counters.messages_down, messages)
        nx_bump(&worker.counters.bytes_down, bytes)
