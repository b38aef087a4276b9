"""The client's side of a handshake: read its head, judge it, ask what must be asked."""

from dataplane._admission cimport *
from dataplane._core cimport *
from dataplane._http cimport *
from dataplane._refusal cimport refuse_readably
from dataplane._sys cimport *
from dataplane._tls cimport *
from dataplane._upstream cimport upstream_begin
from dataplane._visit cimport *

# Each returns a Step.
cdef int handshake_read(Worker* worker, Conn* client) noexcept nogil
cdef int handshake_read_body(Worker* worker, Conn* client) noexcept nogil
cdef int handshake_resume(Worker* worker, Conn* client, int verdict) noexcept nogil
# What became of the client's ticket: `verdict`, and the digest of its token (32 bytes) or NULL.
cdef int handshake_redeemed(
    Worker* worker, Conn* client, int verdict, const uint8_t* digest
) noexcept nogil
# What is said where there is no room even for a request of its own.
cdef const char* full_answer() noexcept nogil
# The same to an address that has too many connections, or handshakes.
cdef const char* busy_answer() noexcept nogil
