"""Large frames of a plaintext session, moved from socket to socket without a copy."""

from dataplane._core cimport *
from dataplane._frame cimport *
from dataplane._session cimport *
from dataplane._sys cimport *
from dataplane._walk cimport *

cdef enum:
    LARGE_BYTES = 2 * 65536 + 1024  # a pass at most: two frames of 64 KiB and their headers
    LARGE_NOT = -903  # what comes now is for an ordinary read

# Move what may be moved now.  Returns bytes that were taken from the source and passed on, or
# pend; LARGE_NOT; the sink's error; or 0 when there is nothing now: FLAG_READABLE is cleared then,
# and FLAG_BROKEN set when the source failed, which it may have done behind what was passed on.
cdef ssize_t large_pass(
    Worker* worker, Session* session, Flow* flow, Conn* source, Conn* sink
) noexcept nogil


cdef inline bint large_may_pass(
    const Session* session, const Flow* flow, const Conn* source, const Conn* sink
) noexcept nogil:
    """Whether a pass may be tried: nothing of this flow is held, pending, ending or to be read."""
    return (
        source.ssl == NULL and sink.ssl == NULL
        and not flow.flags & (
            FLOW_CHECKED | FLOW_OPAQUE | FLOW_CLOSE_SEEN | FLOW_CLOSE_SENT | FLOW_ENDED | FLOW_TORN
        )
        and not session.ending
        and flow.held == 0
        and buffer_size(&sink.output) == 0
        and sink.flags & (FLAG_WRITABLE | FLAG_BROKEN | FLAG_SHUT) == FLAG_WRITABLE
    )
