"""Fuzzes the relay's walk of frames: cut anywhere it passes on the same bytes, counts and ends."""

include "_frame.pyx"
include "_relay.pyx"
include "fuzz.pxi"

cdef struct Walked:
    # One direction, fed in pieces as `_pass_on` does it, without sockets.
    Worker* worker
    Session session
    Conn client
    Conn upstream
    Flow* flow
    size_t passed  # bytes that went on
    int violation
    uint8_t held[256]


cdef void walk_init(Walked* walked, Worker* worker, uint8_t kind) noexcept nogil:
    """Bits of `kind`: 1: from the upstream; 2: with permessage-deflate."""
    memset(walked, 0, sizeof(Walked))
    walked.worker = worker
    walked.session.client = &walked.client
    walked.session.upstream = &walked.upstream
    walked.session.up.flags = FLOW_MASKED
    walked.flow = &walked.session.down if kind & 1 else &walked.session.up
    if kind & 2:
        walked.flow.flags |= FLOW_RSV1


cdef void feed(Walked* walked, const uint8_t* data, size_t size, Conn* sink) noexcept nogil:
    """One read: what was held goes in front, what is not whole is held again."""
    cdef size_t held = walked.flow.held
    cdef uint8_t* piece = <uint8_t*>malloc(held + size)
    cdef int64_t ready
    memcpy(piece, walked.held, held)
    memcpy(piece + held, data, size)
    walked.flow.held = 0
    ready = _walk(
        walked.worker, &walked.session, walked.flow, sink, piece, <uint32_t>(held + size),
        &walked.violation,
    )
    expect(0 <= ready <= <int64_t>(held + size), b"what goes on lies in what came")
    expect(walked.violation <= 0, b"a violation is minus a close code")
    expect(walked.flow.frame_left == 0 or ready == <int64_t>(held + size), b"a frame is passed on")
    if not walked.violation and not walked.flow.flags & FLOW_CLOSE_SEEN:
        expect(held + size - ready < FRAME_CLOSE_MAX, b"less than a Close is held")
        walked.flow.held = <uint8_t>(held + size - ready)
        memcpy(walked.held, piece + ready, walked.flow.held)
    walked.passed += ready
    free(piece)


cdef bint over(const Walked* walked) noexcept nogil:
    return walked.violation != 0 or walked.flow.flags & FLOW_CLOSE_SEEN


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef Walked once, pieces
    cdef Worker* worker
    cdef Conn* sink
    cdef Cuts cuts
    cdef size_t at = 0
    cdef size_t more
    cdef uint8_t kind
    if size <= SEED_BYTES + 1:
        return 0
    cuts = cuts_of(data)
    kind = data[SEED_BYTES]
    data += SEED_BYTES + 1
    size -= SEED_BYTES + 1
    worker = <Worker*>calloc(1, sizeof(Worker))
    walk_init(&once, worker, kind)
    walk_init(&pieces, worker, kind)
    sink = &once.client if kind & 1 else &once.upstream
    feed(&once, data, size, sink)
    sink = &pieces.client if kind & 1 else &pieces.upstream
    while at < size and not over(&pieces):
        more = cut(&cuts, size - at)
        feed(&pieces, data + at, more, sink)
        at += more
    expect(once.violation == pieces.violation, b"the same violation")
    expect(once.passed == pieces.passed, b"the same bytes go on")
    expect(once.flow.flags == pieces.flow.flags, b"the same state")
    expect(once.flow.frame_left == pieces.flow.frame_left, b"the same frame in hand")
    expect(once.flow.message_bytes == pieces.flow.message_bytes, b"the same message in hand")
    expect(once.flow.messages == pieces.flow.messages, b"as many messages")
    expect(once.flow.bytes == pieces.flow.bytes, b"as many bytes")
    expect(once.flow.close_code == pieces.flow.close_code, b"the same close code")
    expect(once.flow.held == pieces.flow.held, b"as much held")
    expect(
        once.flow.message_bytes <= (UPSTREAM_MESSAGE_MAX if kind & 1 else CLIENT_MESSAGE_MAX),
        b"no message is over its bound",
    )
    free(worker)
    return 0
