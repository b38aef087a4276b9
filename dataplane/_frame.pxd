"""WebSocket frames, RFC 6455 §5: header, mask, UTF-8, close codes; pure functions on bytes.

Results: `> 0` bytes, `0` more are needed (or, where a function only judges, fine), `-code` stop
with that close code.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    FRAME_HEADER_MAX = 14        # bytes
    FRAME_CONTROL_MAX = 125      # bytes of payload of a control frame
    FRAME_REASON_MAX = 123       # bytes of a close reason
    FRAME_CLOSE_MAX = 131        # bytes of a whole Close frame, masked
    FRAME_MASK_LEN = 4           # bytes
    FRAME_LENGTH_BITS_MAX = 62   # a payload has at most 2^62 bytes (S65)
    FRAME_NO_CODE = 1005         # what a Close without payload means; never on the wire
    FRAME_BROKEN = -1002         # protocol error
    FRAME_BAD_TEXT = -1007       # not UTF-8
    UTF8_BOUNDARY = 0            # the state between two characters, and at the start

cdef enum FrameOpcode:
    FRAME_CONTINUATION = 0
    FRAME_TEXT = 1
    FRAME_BINARY = 2
    FRAME_CLOSE = 8
    FRAME_PING = 9
    FRAME_PONG = 10

cdef enum FrameRsv:
    FRAME_RSV1 = 4
    FRAME_RSV2 = 2
    FRAME_RSV3 = 1

cdef struct FrameHeader:
    uint8_t opcode       # FrameOpcode
    bint fin
    uint8_t rsv          # FrameRsv bits
    bint masked
    uint8_t mask[4]      # zero when not masked
    uint64_t length      # bytes of payload
    uint8_t header_len   # bytes, 2..14
    # Invariant: the opcode is one of FrameOpcode; a control frame has fin and length <= 125.

# XORs `data` in place; `phase` is how many payload bytes came before, modulo 4 or not.
cdef void frame_unmask(uint8_t* data, size_t len, const uint8_t* mask, uint64_t phase) noexcept nogil

# Writes a Close to `out` (FRAME_CLOSE_MAX bytes).  Code 0: no payload.  A reason over
# FRAME_REASON_MAX is cut between two characters.  `mask`: NULL for none.  Returns its bytes.
cdef int frame_write_close(uint8_t* out, uint16_t code, const uint8_t* reason, size_t reason_len,
                           const uint8_t* mask) noexcept nogil

# Judges the unmasked payload of a Close; `*code` is FRAME_NO_CODE when there is none.
# Returns 0, FRAME_BROKEN or FRAME_BAD_TEXT.
cdef int frame_check_close(const uint8_t* payload, size_t len, uint16_t* code) noexcept nogil

# Goes on validating UTF-8; `*state` is UTF8_BOUNDARY at first, and must be again where text ends.
# Returns 0, or FRAME_BAD_TEXT at the first byte that no character can have there.
cdef int utf8_step(uint32_t* state, const uint8_t* data, size_t len) noexcept nogil

cdef bint frame_header_check(const FrameHeader* header) noexcept nogil


cdef inline int frame_parse_header(
    const uint8_t* data, size_t size, FrameHeader* out
) noexcept nogil:
    """Read the frame header at the start of data[0:size].  RFC 6455 §5.2.

    Borrows `data`; fills `out` only when the result is positive.
    Returns header bytes (2..14), 0 when more are needed, -1002 for a header no peer may send.
    """
    cdef uint8_t first, short_length
    cdef uint32_t header_len = 2
    cdef uint64_t length
    if size < 1:
        return 0
    first = data[0]
    # The opcodes 0, 1, 2, 8, 9, 10 are the bits of 0x0707; a control frame (8) needs FIN (0x80).
    if not (0x0707 >> (first & 0x0F)) & 1 or (first & 0x88) == 0x08:
        return FRAME_BROKEN
    if size < 2:
        return 0
    short_length = data[1] & 0x7F
    length = short_length
    if short_length > FRAME_CONTROL_MAX:
        if first & 0x08:
            return FRAME_BROKEN
        if short_length == 126:
            if size < 4:
                return 0
            length = (<uint32_t>data[2] << 8) | data[3]
            if length <= FRAME_CONTROL_MAX:
                return FRAME_BROKEN
            header_len = 4
        else:
            if size < 10:
                return 0
            length = (
                (<uint64_t>data[2] << 56) | (<uint64_t>data[3] << 48) | (<uint64_t>data[4] << 40)
                | (<uint64_t>data[5] << 32) | (<uint64_t>data[6] << 24) | (<uint64_t>data[7] << 16)
                | (<uint64_t>data[8] << 8) | data[9]
            )
            if length <= 0xFFFF or length > (<uint64_t>1 << FRAME_LENGTH_BITS_MAX):
                return FRAME_BROKEN
            header_len = 10
    if data[1] & 0x80:
        if size < header_len + FRAME_MASK_LEN:
            return 0
        memcpy(out.mask, data + header_len, FRAME_MASK_LEN)
        header_len += FRAME_MASK_LEN
        out.masked = True
    else:
        out.mask[0] = out.mask[1] = out.mask[2] = out.mask[3] = 0
        out.masked = False
    out.opcode = first & 0x0F
    out.fin = first >> 7
    out.rsv = (first >> 4) & 7
    out.length = length
    out.header_len = header_len
    return header_len


cdef inline int frame_check_role(
    const FrameHeader* header, bint from_client, bint in_message, bint rsv1_allowed
) noexcept nogil:
    """Judge a header by who sent it and what came before it.  RFC 6455 §5.1, §5.4; RFC 7692 §6.

    `in_message`: the sender's last data frame had FIN 0.  Returns 0 or -1002.
    """
    if (header.masked != 0) != (from_client != 0):
        return FRAME_BROKEN
    if header.rsv != 0 and (
        header.rsv != FRAME_RSV1 or not rsv1_allowed
        or (header.opcode != FRAME_TEXT and header.opcode != FRAME_BINARY)
    ):
        return FRAME_BROKEN
    if header.opcode < FRAME_CLOSE and (header.opcode == FRAME_CONTINUATION) != (in_message != 0):
        return FRAME_BROKEN
    return 0


cdef inline int frame_write_header(
    uint8_t* out, uint8_t opcode, bint fin, uint64_t length, const uint8_t* mask
) noexcept nogil:
    """Write a frame header to `out` (FRAME_HEADER_MAX bytes).  RFC 6455 §5.2.

    `mask`: NULL for none.  Returns its bytes (2..14).
    """
    cdef int at = 2
    cdef int shift
    out[0] = (0x80 if fin else 0) | opcode
    if length <= FRAME_CONTROL_MAX:
        out[1] = <uint8_t>length
    elif length <= 0xFFFF:
        out[1] = 126
        out[2] = <uint8_t>(length >> 8)
        out[3] = <uint8_t>length
        at = 4
    else:
        out[1] = 127
        for shift in range(8):
            out[2 + shift] = <uint8_t>(length >> (56 - 8 * shift))
        at = 10
    if mask != NULL:
        out[1] |= 0x80
        memcpy(out + at, mask, FRAME_MASK_LEN)
        at += FRAME_MASK_LEN
    return at


cdef inline bint frame_close_code_valid(uint16_t code) noexcept nogil:
    """Tell whether a peer may send this close code.  RFC 6455 §7.4 and the codes registered since."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
