"""Fuzzes what browsers put their tokens in: subprotocols over two fields, cookies, base64url."""

include "_carriers.pyx"
include "fuzz.pxi"


cdef const char* alphabet() noexcept nogil:
    return b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


cdef void well_formed(const Span* element) noexcept nogil:
    expect(element.size != 0, b"no element is empty")
    expect(memchr(element.data, 44, element.size) == NULL, b"no element has a comma in it")
    expect(
        not _is_space(element.data[0]) and not _is_space(element.data[element.size - 1]),
        b"no element has white space around it",
    )


cdef uint32_t all_theirs(const ProtocolRules* rules, const uint8_t* text, uint32_t size) noexcept nogil:
    """How many elements these are, none of which carries anything."""
    cdef ProtocolWalk walk
    cdef uint32_t at = 0
    cdef uint32_t count = 0
    memset(&walk, 0, sizeof(walk))
    while protocol_next(&walk, rules, text, size, &at):
        expect(walk.kind == PROTOCOL_THEIRS, b"what goes on carries nothing")
        count += 1
    return count


cdef void protocols_of(
    const ProtocolRules* rules, const uint8_t* data, uint32_t size, uint32_t first
) noexcept nogil:
    """One list in two fields: data[0:first] and the rest."""
    cdef ProtocolWalk walk, offered, put_walk
    cdef Offer offer
    cdef Writer out
    cdef uint32_t kinds[5]
    cdef uint32_t part, at, length, i
    cdef uint32_t written
    cdef uint8_t* field
    memset(&walk, 0, sizeof(walk))
    memset(&offered, 0, sizeof(offered))
    memset(&put_walk, 0, sizeof(put_walk))
    memset(&offer, 0, sizeof(offer))
    memset(kinds, 0, sizeof(kinds))
    written = 0
    for i in range(2):
        part = 0 if i == 0 else first
        length = first if i == 0 else size - first
        field = copied(data + part, length)
        at = 0
        while protocol_next(&walk, rules, field, length, &at):
            well_formed(&walk.element)
            kinds[walk.kind] += 1
        expect(at == length, b"a field is walked to its end")
        offer_add(&offer, &offered, rules, field, length)
        out.data = <uint8_t*>malloc(2 * length + 1)
        out.size = out.full = 0
        out.capacity = 2 * length
        part = protocols_put(&out, &put_walk, rules, field, length)
        expect(not out.full, b"no more goes on than came")
        expect(all_theirs(rules, out.data, out.size) == part, b"each element goes on as it is")
        written += part
        free(out.data)
        free(field)
    expect(written == kinds[<int>PROTOCOL_THEIRS], b"all that is theirs goes on")
    expect(offer.theirs == kinds[<int>PROTOCOL_THEIRS], b"an offer counts theirs")
    expect(offer.tickets == kinds[<int>PROTOCOL_TICKET], b"an offer counts tickets")
    expect(
        offer.tokens == kinds[<int>PROTOCOL_TOKEN] + kinds[<int>PROTOCOL_ENCODED], b"an offer counts tokens"
    )


cdef void cookies_of(const uint8_t* data, uint32_t size, const Span* name) noexcept nogil:
    cdef uint8_t* field = copied(data, size)
    cdef Span found
    cdef Writer out
    cdef uint32_t count = cookie_find(field, size, name, &found)
    if count:
        expect(field <= found.data and found.data + found.size <= field + size, b"a value is inside")
    out.data = <uint8_t*>malloc(size + 1)
    out.size = out.full = 0
    out.capacity = size
    cookies_put(&out, field, size, name)
    expect(not out.full, b"cookies that stay are no longer than all")
    expect(cookie_find(out.data, out.size, name, &found) == 0, b"none of the name stays")
    free(out.data)
    free(field)


cdef void base64url_of(const uint8_t* data, uint32_t size) noexcept nogil:
    """What is decoded is what encodes to the text, and to no other."""
    cdef uint8_t* text = copied(data, size)
    cdef uint8_t* out = <uint8_t*>malloc(size + 1)
    cdef int got = base64url_decode(text, size, out)
    cdef uint32_t bits, i, j
    if got >= 0:
        expect(<uint32_t>got == size * 3 // 4, b"three bytes are four characters")
        for i in range(size):
            bits = 0
            for j in range(6):
                bits <<= 1
                if (6 * i + j) // 8 < <uint32_t>got:
                    bits |= out[(6 * i + j) // 8] >> (7 - (6 * i + j) % 8) & 1
            expect(<uint8_t>alphabet()[bits] == text[i], b"it is the one encoding")
    free(out)
    free(text)


cdef public int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) noexcept nogil:
    cdef ProtocolRules rules
    cdef Span prefix
    cdef uint32_t left
    if size < 2 or size > 8192:
        return 0
    prefix.data = <const uint8_t*>b"a."
    prefix.size = 2 if data[0] & 4 else 0
    rules.prefix = &prefix
    rules.tokens = data[0] & 1
    rules.tickets = (data[0] >> 1) & 1
    left = <uint32_t>size - 2
    protocols_of(&rules, data + 2, left, data[1] if data[1] < left else left)
    prefix.data = <const uint8_t*>b"tok"
    prefix.size = 3
    cookies_of(data + 2, left, &prefix)
    base64url_of(data + 2, left)
    return 0
