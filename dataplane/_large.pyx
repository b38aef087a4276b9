"""Large frames, from one socket through the worker's pipe into the other.

A walk that meets a data frame of LARGE_MIN or more leaves FLOW_LARGE, and from then on passes are
tried before reads.  At a frame boundary a pass looks at the next header where it lies (MSG_PEEK) and
walks it as any other, so every rule is judged before a byte is taken.  What is no large data frame, or
breaks a rule, stays where it is, ends FLOW_LARGE, and is for an ordinary read.

A pass takes no more than the sink's socket has room for and may pend for it, one frame after the
other, and empties the pipe before it returns: what the socket does not take after all is written
as what was read is.  So all sessions of a worker share one pipe, and none finds another's bytes.
"""


cdef uint32_t _room(const Conn* sink) noexcept nogil:
    """Bytes that this side's socket takes now, about; 0 where the kernel does not say."""
    cdef uint32_t info[SK_MEMINFO_VARS]
    cdef socklen_t size = sizeof(info)
    if getsockopt(sink.fd, SOL_SOCKET, SO_MEMINFO, info, &size) < 0 or size < sizeof(info):
        return 0
    if info[SK_MEMINFO_WMEM_QUEUED] >= info[SK_MEMINFO_SNDBUF]:
        return 0
    return info[SK_MEMINFO_SNDBUF] - info[SK_MEMINFO_WMEM_QUEUED]


cdef uint32_t _most(const Session* session, const Conn* sink) noexcept nogil:
    """Bytes of a pass: what the socket takes, so that even if it takes but half the rest may pend."""
    cdef uint64_t room = _room(sink)
    cdef uint64_t most = session.policy.buffered_max
    most += room // 2 if room // 2 < BUFFERED_MORE else BUFFERED_MORE
    if most > room:
        most = room
    return <uint32_t>most if most < LARGE_BYTES else LARGE_BYTES


cdef void _failed(Flow* flow, Conn* source) noexcept nogil:
    """Note what errno says of the source, as conn_recv does."""
    if errno == EINVAL or errno == ENOSYS or errno == EPERM or errno == ENOMEM:
        flow.flags &= ~FLOW_LARGE  # it says so of the call, not of the connection
        return
    source.flags &= ~FLAG_READABLE
    if errno != EAGAIN:
        source.flags |= FLAG_BROKEN


cdef uint32_t _frame_begins(
    Worker* worker, Session* session, Flow* flow, Conn* source, Conn* sink, uint8_t* head,
    uint32_t room,
) noexcept nogil:
    """Walk the header that comes next, without taking it, when it is a large frame's.

    Returns its bytes; 0 when there is no such header now, as the flags say, or too little room.
    """
    cdef FrameHeader header
    cdef Walked walked
    cdef ssize_t got
    while True:
        got = recv(source.fd, head, FRAME_HEADER_MAX, MSG_PEEK)
        if got >= 0 or errno != EINTR:
            break
    if got < 0:
        _failed(flow, source)
        return 0
    if got and room < LARGE_MIN:
        return 0
    if (
        frame_parse_header(head, <size_t>got, &header) > 0
        and header.opcode < FRAME_CLOSE and header.length >= LARGE_MIN
    ):
        walk(worker, session, flow, sink, head, header.header_len, &walked)
        if walked.violation == 0:
            BUG_ON_HOT(walked.ready != header.header_len)
            return header.header_len
    flow.flags &= ~FLOW_LARGE
    return 0


cdef uint32_t _take(
    Worker* worker, Flow* flow, Conn* source, uint64_t size, bint first
) noexcept nogil:
    """Take up to `size` bytes from the source into the pipe.

    `first`: the pipe is empty, and nothing is known to be there.
    """
    cdef ssize_t got
    while True:
        got = splice(
            source.fd, NULL, worker.pipe[1], NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK
        )
        if got > 0:
            return <uint32_t>got
        if got == 0:
            flow.flags &= ~FLOW_LARGE  # its end, which a read has to see
            return 0
        if errno == EINTR:
            continue
        # A pipe that holds something may be full: EAGAIN says nothing of the source then.
        if first or errno != EAGAIN:
            _failed(flow, source)
        return 0


cdef int _empty(Worker* worker, Session* session, Conn* sink, uint32_t left) noexcept nogil:
    """Write the bytes left in the pipe, or drop them when the sink has failed.

    Returns 1 or the sink's error.
    """
    cdef uint8_t* data = worker.scratch + HEADROOM
    cdef ssize_t got
    cdef int result = 1
    while left:
        got = read(worker.pipe[0], data, left if left < SCRATCH_BYTES else SCRATCH_BYTES)
        if got < 0 and errno == EINTR:
            continue
        BUG_ON(got <= 0)
        left -= <uint32_t>got
        if result > 0 and not sink.flags & FLAG_BROKEN:
            result = session_write(session, sink, data, <uint32_t>got)
    return result


cdef int _put(Worker* worker, Session* session, Conn* sink, uint32_t size) noexcept nogil:
    """Empty the pipe of its `size` bytes, into the sink's socket.  Returns 1 or the sink's error."""
    cdef ssize_t put
    cdef int result = 1
    while True:
        put = splice(
            worker.pipe[0], NULL, sink.fd, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK
        )
        if put >= 0 or errno != EINTR:
            break
    if nx_likely(put == size):
        nx_bump(&worker.counters.bytes_spliced, size)
        return 1
    if put > 0:
        nx_bump(&worker.counters.bytes_spliced, <uint64_t>put)
        size -= <uint32_t>put
    elif put < 0 and errno != EAGAIN:
        result = -errno
        sink.flags = (sink.flags | FLAG_BROKEN) & ~FLAG_WRITABLE
    # Writing the rest makes sure that the kernel knows of it, and will tell when there is room.
    if _empty(worker, session, sink, size) < 0 and result > 0:
        return -EPIPE
    return result


cdef ssize_t large_pass(
    Worker* worker, Session* session, Flow* flow, Conn* source, Conn* sink
) noexcept nogil:
    cdef uint8_t head[FRAME_HEADER_MAX]
    cdef uint32_t most = _most(session, sink)
    cdef uint32_t taken = 0
    cdef uint32_t head_len = 0
    cdef uint32_t got = 0
    cdef uint64_t want
    cdef bint data_seen = flow.frame_left > FRAME_CONTROL_MAX
    cdef int result = 1
    if most < LARGE_MIN:
        return LARGE_NOT
    while True:
        head_len = 0
        if flow.frame_left == 0:
            head_len = _frame_begins(worker, session, flow, source, sink, head, most - taken)
            if head_len == 0:
                break
        want = head_len + flow.frame_left
        if want > most - taken:
            want = most - taken
        got = _take(worker, flow, source, want, taken == 0 and head_len == 0)
        taken += got
        if got < head_len:
            break
        flow.frame_left -= got - head_len
        if got < want or taken == most:
            break
    if taken:
        if data_seen:  # what began in this pass was noted as its header was walked
            flow.data_ms = worker.now_ms
        result = _put(worker, session, sink, taken)
    if nx_unlikely(got < head_len):  # the pipe was full within a header that is walked already
        result = _head_follows(session, source, sink, head + got, head_len - got, result)
        taken += head_len - got
    if result < 0:
        return result
    if taken:
        return taken
    return 0 if flow.flags & FLOW_LARGE else LARGE_NOT


cdef int _head_follows(
    Session* session, Conn* source, Conn* sink, const uint8_t* rest, uint32_t size, int result
) noexcept nogil:
    """Take the rest of a header from the source, where it was seen, and write it.

    Returns `result`, or the sink's error.
    """
    cdef uint8_t taken[FRAME_HEADER_MAX]
    cdef ssize_t got
    while True:
        got = recv(source.fd, taken, size, 0)
        if got >= 0 or errno != EINTR:
            break
    BUG_ON_HOT(got >= 0 and got != size)
    if got != size:
        source.flags = (source.flags | FLAG_BROKEN) & ~FLAG_READABLE
    if result < 0 or sink.flags & FLAG_BROKEN:
        return result
    return session_write(session, sink, rest, size)
