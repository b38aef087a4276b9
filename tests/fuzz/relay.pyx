"""Fuzzes the relay's walk of frames: cut anywhere it passes on the same bytes, counts and ends."""

include "_frame.pyx"
include "_session.pyx"
include "_walk.pyx"
include "fuzz.pxi"

cdef struct Fed:
    # One direction, fed in pieces as `_pass_on` does it, without sockets.
    Worker* worker
    Session session
    Conn client
    Conn upstream
    Flow* flow
    uint8_t* out  # owned: what went on
    size_t out_len
    int violation
    uint8_t held[256]


cdef enum Kind:  # bits of an input's byte
    FROM_UPSTREAM = 1
    COMPRESSED = 2  # permessage-deflate was negotiated
    CHECKED = 4  # text is checked
    PINGED = 8  # a Ping of ours waits for its Pong
    OPAQUE = 16


cdef void feed_init(Fed* fed, Worker* worker, uint8_t kind, size_t size) noexcept nogil:
    memset(fed, 0, sizeof(Fed))
    fed.worker = worker
    fed.session.client = &fed.client
    fed.session.upstream = &fed.upstream
    fed.session.up.flags = FLOW_MASKED
    fed.flow = &fed.session.down if kind & FROM_UPSTREAM else &fed.session.up
    fed.flow.message_max = 1048576
    fed.out = <uint8_t*>malloc(size * 16 + 64)  # each byte may become a fragment of its own
    if kind & COMPRESSED:
        fed.flow.flags |= FLOW_RSV1
    if kind & PINGED:
        fed.flow.flags |= FLOW_PINGED
        memcpy(fed.flow.ping, b"pingping", 8)
    if kind & OPAQUE:
        fed.flow.flags |= FLOW_OPAQUE
    elif kind & CHECKED:
        fed.flow.flags |= FLOW_CHECKED


cdef void feed(Fed* fed, const uint8_t* data, size_t size, Conn* sink) noexcept nogil:
    """One read: what was held goes in front, what is not whole is held again."""
    cdef size_t held = fed.flow.held
    cdef uint8_t* piece = <uint8_t*>malloc(held + size)
    cdef uint32_t at = 0
    cdef uint32_t left = <uint32_t>(held + size)
    cdef Walked found
    memcpy(piece, fed.held, held)
    memcpy(piece + held, data, size)
    fed.flow.held = 0
    while left:
        walk(fed.worker, &fed.session, fed.flow, sink, piece + at, left, &found)
        expect(found.ready + found.dropped <= left, b"what goes on lies in what came")
        expect(found.violation <= 0, b"a violation is minus a close code")
        expect(found.head_len <= HEADROOM, b"there is room for a header of ours")
        memcpy(fed.out + fed.out_len, found.head, found.head_len)
        fed.out_len += found.head_len
        memcpy(fed.out + fed.out_len, piece + at, found.ready)
        fed.out_len += found.ready
        at += found.ready + found.dropped
        left -= found.ready + found.dropped
        fed.violation = found.violation
        if found.violation or fed.flow.flags & FLOW_CLOSE_SEEN or not found.again:
            break
        expect(found.ready + found.dropped > 0, b"each walk gets on")
    if not over(fed):
        expect(left < FRAME_CLOSE_MAX, b"less than a Close is held")
        expect(left == 0 or fed.flow.frame_left == 0, b"payload is passed on")
        fed.flow.held = <uint8_t>left
        memcpy(fed.held, piece + at, left)
    free(piece)


cdef bint over(const Fed* fed) noexcept nogil:
    return fed.violation != 0 or fed.flow.flags & FLOW_CLOSE_SEEN


cdef size_t clear_payload(Fed* fed, bint masked, uint8_t* out) noexcept nogil:
    """What went on, read as its receiver does: the payload of all data frames."""
    cdef FrameHeader header
    cdef bint in_message = False
    cdef uint32_t state = UTF8_BOUNDARY
    cdef bint text = False
    cdef size_t at = 0
    cdef size_t size = 0
    cdef size_t some
    while at < fed.out_len:
        expect(
            frame_parse_header(fed.out + at, fed.out_len - at, &header) > 0
            and frame_check_role(&header, masked, in_message, True) == 0,
            b"what goes on are whole headers of frames",
        )
        at += header.header_len
        some = header.length if header.length < fed.out_len - at else fed.out_len - at
        if header.opcode < FRAME_CLOSE:
            memcpy(out + size, fed.out + at, some)
            if masked:
                frame_unmask(out + size, some, header.mask, 0)
            if header.opcode != FRAME_CONTINUATION:
                text = header.opcode == FRAME_TEXT and header.rsv == 0
                state = UTF8_BOUNDARY
            if text:
                expect(some == header.length, b"checked text goes on in whole frames")
                expect(utf8_step(&state, out + size, some) == 0, b"checked text is UTF-8")
                expect(not header.fin or state == UTF8_BOUNDARY, b"to its end")
            size += some
            in_message = not header.fin
        at += some
    return size


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef Fed once, pieces
    cdef Worker* worker
    cdef Conn* sink
    cdef Cuts cuts
    cdef size_t at = 0
    cdef size_t more, plain
    cdef uint8_t* clear
    cdef uint8_t kind
    if size <= SEED_BYTES + 1:
        return 0
    cuts = cuts_of(data)
    kind = data[SEED_BYTES]
    data += SEED_BYTES + 1
    size -= SEED_BYTES + 1
    worker = <Worker*>calloc(1, sizeof(Worker))
    feed_init(&once, worker, kind, size)
    feed_init(&pieces, worker, kind, size)
    sink = &once.client if kind & FROM_UPSTREAM else &once.upstream
    feed(&once, data, size, sink)
    sink = &pieces.client if kind & FROM_UPSTREAM else &pieces.upstream
    while at < size and not over(&pieces):
        more = cut(&cuts, size - at)
        feed(&pieces, data + at, more, sink)
        at += more
    expect(once.violation == pieces.violation, b"the same violation")
    # A text frame that turns out bad is counted where its beginning had gone on by then.
    if once.violation != FRAME_BAD_TEXT:
        expect(once.flow.flags == pieces.flow.flags, b"the same state")
        expect(once.flow.messages == pieces.flow.messages, b"as many messages")
        expect(once.flow.bytes == pieces.flow.bytes, b"as many bytes")
        expect(once.flow.message_bytes == pieces.flow.message_bytes, b"the same message in hand")
        expect(once.flow.close_code == pieces.flow.close_code, b"the same close code")
    if not once.violation:
        expect(once.flow.frame_left == pieces.flow.frame_left, b"the same frame in hand")
        expect(once.flow.held == pieces.flow.held, b"as much held")
    if kind & OPAQUE or not kind & CHECKED:
        expect(
            once.out_len == pieces.out_len and memcmp(once.out, pieces.out, once.out_len) == 0,
            b"the same bytes go on",
        )
    else:
        clear = <uint8_t*>malloc(2 * size + 1)
        more = clear_payload(&once, not kind & FROM_UPSTREAM, clear)
        plain = clear_payload(&pieces, not kind & FROM_UPSTREAM, clear + more)
        # Of a frame that turns out bad, what was checked before may have gone on.
        expect(more == plain or (more < plain and once.violation), b"as much payload goes on")
        expect(memcmp(clear, clear + more, more) == 0, b"the same payload goes on")
        free(clear)
    expect(once.flow.message_bytes <= once.flow.message_max, b"no message is over its bound")
    free(once.out)
    free(pieces.out)
    free(worker)
    return 0
