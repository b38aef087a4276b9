"""A WebSocket handshake from the client's head to the 101: one state machine."""

from dataplane._core cimport *
from dataplane._http cimport HttpRequest, HttpResponse
from dataplane._sys cimport *

cdef enum:
    HANDSHAKE_SECONDS = 10  # from the first byte of a head to its last; also the TLS handshake
    KEEPALIVE_SECONDS = 60  # a client connection without a request in hand
    PARK_SECONDS = 5  # a question out: answers.py has its own, shorter bounds
    TOKEN_BYTES_MAX = 8192  # longer tokens are refused unread (S10)
    ATTEMPTS_MAX = 32  # upstream connects for one handshake, whatever `retries` says

# Each returns a Step.
cdef int handshake_read(Worker* worker, Conn* client) noexcept nogil
cdef int handshake_resume(Worker* worker, Conn* client, int verdict) noexcept nogil
cdef int upstream_event(Worker* worker, Conn* upstream) noexcept nogil
cdef int upstream_failed(Worker* worker, Conn* client, int error) noexcept nogil
cdef void handshake_abandon(Worker* worker, Conn* client) noexcept nogil
cdef Request* request_begin(Worker* worker, Conn* client) noexcept nogil
