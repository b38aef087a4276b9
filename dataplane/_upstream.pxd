"""The upstream's side of a handshake: connect, deliver the head, judge the answer."""

from dataplane._admission cimport *
from dataplane._core cimport *
from dataplane._forward cimport *
from dataplane._http cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *

# Compose the upstream's handshake for an admitted visit and start to deliver it.
# STEP_WAIT, STEP_ANSWER or STEP_CLOSE.
cdef int upstream_begin(Worker* worker, Conn* client, const Visit* visit) noexcept nogil
# Each returns a Step.  STEP_ESTABLISHED: `client.session` stands, leftovers are in the inputs.
cdef int upstream_event(Worker* worker, Conn* upstream) noexcept nogil
cdef int upstream_failed(Worker* worker, Conn* client, int error) noexcept nogil
# Let go of an upstream that is being connected for this client.
cdef void upstream_abandon(Worker* worker, Conn* client) noexcept nogil
