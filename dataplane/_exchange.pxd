"""One HTTP/1.1 request and its answer: our own answers, and requests for the token endpoint."""

from dataplane._admission cimport *
from dataplane._core cimport *
from dataplane._forward cimport AT_HEAD, body_whole
from dataplane._http cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *

cdef enum:
    TOKEN_BODY_MAX = 65536  # bytes; over it 413, unread
    SKIP_BYTES_MAX = 65536  # of a body nobody reads, to keep its connection
    BODY_MS = 10000  # for the body of a token request to arrive
    LINGER_MS = 2000  # for the peer to end after our last byte
    REFUSED_MS = 2000  # all of it, for a client that is refused by a Close
    LINGER_BYTES_MAX = 1048576  # read and dropped meanwhile

# Send `worker.answer` to a request; then the connection is kept (STEP_WAIT with state HEAD), or
# lingers, or is to be closed (STEP_CLOSE).
cdef int exchange_answer(Worker* worker, Conn* client) noexcept nogil
# Send what is composed, a 101 and a Close, and linger for REFUSED_MS at the most.
cdef int exchange_close(Worker* worker, Conn* client) noexcept nogil
# An upstream's answer is on its way to the client whole: keep the connection, or linger.
cdef int exchange_done(Worker* worker, Conn* client) noexcept nogil
# An error of the token endpoint: JSON and never stored, whatever the client asks for (S30).
cdef int exchange_refuse(
    Worker* worker, Conn* client, int status, const char* message, const char* why
) noexcept nogil
cdef int exchange_unavailable(Worker* worker, Conn* client, const char* why) noexcept nogil
# A token request: its head is at the start of the input.  Returns a Step.
cdef int exchange_begin(Worker* worker, Conn* client) noexcept nogil
cdef int exchange_read(Worker* worker, Conn* client) noexcept nogil
# The issuer's response: head without its last empty line, then the body.  Returns a Step.
cdef int exchange_respond(
    Worker* worker, Conn* client, const uint8_t* text, uint32_t size, uint32_t head_len
) noexcept nogil
# Our last byte is out, or on its way: read and drop until the peer ends, within bounds.
cdef int linger(Worker* worker, Conn* conn) noexcept nogil
cdef int linger_read(Worker* worker, Conn* conn) noexcept nogil
