"""WebSocket frames, RFC 6455 §5: what does not fit in a header file.

Theory of operation.  A frame is judged in three steps, each as early as its bytes allow: its header
alone (frame_parse_header: what no peer may send), its header in the place where it stands
(frame_check_role: masking, reserved bits, fragments), and its payload where somebody must know it
(frame_check_close, utf8_step).  The first two run once a frame and are inline in the header file;
the relay passes masked payload on as it is, so nothing here runs once a byte unless a policy reads
the payload.

UTF-8 (RFC 3629) is validated by a machine whose state says all about the character that is open:
`need << 16 | low << 8 | high`: so many bytes are still to come and the next lies in [low, high].
Only the byte after E0, ED, F0 and F4 has a range narrower than 80..BF; that range is what keeps out
overlong forms, surrogates and what lies above U+10FFFF.  Eight ASCII bytes are passed at a time.
"""
from libc.string cimport memcpy


cdef enum:
    UTF8_ANY = 0x80BF        # the range of most continuation bytes: low << 8 | high


cdef void frame_unmask(uint8_t* data, size_t len, const uint8_t* mask, uint64_t phase) noexcept nogil:
    cdef uint8_t turned[8]
    cdef uint64_t key, word
    cdef size_t at = 0
    cdef int i
    for i in range(8):
        turned[i] = mask[(phase + <uint64_t>i) & 3]
    memcpy(&key, turned, 8)
    while len - at >= 8:
        memcpy(&word, data + at, 8)
        word ^= key
        memcpy(data + at, &word, 8)
        at += 8
    while at < len:
        data[at] ^= turned[at & 7]
        at += 1


cdef inline uint32_t utf8_lead(uint8_t byte) noexcept nogil:
    """Give the state after the first byte of a longer character, 0 when none starts so."""
    if byte < 0xC2 or byte > 0xF4:
        return 0
    if byte < 0xE0:
        return (1 << 16) | UTF8_ANY
    if byte < 0xF0:
        if byte == 0xE0:
            return (2 << 16) | 0xA0BF
        if byte == 0xED:
            return (2 << 16) | 0x809F
        return (2 << 16) | UTF8_ANY
    if byte == 0xF0:
        return (3 << 16) | 0x90BF
    if byte == 0xF4:
        return (3 << 16) | 0x808F
    return (3 << 16) | UTF8_ANY


cdef int utf8_step(uint32_t* state, const uint8_t* data, size_t len) noexcept nogil:
    cdef uint32_t now = state[0]
    cdef uint64_t word
    cdef size_t at = 0
    cdef uint8_t byte
    while at < len:
        byte = data[at]
        if now != UTF8_BOUNDARY:
            if byte < ((now >> 8) & 0xFF) or byte > (now & 0xFF):
                return FRAME_BAD_TEXT
            now >>= 16
            now = UTF8_BOUNDARY if now == 1 else ((now - 1) << 16) | UTF8_ANY
        elif byte >= 0x80:
            now = utf8_lead(byte)
            if now == 0:
                return FRAME_BAD_TEXT
        else:
            while len - at >= 8:
                memcpy(&word, data + at, 8)
                if word & <uint64_t>0x8080808080808080:
                    break
                at += 8
            if at == len or data[at] >= 0x80:
                continue
        at += 1
    state[0] = now
    return 0


cdef int frame_write_close(uint8_t* out, uint16_t code, const uint8_t* reason, size_t reason_len,
                           const uint8_t* mask) noexcept nogil:
    cdef size_t keep = 0 if code == 0 else reason_len
    cdef int header_len
    if keep > FRAME_REASON_MAX:
        keep = FRAME_REASON_MAX
        while keep > 0 and (reason[keep] & 0xC0) == 0x80:
            keep -= 1
    if code == 0:
        return frame_write_header(out, FRAME_CLOSE, True, 0, mask)
    header_len = frame_write_header(out, FRAME_CLOSE, True, keep + 2, mask)
    out[header_len] = <uint8_t>(code >> 8)
    out[header_len + 1] = <uint8_t>code
    if keep:
        memcpy(out + header_len + 2, reason, keep)
    if mask != NULL:
        frame_unmask(out + header_len, keep + 2, mask, 0)
    return header_len + 2 + <int>keep


cdef int frame_check_close(const uint8_t* payload, size_t len, uint16_t* code) noexcept nogil:
    cdef uint32_t state = UTF8_BOUNDARY
    code[0] = FRAME_NO_CODE
    if len == 0:
        return 0
    if len == 1 or len > FRAME_CONTROL_MAX:
        return FRAME_BROKEN
    code[0] = (<uint16_t>payload[0] << 8) | payload[1]
    if not frame_close_code_valid(code[0]):
        return FRAME_BROKEN
    if utf8_step(&state, payload + 2, len - 2) < 0 or state != UTF8_BOUNDARY:
        return FRAME_BAD_TEXT
    return 0


cdef bint frame_header_check(const FrameHeader* header) noexcept nogil:
    if header.opcode > FRAME_PONG or not (0x0707 >> header.opcode) & 1:
        return False
    if header.opcode >= FRAME_CLOSE and not (header.fin and header.length <= FRAME_CONTROL_MAX):
        return False
    return (
        2 <= header.header_len <= FRAME_HEADER_MAX
        and header.length <= (<uint64_t>1 << FRAME_LENGTH_BITS_MAX)
    )


class FrameError(ValueError):
    """A peer broke the protocol; `code` is the close code that it gets."""

    def __init__(self, code: int) -> None:
        super().__init__(f"frame refused with {code}")
        self.code = code


def parse_header(data: bytes) -> dict | None:
    """Read the header at the start of `data`; None when more is needed."""
    cdef FrameHeader header
    cdef const uint8_t* base = data
    cdef size_t size = len(data)
    cdef int result
    with nogil:
        result = frame_parse_header(base, size, &header)
    if result < 0:
        raise FrameError(-result)
    if result == 0:
        return None
    assert frame_header_check(&header)
    return {
        "opcode": header.opcode, "fin": bool(header.fin), "rsv": header.rsv,
        "mask": bytes(header.mask[:4]) if header.masked else None,
        "length": header.length, "header_len": header.header_len,
    }


def check_role(
    data: bytes, *, from_client: bool, in_message: bool = False, rsv1_allowed: bool = False
) -> None:
    """Judge the whole header at the start of `data` by its sender and place."""
    cdef FrameHeader header
    cdef int result = frame_parse_header(data, len(data), &header)
    if result > 0:
        result = frame_check_role(&header, from_client, in_message, rsv1_allowed)
    if result < 0:
        raise FrameError(-result)


def write_header(opcode: int, fin: bool, length: int, mask: bytes | None = None) -> bytes:
    """Write a frame header."""
    cdef uint8_t out[FRAME_HEADER_MAX]
    cdef const uint8_t* key = NULL
    if mask is not None:
        key = mask
    return out[:frame_write_header(out, opcode, fin, length, key)]


def unmask(data: bytes, mask: bytes, phase: int = 0) -> bytes:
    """Give `data` masked or unmasked, after `phase` bytes of the same payload."""
    changed = bytearray(data)
    cdef uint8_t* base = changed
    frame_unmask(base, len(changed), mask, phase)
    return bytes(changed)


def write_close(code: int, reason: bytes = b"", mask: bytes | None = None) -> bytes:
    """Write a whole Close frame; code 0 has no payload."""
    cdef uint8_t out[FRAME_CLOSE_MAX]
    cdef const uint8_t* key = NULL
    if mask is not None:
        key = mask
    return out[:frame_write_close(out, code, reason, len(reason), key)]


def check_close(payload: bytes) -> int:
    """Give the code that the payload of a Close says."""
    cdef uint16_t code
    cdef int result = frame_check_close(payload, len(payload), &code)
    if result < 0:
        raise FrameError(-result)
    return code


def close_code_valid(code: int) -> bool:
    """Tell whether a peer may send this close code."""
    return bool(frame_close_code_valid(code))


def utf8_whole(pieces: list[bytes]) -> bool:
    """Validate text that arrives in pieces; True when it ends between two characters."""
    cdef uint32_t state = UTF8_BOUNDARY
    for piece in pieces:
        if utf8_step(&state, piece, len(piece)) < 0:
            raise FrameError(-FRAME_BAD_TEXT)
    return state == UTF8_BOUNDARY
