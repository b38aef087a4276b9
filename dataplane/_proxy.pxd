"""What an upstream answers, and the bodies both ways: one exchange, streamed."""

from dataplane._admission cimport *
from dataplane._core cimport *
from dataplane._forward cimport *
from dataplane._http cimport *
from dataplane._pool cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *
from dataplane._upstream cimport *

cdef enum:
    INTERIM_MAX = 16  # 1xx answers before the answer
    REFUSAL_BYTES_MAX = 1048576  # of the body of an upstream's refusal of a ws or wss handshake
    PENDING_MAX = 135168  # bytes of an answer that the client has not taken: its head and one read
    BODY_GAP_MS = 60000  # between bytes of a request's body
    GONE_MS = 2000  # a client that ended its side, for an answer to begin

# Each returns a Step for the client.
cdef int proxy_event(Worker* worker, Conn* upstream) noexcept nogil
# The client's socket has something, or takes something.
cdef int proxy_go(Worker* worker, Conn* client) noexcept nogil
# The timer of the client or of its upstream fired.
cdef int proxy_timer(Worker* worker, Conn* conn) noexcept nogil
