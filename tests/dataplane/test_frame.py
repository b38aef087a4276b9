"""Frames as bytes in, values out: each rule of RFC 6455 §5 and §7 obeyed and broken."""

import random
import struct

import pytest

from dataplane import _frame
from dataplane._frame import FrameError

MASK = b"\x37\xfa\x21\x3d"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LEGAL_HEADERS = [
    b"\x81\x00",
    b"\x01\x05",
    b"\x80\x7d",
    b"\x82\x7e\x00\x7e",
    b"\x82\x7e\xff\xff",
    b"\x82\x7f" + struct.pack("!Q", 0x10000),
    b"\x82\x7f" + struct.pack("!Q", 1 << 62),
    b"\x88\x7d",
    b"\x89\x00",
    b"\x8a\x01",
    b"\xf1\x05",
]


def code_of(data: bytes) -> int:
    with pytest.raises(FrameError) as caught:
        _frame.parse_header(data)
    return caught.value.code


def role_code(data: bytes, **place: bool) -> int | None:
    try:
        _frame.check_role(data, **place)
    except FrameError as error:
        return error.code
    return None


def masked(header: bytes) -> bytes:
    return bytes([header[0], header[1] | 0x80]) + header[2:] + MASK


@pytest.mark.parametrize("plain", LEGAL_HEADERS, ids=bytes.hex)
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_header_is_read_once_its_last_byte_is_there(plain: bytes, mask: bytes | None) -> None:
    header = masked(plain) if mask else plain
    for cut in range(len(header)):
        assert _frame.parse_header(header[:cut]) is None
    read = _frame.parse_header(header + b"payload")
    assert read is not None
    assert read["header_len"] == len(header)
    assert read["mask"] == mask
    assert read["opcode"] == header[0] & 15
    assert read["fin"] is (header[0] >= 128)
    assert read["rsv"] == header[0] >> 4 & 7


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 1 << 32, 1 << 62])
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_header_written_is_the_shortest_and_reads_back(length: int, mask: bytes | None) -> None:
    header = _frame.write_header(BINARY, True, length, mask)
    assert len(header) == (2 if length < 126 else 4 if length < 65536 else 10) + (4 if mask else 0)
    assert _frame.parse_header(header) == {
        "opcode": BINARY, "fin": True, "rsv": 0, "mask": mask, "length": length,
        "header_len": len(header),
    }  # fmt: skip


def test_header_written_without_fin_is_a_fragment() -> None:
    assert _frame.write_header(TEXT, False, 3) == b"\x01\x03"


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_s63_reserved_opcode_is_refused_at_its_first_byte(opcode: int) -> None:
    assert code_of(bytes([0x80 | opcode])) == 1002
    assert code_of(bytes([opcode, 0x80])) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_s63_control_frame_without_fin_is_refused_at_its_first_byte(opcode: int) -> None:
    assert code_of(bytes([opcode])) == 1002
    assert code_of(bytes([opcode, 0x80])) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [126, 127, 254, 255])
def test_s63_control_frame_over_125_bytes_is_refused_at_its_second_byte(
    opcode: int, length: int
) -> None:
    assert _frame.parse_header(bytes([0x80 | opcode])) is None
    assert code_of(bytes([0x80 | opcode, length])) == 1002


@pytest.mark.parametrize(
    "header",
    [
        b"\x82\x7e\x00\x00",
        b"\x82\x7e\x00\x7d",
        b"\x82\x7f" + struct.pack("!Q", 0),
        b"\x82\x7f" + struct.pack("!Q", 125),
        b"\x82\x7f" + struct.pack("!Q", 65535),
    ],
    ids=bytes.hex,
)
def test_length_not_in_its_shortest_form_is_refused(header: bytes) -> None:
    for cut in range(len(header)):
        assert _frame.parse_header(header[:cut]) is None
    assert code_of(header) == 1002
    assert code_of(masked(header)) == 1002


@pytest.mark.parametrize("length", [(1 << 62) + 1, 1 << 63, (1 << 64) - 1])
def test_s65_length_over_62_bits_is_refused(length: int) -> None:
    assert code_of(b"\x82\x7f" + struct.pack("!Q", length)) == 1002


@pytest.mark.parametrize("from_client", [True, False], ids=["client", "upstream"])
def test_s62_client_masks_and_upstream_does_not(from_client: bool) -> None:
    for header in LEGAL_HEADERS:
        if header[0] & 0x70 or header[0] & 15 == CONTINUATION:
            continue
        right, wrong = (masked(header), header) if from_client else (header, masked(header))
        assert role_code(right, from_client=from_client) is None
        assert role_code(wrong, from_client=from_client) == 1002


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("allowed", [True, False], ids=["compressed", "plain"])
def test_s63_only_rsv1_on_a_first_data_frame_passes_when_compression_is_agreed(
    rsv: int, opcode: int, allowed: bool
) -> None:
    header = bytes([0x80 | rsv << 4 | opcode, 0])
    legal = allowed and rsv == 4 and opcode in (TEXT, BINARY)
    place = {"from_client": False, "in_message": opcode == CONTINUATION, "rsv1_allowed": allowed}
    assert role_code(header, **place) == (None if legal else 1002)


@pytest.mark.parametrize(
    ("opcode", "in_message", "code"),
    [
        (CONTINUATION, True, None), (CONTINUATION, False, 1002),
        (TEXT, False, None), (TEXT, True, 1002), (BINARY, False, None), (BINARY, True, 1002),
        (PING, True, None), (PONG, True, None), (CLOSE, True, None), (PING, False, None),
    ],
)  # fmt: skip
def test_s63_fragments_come_in_order_and_control_frames_between_them(
    opcode: int, in_message: bool, code: int | None
) -> None:
    header = bytes([0x80 | opcode, 0])
    assert role_code(header, from_client=False, in_message=in_message) == code


@pytest.mark.parametrize("length", range(0, 40))
def test_unmask_gives_the_payload_wherever_it_is_cut(length: int) -> None:
    payload = bytes(range(100, 100 + length))
    hidden = bytes(b ^ MASK[i % 4] for i, b in enumerate(payload))
    for cut in range(length + 1):
        first, rest = hidden[:cut], hidden[cut:]
        assert _frame.unmask(first, MASK) + _frame.unmask(rest, MASK, cut) == payload


def test_unmask_takes_a_phase_over_32_bits() -> None:
    assert _frame.unmask(b"\x00\x00", b"abcd", (1 << 40) + 3) == b"da"


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]
)
def test_close_code_that_a_peer_may_send(code: int) -> None:
    assert _frame.close_code_valid(code)
    assert _frame.check_close(struct.pack("!H", code) + "grüße".encode()) == code


def test_s63_close_code_that_no_peer_may_send_gets_1002() -> None:
    """Of all 65,536; what 1012 to 1014 mean was registered after the RFC."""
    legal = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in range(65536):
        assert _frame.close_code_valid(code) == (code in legal), code
        if code not in legal:
            with pytest.raises(FrameError) as caught:
                _frame.check_close(struct.pack("!H", code))
            assert caught.value.code == 1002


def test_close_without_payload_has_no_code() -> None:
    assert _frame.check_close(b"") == 1005


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x03", 1002),
        (b"\x03\xe8" + b"x" * 124, 1002),
        (b"\x03\xe8\xff", 1007),
        (b"\x03\xe8" + "€".encode()[:2], 1007),
    ],
)
def test_close_payload_broken_gets_its_code(payload: bytes, code: int) -> None:
    with pytest.raises(FrameError) as caught:
        _frame.check_close(payload)
    assert caught.value.code == code


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize("reason", [b"", b"bye", b"x" * 123])
def test_close_written_reads_back(reason: bytes, mask: bytes | None) -> None:
    frame = _frame.write_close(4401, reason, mask)
    header = _frame.parse_header(frame)
    assert header is not None
    assert (header["opcode"], header["fin"], header["mask"]) == (CLOSE, True, mask)
    payload = frame[header["header_len"] :]
    assert len(payload) == header["length"]
    payload = _frame.unmask(payload, mask) if mask else payload
    assert _frame.check_close(payload) == 4401
    assert payload[2:] == reason


@pytest.mark.parametrize("before", range(115, 125))
@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_close_reason_too_long_is_cut_between_characters(before: int, character: str) -> None:
    text = "x" * before + character * 10
    payload = _frame.write_close(1000, text.encode())[2:]
    kept = payload[2:].decode()
    assert text.startswith(kept)
    assert 123 - len(character.encode()) < len(payload) - 2 <= 123


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_close_with_code_0_has_no_payload(mask: bytes | None) -> None:
    assert _frame.write_close(0, b"ignored", mask) == (b"\x88\x80" + MASK if mask else b"\x88\x00")


def test_every_character_is_valid_text_cut_at_every_byte() -> None:
    step = 97  # a sample of the million, and every edge between two lengths and ranges
    edges = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFE, 0xFFFF, 0x10000, 0x10FFFF]
    for point in [*range(0, 0x110000, step), *edges]:
        if 0xD800 <= point <= 0xDFFF:
            continue
        data = chr(point).encode()
        assert _frame.utf8_whole([data])
        for cut in range(1, len(data)):
            assert not _frame.utf8_whole([data[:cut]])
            assert _frame.utf8_whole([data[:cut], data[cut:]])


@pytest.mark.parametrize(
    ("text", "first_bad"),
    [
        (b"\x80", 0), (b"\xbf", 0), (b"\xc0\x80", 0), (b"\xc1\xbf", 0), (b"\xf5\x80\x80\x80", 0),
        (b"\xff", 0), (b"\xfe", 0), (b"\xe0\x9f\xbf", 1), (b"\xed\xa0\x80", 1),
        (b"\xf0\x8f\xbf\xbf", 1), (b"\xf4\x90\x80\x80", 1), (b"\xc3\x28", 1),
        (b"\xe2\x82\x28", 2), (b"\xf0\x9f\x98\x28", 3), (b"abcdefgh\xc3a", 9),
        (b"0123456789abcdef\x80", 16),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_text_that_is_not_utf8_gets_1007_at_its_first_bad_byte(text: bytes, first_bad: int) -> None:
    _frame.utf8_whole([text[:first_bad]])
    for cut in range(first_bad + 1):
        with pytest.raises(FrameError) as caught:
            _frame.utf8_whole([text[:cut], text[cut : first_bad + 1]])
        assert caught.value.code == 1007


def test_text_is_judged_as_python_judges_it() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    alphabet = [b"a", b"plain ascii text, ", "é".encode(), "€".encode(), "😀".encode(), b"\xed"]
    for _ in range(3000):
        data = bytearray(b"".join(chance.choices(alphabet, k=chance.randrange(12))))
        if data and chance.random() < 0.5:
            data[chance.randrange(len(data))] = chance.randrange(256)
        text = bytes(data)
        cut = chance.randrange(len(text) + 1)
        try:
            whole = _frame.utf8_whole([text[:cut], text[cut:]])
        except FrameError:
            whole = False
        try:
            text.decode()
            expected = True
        except UnicodeDecodeError:
            expected = False
        assert whole is expected, text
