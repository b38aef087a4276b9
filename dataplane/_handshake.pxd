"""A WebSocket handshake from the client's head to the 101: one state machine."""

from dataplane._admission cimport *
from dataplane._core cimport *
from dataplane._forward cimport *
from dataplane._http cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *

# Each returns a Step.  STEP_ESTABLISHED: `client.session` stands, leftovers are in the inputs.
cdef int handshake_read(Worker* worker, Conn* client) noexcept nogil
cdef int handshake_resume(Worker* worker, Conn* client, int verdict) noexcept nogil
cdef int upstream_event(Worker* worker, Conn* upstream) noexcept nogil
cdef int upstream_failed(Worker* worker, Conn* client, int error) noexcept nogil
# Let go of an upstream that is being connected for this client.
cdef void upstream_abandon(Worker* worker, Conn* client) noexcept nogil
