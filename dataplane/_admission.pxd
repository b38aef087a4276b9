"""Who may: from a parsed head to a policy, a principal and a verdict, without a byte sent."""

from dataplane._balance cimport *
from dataplane._core cimport *
from dataplane._endpoints cimport *
from dataplane._finding cimport *
from dataplane._http cimport *
from dataplane._origin cimport origin_listed
from dataplane._params cimport *
from dataplane._limits cimport *
from dataplane._sys cimport *
from dataplane._tables cimport *
from dataplane._tokens cimport *
from dataplane._visit cimport *

# Route, TLS policy, handshake, token: in this order.  Returns STEP_ADMITTED, STEP_REQUEST (for the
# issuer), STEP_PARK, STEP_BODY or STEP_ANSWER with `worker.answer` filled.
cdef int admit(Worker* worker, Conn* client, Visit* visit, int verdict) noexcept nogil
# What is wrong with a WebSocket handshake (RFC 6455 §4.2), and the status for that; NULL: nothing.
cdef const char* handshake_fault(const Visit* visit, int* status) noexcept nogil
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

