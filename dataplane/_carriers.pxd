"""Tokens where browsers can put them: subprotocols, cookies.  Bytes in, offsets out; pure.

spec/oauth2.md §14.
"""

from dataplane._core cimport *
from dataplane._sys cimport *

cdef enum:
    ENCODED_PREFIX_LEN = 38  # of `base64url.bearer.authorization.k8s.io.`
    TICKET_PREFIX_LEN = 7  # of `ticket.`

cdef enum ProtocolKind:
    # What one element of Sec-WebSocket-Protocol is to us.
    PROTOCOL_THEIRS = 0  # the ends' own: it goes on
    PROTOCOL_MARKER  # `bearer`, or the prefix with nothing behind it
    PROTOCOL_TOKEN
    PROTOCOL_ENCODED  # a token in base64url
    PROTOCOL_TICKET

cdef struct ProtocolRules:
    # Which elements carry something, as a policy says.

    const Span* prefix  # borrowed; empty: none is configured
    uint8_t tokens  # the carrier `subprotocol` is listed
    uint8_t tickets  # `ticket` is

cdef struct ProtocolWalk:
    # Over the elements of all Sec-WebSocket-Protocol fields in order; all zero to start.

    Span element  # in hand: without the white space around it, never empty
    Span value  # of PROTOCOL_TOKEN, _ENCODED, _TICKET: what it carries
    uint8_t kind  # ProtocolKind of the element
    uint8_t expects  # the element before was `bearer`

cdef struct Offer:
    # What a client's subprotocols hold; all zero to start.

    Span token  # the first
    Span ticket
    Span first  # of those that carry nothing and can be answered with; empty: there is none
    uint32_t tokens
    uint32_t tickets
    uint32_t theirs  # that go on
    uint8_t encoded  # `token` is base64url
    uint8_t marked  # `bearer` was offered

# The next element of a field's value from `at` on, with its kind.  False at the end.
cdef bint protocol_next(
    ProtocolWalk* walk, const ProtocolRules* rules, const uint8_t* value, uint32_t size,
    uint32_t* at
) noexcept nogil
# Add what one field holds; `walk` goes on from field to field.
cdef void offer_add(
    Offer* offer, ProtocolWalk* walk, const ProtocolRules* rules, const uint8_t* value,
    uint32_t size
) noexcept nogil
# Write the elements of one field that go on, comma between.  Returns how many there were.
cdef uint32_t protocols_put(
    Writer* out, ProtocolWalk* walk, const ProtocolRules* rules, const uint8_t* value,
    uint32_t size
) noexcept nogil

# The cookies of this name in one Cookie field: how many, and the value of the first.
cdef uint32_t cookie_find(
    const uint8_t* value, uint32_t size, const Span* name, Span* found
) noexcept nogil
# Write the others as they stand.  Returns how many there were.
cdef uint32_t cookies_put(
    Writer* out, const uint8_t* value, uint32_t size, const Span* name
) noexcept nogil

# Decode canonical base64url without padding (RFC 4648 §5) into out[0:size].  Returns its bytes, or
# -1 for what is none.
cdef int base64url_decode(const uint8_t* text, uint32_t size, uint8_t* out) noexcept nogil
