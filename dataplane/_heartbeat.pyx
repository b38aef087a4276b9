"""Pings and timeouts of a live session.  routing-and-proxy.md §12.6.

A session has one timer, the client's.  Bytes that pass only leave the time in a field (heard_ms,
data_ms, taken_ms); when the timer fires, `heartbeat` looks at the fields and arms it for the
earliest moment at which one of them could matter.  So a busy session costs one look an interval.
Whatever is due may come up to a 32nd of its time late: `_together`.

A side is pinged when nothing came from it for ping_interval_ms, at a frame boundary of its stream,
unless output is pending for it (then the stall timeout judges it) or it owes the other side a Pong:
a peer may answer only the last of two Pings, and theirs comes first.  Any byte shows that it lives.
"""

cdef enum:
    RETRY_MS = 1000  # a Ping was due inside a frame: look again
    PING_BYTES = 8  # of payload


cdef inline void _by(uint64_t* next_ms, uint64_t at_ms) noexcept nogil:
    if at_ms < next_ms[0]:
        next_ms[0] = at_ms


cdef inline uint64_t _later(uint64_t a, uint64_t b) noexcept nogil:
    return a if a > b else b


cdef inline uint64_t _together(uint64_t now_ms, uint64_t at_ms) noexcept nogil:
    """At most a 32nd of the wait later, at a time that all sessions share: then a turn of the loop
    serves many of them, where each had one of its own."""
    cdef uint64_t late = at_ms - now_ms if at_ms > now_ms else 0
    late >>= 5
    late |= late >> 1
    late |= late >> 2
    late |= late >> 4
    late |= late >> 8
    late |= late >> 16
    return at_ms | late >> 1


cdef inline uint32_t _queued(const Conn* conn) noexcept nogil:
    """Bytes that the kernel holds for this side and that have not arrived there, plus one."""
    cdef int bytes = 0
    ioctl(conn.fd, SIOCOUTQ, &bytes)
    return <uint32_t>bytes + 1


cdef inline uint64_t _heard(const Flow* flow) noexcept nogil:
    return flow.heard_ms if flow.heard_ms else flow.pinged_ms


cdef void heartbeat_pending(Worker* worker, Session* session, Flow* flow) noexcept nogil:
    cdef Timer* timer = &session.client.timer
    cdef uint64_t look_ms = worker.now_ms + session.policy.stall_timeout_ms // 2
    flow.taken_ms = worker.now_ms
    flow.queued = 0
    if not session.ending and (timer.prev == NULL or timer.deadline_ms > look_ms):
        wheel_arm(&worker.wheel, timer, look_ms)


cdef bint _stalled(
    Worker* worker, Session* session, Flow* flow, Conn* sink, uint64_t* next_ms
) noexcept nogil:
    """Whether a side with output pending has taken nothing for too long.

    A slow one may take from the kernel for minutes before that has room for more of ours: half way
    through the kernel is asked how much it still has, and at the end whether that is as much.
    """
    cdef uint32_t stall_ms = session.policy.stall_timeout_ms
    cdef uint32_t queued
    if buffer_size(&sink.output) == 0 or stall_ms == 0:
        return False
    if worker.now_ms < flow.taken_ms + stall_ms // 2:
        _by(next_ms, flow.taken_ms + stall_ms // 2)
        return False
    queued = _queued(sink)
    if flow.queued and queued < flow.queued:
        flow.taken_ms = worker.now_ms
        flow.queued = queued
        _by(next_ms, worker.now_ms + stall_ms // 2)
        return False
    if flow.queued and worker.now_ms >= flow.taken_ms + stall_ms:
        return True
    flow.queued = queued
    _by(next_ms, _later(flow.taken_ms + stall_ms, worker.now_ms + 1))
    return False


cdef int _send_ping(
    Worker* worker, Session* session, Flow* flow, Flow* back, Conn* side, uint64_t* next_ms
) noexcept nogil:
    """Returns 1, or -EPIPE when the socket failed."""
    cdef uint8_t frame[FRAME_HEADER_MAX + PING_BYTES]
    cdef uint8_t mask[4]
    cdef int size
    worker_mask(worker, flow.ping)
    worker_mask(worker, flow.ping + 4)
    if side == session.client:
        size = frame_write_header(frame, FRAME_PING, True, PING_BYTES, NULL)
        memcpy(frame + size, flow.ping, PING_BYTES)
    else:
        worker_mask(worker, mask)
        size = frame_write_header(frame, FRAME_PING, True, PING_BYTES, mask)
        memcpy(frame + size, flow.ping, PING_BYTES)
        frame_unmask(frame + size, PING_BYTES, mask, 0)
    flow.flags |= FLOW_PINGED
    flow.pinged_ms = worker.now_ms
    flow.heard_ms = 0
    nx_bump(&worker.counters.pings, 1)
    if session_write(session, side, frame, <uint32_t>size + PING_BYTES) < 0:
        return -EPIPE
    flow.ping_queued = _queued(side)
    if buffer_size(&side.output):  # it was empty: what the side takes counts from now
        back.taken_ms = worker.now_ms
        back.queued = 0
        if session.policy.stall_timeout_ms:
            _by(next_ms, worker.now_ms + session.policy.stall_timeout_ms // 2)
    return 1


cdef int _look_at(
    Worker* worker, Session* session, Flow* flow, Flow* back, Conn* side, uint64_t* next_ms
) noexcept nogil:
    """Ping a side if that is due.  Returns 1 while it lives, 0 when it does not, or an error."""
    cdef Policy* policy = session.policy
    cdef uint64_t due
    cdef uint32_t queued
    if policy.ping_interval_ms == 0 or (flow.flags | back.flags) & (
        FLOW_CLOSE_SEEN | FLOW_CLOSE_SENT | FLOW_ENDED | FLOW_TORN | FLOW_BLIND
    ):
        return 1
    if side.flags & FLAG_READABLE:
        flow.heard_ms = worker.now_ms  # it sent more than we read: the other side is slow
    if flow.heard_ms == 0 and policy.ping_timeout_ms:
        due = flow.pinged_ms + policy.ping_timeout_ms
        if worker.now_ms < due:
            _by(next_ms, due)
            _by(next_ms, worker.now_ms + policy.ping_interval_ms)
            return 1
        queued = _queued(side)
        if queued == 1 or queued >= flow.ping_queued:
            return 0
        # What went before the Ping is still on its way to a slow side, and gets less.
        flow.ping_queued = queued
        flow.pinged_ms = worker.now_ms
        _by(next_ms, worker.now_ms + policy.ping_timeout_ms)
        return 1
    due = _heard(flow) + policy.ping_interval_ms
    if worker.now_ms < due:
        _by(next_ms, due)
        return 1
    if flow.flags & FLOW_OWES_PONG:
        if policy.ping_timeout_ms == 0:
            _by(next_ms, worker.now_ms + RETRY_MS)
            return 1
        due = _later(due, flow.owes_ms) + policy.ping_timeout_ms
        _by(next_ms, _later(worker.now_ms + 1, due))
        return worker.now_ms < due
    if not flow_at_boundary(back) or buffer_size(&side.output):
        _by(next_ms, worker.now_ms + RETRY_MS)
        return 1
    # Its Pong may be here at once, and the next Ping is due an interval after that.
    _by(next_ms, worker.now_ms + policy.ping_interval_ms)
    if policy.ping_timeout_ms:
        _by(next_ms, worker.now_ms + policy.ping_timeout_ms)
    return _send_ping(worker, session, flow, back, side, next_ms)


cdef int _idles(Worker* worker, Session* session, uint64_t* next_ms) noexcept nogil:
    """Whether nothing came for too long: of an opaque session no byte (§11), else no data frame."""
    cdef Policy* policy = session.policy
    cdef uint64_t last_ms = _later(session.up.data_ms, session.down.data_ms)
    cdef uint32_t most_ms = policy.idle_timeout_ms
    if session.opaque:
        last_ms = _later(_heard(&session.up), _heard(&session.down))
        if most_ms == 0 or most_ms > policy.read_timeout_ms:
            most_ms = policy.read_timeout_ms
    if most_ms == 0:
        return BEAT_ON
    if worker.now_ms >= last_ms + most_ms:
        return BEAT_QUIET if session.opaque else BEAT_IDLE
    _by(next_ms, last_ms + most_ms)
    return BEAT_ON


cdef int heartbeat(Worker* worker, Session* session) noexcept nogil:
    cdef Flow* up = &session.up
    cdef Flow* down = &session.down
    cdef uint64_t next_ms = <uint64_t>-1
    cdef uint64_t due_ms = <uint64_t>-1
    cdef int idles, lives, ended
    if session.grant.ended:
        return BEAT_ON  # it stands in line to be told so
    ended = grant_due(worker, session, &due_ms)
    if ended:
        grant_end(worker, session, ended)
        return BEAT_ON
    if _stalled(worker, session, down, session.client, &next_ms):
        return BEAT_CLIENT_STALLED
    if _stalled(worker, session, up, session.upstream, &next_ms):
        return BEAT_UPSTREAM_STALLED
    idles = _idles(worker, session, &next_ms)
    if idles:
        return idles
    lives = _look_at(worker, session, up, down, session.client, &next_ms)
    if lives <= 0:
        return BEAT_CLIENT_LOST if lives else BEAT_CLIENT_SILENT
    lives = _look_at(worker, session, down, up, session.upstream, &next_ms)
    if lives <= 0:
        return BEAT_UPSTREAM_LOST if lives else BEAT_UPSTREAM_SILENT
    if next_ms != <uint64_t>-1:
        next_ms = _together(worker.now_ms, next_ms)
    _by(&next_ms, due_ms)  # to the tick: a grant ends when it says
    if next_ms != <uint64_t>-1:
        wheel_arm(&worker.wheel, &session.client.timer, next_ms)
    return BEAT_ON
