"""Who may: from a parsed head to a policy, a principal and a verdict, without a byte sent."""

from dataplane._core cimport *
from dataplane._endpoints cimport *
from dataplane._http cimport *
from dataplane._origin cimport origin_listed
from dataplane._params cimport *
from dataplane._limits cimport *
from dataplane._sys cimport *
from dataplane._tables cimport *
from dataplane._tokens cimport *

cdef enum:
    TOKEN_BYTES_MAX = 8192  # longer tokens are refused unread (S10)
    TOKEN_SEARCH_MAX = 65536  # bytes of a body that is looked through for a token

cdef enum TokenSource:
    SOURCE_NONE = 0
    SOURCE_HEADER  # `Bearer t`, `token t` or the bare value
    SOURCE_QUERY
    SOURCE_FORM  # of a body
    SOURCE_JSON  # likewise

cdef struct Visit:
    # One request as far as it is known; valid for this turn: it points into the head and the tables.
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
    uint8_t check_passed
    uint8_t is_jwt  # the question carries the token itself
    uint8_t plugin[16]  # STEP_REQUEST: the oauth2 instance that answers
    uint8_t digest[32]

# Route, TLS policy, handshake, token: in this order.  Returns STEP_ADMITTED, STEP_REQUEST (for the
# issuer), STEP_PARK, STEP_BODY or STEP_ANSWER with `worker.answer` filled.
cdef int admit(Worker* worker, Conn* client, Visit* visit, int verdict) noexcept nogil
# Count a session in, in total and for its consumer, before its upstream is asked: until the request
# is dropped, or its session ended.  STEP_ADMITTED or STEP_ANSWER.
cdef int reserve_session(Worker* worker, Request* request, const Visit* visit) noexcept nogil
# What still holds right before our 101: expiry, revocation, the credential.
cdef bint still_admitted(Worker* worker, const Request* request) noexcept nogil
# Whether a session may still begin on the policy of the request, likewise.  STEP_ADMITTED, or
# STEP_ANSWER with `worker.answer` filled.
cdef int still_routed(Worker* worker, const Request* request) noexcept nogil
# Fill `worker.answer.type_wanted` and `head_only` from what the request asks for.
cdef void negotiate(Worker* worker, const Visit* visit) noexcept nogil
cdef double worker_realtime(const Worker* worker) noexcept nogil
cdef int answer(Worker* worker, int status, const char* message, const char* why) noexcept nogil
cdef int answer_full(Worker* worker, const char* why) noexcept nogil  # 503, with Retry-After
cdef int answer_engine(Worker* worker, int status, const char* message, const char* why) noexcept nogil


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
