"""The upstream's side of a request: connect, deliver the head, try again; from a 101 to a session."""

from dataplane._admission cimport *
from dataplane._balance cimport *
from dataplane._carriers cimport *
from dataplane._core cimport *
from dataplane._finding cimport *
from dataplane._forward cimport *
from dataplane._grants cimport *
from dataplane._http cimport *
from dataplane._pool cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *
from dataplane._visit cimport *

# Compose the head of an admitted visit for its upstream and start to deliver it.
# STEP_WAIT, STEP_ANSWER or STEP_CLOSE.
cdef int upstream_begin(Worker* worker, Conn* client, const Visit* visit) noexcept nogil
# Go on with TLS, then with the head.  Returns 1 when it is out, 0, or the error.
cdef int upstream_deliver(Worker* worker, Conn* upstream) noexcept nogil
# Nothing of an answer has gone to the client: try again, or answer.  Returns a Step.
cdef int upstream_failed(Worker* worker, Conn* client, int error) noexcept nogil
# 502.
cdef int upstream_bad(Worker* worker, const char* why) noexcept nogil
# The same for a 101 that is none, after which the client's connection ends as well.
cdef int upstream_bad_switch(Worker* worker, const char* why) noexcept nogil
# The upstream's 101, whose head starts data[0:size].  STEP_ESTABLISHED: `client.session` stands and
# what came behind the heads is in the inputs; else STEP_ANSWER or STEP_CLOSE.
cdef int upstream_switch(
    Worker* worker, Conn* upstream, Conn* client, const uint8_t* data, uint32_t size,
    const HttpResponse* http,
) noexcept nogil
# Let go of the upstream that has this client's request.
cdef void upstream_abandon(Worker* worker, Conn* client) noexcept nogil
