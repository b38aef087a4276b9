"""Heads to the upstream and back: routing-and-proxy.md §3 (path), §7 and §8 (fields)."""

from dataplane._admission cimport *
from dataplane._carriers cimport *
from dataplane._core cimport *
from dataplane._finding cimport *
from dataplane._http cimport *
from dataplane._params cimport *
from dataplane._sys cimport *
from dataplane._visit cimport *

cdef enum:
    AT_HEAD = 65536  # where in Worker.compose heads are put together, to its end

# The head for the upstream, into Worker.compose + AT_HEAD.  Returns its bytes or CORE_FULL.
cdef int forward_request(
    Worker* worker, Conn* client, const Visit* visit, const Request* request
) noexcept nogil
# The 101 for the client, likewise.
cdef int forward_switching(
    Worker* worker, const uint8_t* head, const HttpResponse* http, const Request* request
) noexcept nogil
# An upstream's answer for the client, likewise.  What follows is as request.answer_left and
# answer_coded say; `keep`: the client's connection goes on behind it.
cdef int forward_answer(
    Worker* worker, const uint8_t* head, const HttpResponse* http, const Request* request,
    bint keep,
) noexcept nogil
# An interim answer of an upstream, likewise.
cdef int forward_interim(
    Worker* worker, const uint8_t* head, const HttpResponse* http
) noexcept nogil
# Whether the body of the message at the start of `input` is there: 1 (decoded, request.body_have
# bytes behind the head), 0, CORE_FULL when it is over `most` bytes, or -1 when it is malformed.
cdef int body_whole(
    Buffer* input, uint32_t head_len, Request* request, uint32_t most
) noexcept nogil
# The path and query of the upstream's request line.
cdef void forward_path(Writer* out, const Visit* visit) noexcept nogil
