"""One request as far as it is known: what admission fills in and what is composed from it."""

from dataplane._core cimport *
from dataplane._http cimport *
from dataplane._sys cimport *
from dataplane._tokens cimport Claims

cdef enum TokenSource:
    SOURCE_NONE = 0
    SOURCE_HEADER  # `Bearer t`, `token t` or the bare value
    SOURCE_QUERY
    SOURCE_FORM  # of a body
    SOURCE_JSON  # likewise
    SOURCE_MULTIPART  # likewise
    SOURCE_PROTOCOL  # Sec-WebSocket-Protocol; from here on: never goes on to the upstream
    SOURCE_TICKET  # `token` is then the ticket
    SOURCE_COOKIE

cdef struct Visit:
    # Valid for this turn: it points into the head and the tables.
    const uint8_t* head
    HttpRequest http
    Span host  # lower case, no port
    Span path  # normalised
    Span token
    Span body  # when it is here whole; else empty
    Policy* policy  # not held yet
    Principal* principal  # NULL: nobody, as without the oauth2 plugin
    const Claims* claims  # NULL for an anonymous consumer
    uint32_t prefix_len
    int16_t token_field  # index of the field that carried the token, or -1
    uint8_t source  # TokenSource
    uint8_t in_form  # the body is a form that the token may be in, and is to be hidden in
    uint8_t trusted  # the socket's peer is in TRUSTED_IPS
    uint8_t secure  # as forwarded_proto says: https
    uint8_t question  # QuestionKind when the result is STEP_PARK
    const Target* wanted  # QUESTION_NAME: whose address is asked for
    uint8_t check_passed
    uint8_t is_jwt  # the question carries the token itself
    uint8_t plugin[16]  # STEP_REQUEST: the oauth2 instance that answers
    uint8_t digest[32]


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if 65 <= byte <= 90 else byte


cdef inline bint same_name(
    const uint8_t* a, uint32_t a_size, const uint8_t* b, uint32_t b_size
) noexcept nogil:
    """Compare field names, or other ASCII, without case."""
    cdef uint32_t i
    if a_size != b_size:
        return False
    for i in range(a_size):
        if lower(a[i]) != lower(b[i]):
            return False
    return True


cdef inline const HttpField* visit_field(const Visit* visit, int kind) noexcept nogil:
    """The first field of a kind, or NULL."""
    cdef uint32_t i
    for i in range(visit.http.fields_n):
        if visit.http.fields[i].kind == kind:
            return &visit.http.fields[i]
    return NULL


cdef inline const HttpField* visit_field_named(
    const Visit* visit, const uint8_t* name, uint32_t size
) noexcept nogil:
    """The first field of this name, or NULL."""
    cdef const HttpField* field
    cdef uint32_t i
    for i in range(visit.http.fields_n):
        field = &visit.http.fields[i]
        if same_name(visit.head + field.name_off, field.name_len, name, size):
            return field
    return NULL
