"""Tokens where browsers can put them: subprotocols, cookies.

Sec-WebSocket-Protocol is one list, however many fields it comes in (RFC 9110 §5.3).  An element
that carries a token, a ticket or our marker never goes on to the upstream, whichever carrier the
token that counted came by; so what is found and what is left out is told by the same walk.

        bearer, T, chat        T, and `bearer` can be answered      chat goes on
        base64url.bearer.authorization.k8s.io.T, chat               chat goes on
        <prefix>T              T                                    nothing goes on
        ticket.V, chat         V                                    chat goes on
"""

# --- subprotocols -----------------------------------------------------------------------------------


cdef inline bint _is_space(uint8_t byte) noexcept nogil:
    return byte == 32 or byte == 9


cdef inline bint _begins(const Span* text, const char* prefix, uint32_t size) noexcept nogil:
    return text.size >= size and memcmp(text.data, prefix, size) == 0


cdef inline void _behind(Span* value, const Span* text, uint32_t size) noexcept nogil:
    value.data = text.data + size
    value.size = text.size - size


cdef int _kind(ProtocolWalk* walk, const ProtocolRules* rules) noexcept nogil:
    """The kind of the element in hand; fills `walk.value` where it carries something."""
    cdef const Span* element = &walk.element
    cdef bint marker = element.size == 6 and memcmp(element.data, b"bearer", 6) == 0
    if rules.tokens and walk.expects and not marker:
        walk.value = element[0]
        return PROTOCOL_TOKEN
    if rules.tickets and _begins(element, b"ticket.", TICKET_PREFIX_LEN):
        _behind(&walk.value, element, TICKET_PREFIX_LEN)
        return PROTOCOL_TICKET
    if not rules.tokens:
        return PROTOCOL_THEIRS
    if marker:
        return PROTOCOL_MARKER
    if _begins(element, b"base64url.bearer.authorization.k8s.io.", ENCODED_PREFIX_LEN):
        _behind(&walk.value, element, ENCODED_PREFIX_LEN)
        return PROTOCOL_ENCODED
    if rules.prefix.size and _begins(
        element, <const char*>rules.prefix.data, rules.prefix.size
    ):
        _behind(&walk.value, element, rules.prefix.size)
        return PROTOCOL_TOKEN if walk.value.size else PROTOCOL_MARKER
    return PROTOCOL_THEIRS


cdef inline bint _is_bearer(const ProtocolWalk* walk) noexcept nogil:
    return walk.kind == PROTOCOL_MARKER and walk.element.size == 6 and (
        memcmp(walk.element.data, b"bearer", 6) == 0
    )


cdef bint protocol_next(
    ProtocolWalk* walk, const ProtocolRules* rules, const uint8_t* value, uint32_t size,
    uint32_t* at
) noexcept nogil:
    cdef uint32_t begin = at[0]
    cdef uint32_t end
    while begin < size and (_is_space(value[begin]) or value[begin] == 44):
        begin += 1
    if begin == size:
        at[0] = size
        return False
    end = begin
    while end < size and value[end] != 44:
        end += 1
    at[0] = end
    while _is_space(value[end - 1]):
        end -= 1
    walk.element.data = value + begin
    walk.element.size = end - begin
    walk.kind = <uint8_t>_kind(walk, rules)
    walk.expects = _is_bearer(walk)
    return True


cdef bint _answerable(const Span* name) noexcept nogil:
    """Whether a name may stand in our answer: a token of RFC 9110 §5.6.2."""
    cdef uint8_t byte
    cdef uint32_t i
    for i in range(name.size):
        byte = name.data[i]
        if not (
            48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122 or byte == 33
            or (35 <= byte <= 39) or byte in (42, 43, 45, 46, 94, 95, 96, 124, 126)
        ):
            return False
    return name.size != 0


cdef void offer_add(
    Offer* offer, ProtocolWalk* walk, const ProtocolRules* rules, const uint8_t* value,
    uint32_t size
) noexcept nogil:
    cdef uint32_t at = 0
    while protocol_next(walk, rules, value, size, &at):
        if walk.kind == PROTOCOL_TICKET:
            offer.tickets += 1
            if offer.tickets == 1:
                offer.ticket = walk.value
        elif walk.kind == PROTOCOL_TOKEN or walk.kind == PROTOCOL_ENCODED:
            offer.tokens += 1
            if offer.tokens == 1:
                offer.token = walk.value
                offer.encoded = walk.kind == PROTOCOL_ENCODED
        elif walk.kind == PROTOCOL_THEIRS or _is_bearer(walk):
            offer.theirs += walk.kind == PROTOCOL_THEIRS
            offer.marked |= walk.kind == PROTOCOL_MARKER
            if offer.first.size == 0 and _answerable(&walk.element):
                offer.first = walk.element


cdef uint32_t protocols_put(
    Writer* out, ProtocolWalk* walk, const ProtocolRules* rules, const uint8_t* value,
    uint32_t size
) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t count = 0
    while protocol_next(walk, rules, value, size, &at):
        if walk.kind == PROTOCOL_THEIRS:
            if count:
                put(out, b", ", 2)
            put_span(out, &walk.element)
            count += 1
    return count


# --- cookies, RFC 6265 §4.2 -------------------------------------------------------------------------


cdef uint32_t _pair(const uint8_t* value, uint32_t size) noexcept nogil:
    """Bytes up to the next `;`, or all."""
    cdef const uint8_t* end = <const uint8_t*>memchr(value, 59, size)
    return <uint32_t>(end - value) if end != NULL else size


cdef bint _is_cookie(const uint8_t* pair, uint32_t size, const Span* name, Span* found) noexcept nogil:
    """Whether `name=value` is the cookie of this name; `found` is then its value."""
    cdef uint32_t at = 0
    cdef uint32_t end
    while at < size and _is_space(pair[at]):
        at += 1
    if size - at < name.size or memcmp(pair + at, name.data, name.size) != 0:
        return False
    at += name.size
    while at < size and _is_space(pair[at]):
        at += 1
    if at == size or pair[at] != 61:
        return False
    at += 1
    end = size
    while at < end and _is_space(pair[at]):
        at += 1
    while end > at and _is_space(pair[end - 1]):
        end -= 1
    found.data = pair + at
    found.size = end - at
    return True


cdef uint32_t cookie_find(
    const uint8_t* value, uint32_t size, const Span* name, Span* found
) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t at = 0
    cdef uint32_t pair
    cdef Span one
    while at < size:
        pair = _pair(value + at, size - at)
        if _is_cookie(value + at, pair, name, &one):
            count += 1
            if count == 1:
                found[0] = one
        at += pair + 1
    return count


cdef uint32_t cookies_put(
    Writer* out, const uint8_t* value, uint32_t size, const Span* name
) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t at = 0
    cdef uint32_t pair, skip
    cdef Span one
    while at < size:
        pair = _pair(value + at, size - at)
        if not _is_cookie(value + at, pair, name, &one):
            skip = 0
            if count:
                put(out, b";", 1)
            else:
                while skip < pair and _is_space(value[at + skip]):
                    skip += 1
            if count or skip < pair:  # no `;` before the first
                put(out, value + at + skip, pair - skip)
                count += 1
        at += pair + 1
    return count


# --- base64url ----------------------------------------------------------------------------------------


cdef inline int _sextet(uint8_t byte) noexcept nogil:
    if 65 <= byte <= 90:
        return byte - 65
    if 97 <= byte <= 122:
        return byte - 71
    if 48 <= byte <= 57:
        return byte + 4
    if byte == 45:
        return 62
    return 63 if byte == 95 else -1


cdef int base64url_decode(const uint8_t* text, uint32_t size, uint8_t* out) noexcept nogil:
    cdef uint32_t bits = 0
    cdef uint32_t held = 0  # bits of `bits` that are not written yet
    cdef uint32_t to = 0
    cdef uint32_t i
    cdef int six
    if size % 4 == 1:
        return -1
    for i in range(size):
        six = _sextet(text[i])
        if six < 0:
            return -1
        bits = (bits << 6 | <uint32_t>six) & 0xFFFF
        held += 6
        if held >= 8:
            held -= 8
            out[to] = <uint8_t>(bits >> held)
            to += 1
    if bits & ((1 << held) - 1):
        return -1  # bits that stand for nothing: another text would decode the same (S04)
    return <int>to


# --- for tests ----------------------------------------------------------------------------------------

KINDS = ("theirs", "marker", "token", "encoded", "ticket")


cdef Span _span(bytes text):
    cdef Span span
    span.data = <const uint8_t*><const char*>text
    span.size = <uint32_t>len(text)
    return span


cdef bytes _text(const Span* span):
    return span.data[:span.size] if span.size else b""


cdef class _Rules:
    cdef ProtocolRules c
    cdef Span prefix
    cdef bytes text

    def __cinit__(self, bytes prefix not None, bint tokens, bint tickets):
        self.text = prefix
        self.prefix = _span(prefix)
        self.c.prefix = &self.prefix
        self.c.tokens = tokens
        self.c.tickets = tickets


def protocols(list fields, bytes prefix=b"", bint tokens=True, bint tickets=True):
    """(kind, element, what it carries) of every element of these fields."""
    cdef _Rules rules = _Rules(prefix, tokens, tickets)
    cdef ProtocolWalk walk
    cdef uint32_t at
    cdef bytes field
    cdef list found = []
    memset(&walk, 0, sizeof(walk))
    for field in fields:
        at = 0
        while protocol_next(&walk, &rules.c, _span(field).data, <uint32_t>len(field), &at):
            carries = _text(&walk.value) if walk.kind > PROTOCOL_MARKER else None
            found.append((KINDS[walk.kind], _text(&walk.element), carries))
    return found


def offer(list fields, bytes prefix=b"", bint tokens=True, bint tickets=True):
    """`offer_add` over these fields."""
    cdef _Rules rules = _Rules(prefix, tokens, tickets)
    cdef ProtocolWalk walk
    cdef Offer made
    cdef bytes field
    memset(&walk, 0, sizeof(walk))
    memset(&made, 0, sizeof(made))
    for field in fields:
        offer_add(&made, &walk, &rules.c, _span(field).data, <uint32_t>len(field))
    return {
        "token": _text(&made.token), "ticket": _text(&made.ticket), "first": _text(&made.first),
        "tokens": made.tokens, "tickets": made.tickets, "theirs": made.theirs,
        "encoded": bool(made.encoded), "marked": bool(made.marked),
    }


def left(list fields, bytes prefix=b"", bint tokens=True, bint tickets=True):
    """What `protocols_put` writes of each field; None where nothing goes on."""
    cdef _Rules rules = _Rules(prefix, tokens, tickets)
    cdef ProtocolWalk walk
    cdef Writer out
    cdef bytes field
    cdef list found = []
    memset(&walk, 0, sizeof(walk))
    for field in fields:
        room = bytearray(2 * len(field) + 1)
        out.data = room
        out.size = out.full = 0
        out.capacity = <uint32_t>len(room)
        count = protocols_put(&out, &walk, &rules.c, _span(field).data, <uint32_t>len(field))
        found.append(bytes(room[:out.size]) if count else None)
        assert not out.full
    return found


def cookie(bytes field not None, bytes name not None):
    """(how many, value of the first, the field without them or None) of a Cookie field."""
    cdef Span name_span = _span(name)
    cdef Span found
    cdef Writer out
    room = bytearray(len(field) + 1)
    out.data = room
    out.size = out.full = 0
    out.capacity = <uint32_t>len(room)
    found.size = 0
    n = cookie_find(_span(field).data, <uint32_t>len(field), &name_span, &found)
    count = cookies_put(&out, _span(field).data, <uint32_t>len(field), &name_span)
    assert not out.full
    return n, _text(&found), bytes(room[:out.size]) if count else None


def decode(bytes text not None):
    """`base64url_decode`; None for what is none."""
    room = bytearray(len(text) + 1)
    cdef uint8_t* out = room
    cdef int size = base64url_decode(_span(text).data, <uint32_t>len(text), out)
    return None if size < 0 else bytes(room[:size])
