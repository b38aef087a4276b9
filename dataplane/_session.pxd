"""A session's two sides: which is which, what was counted of them, and the record it leaves."""

from dataplane._core cimport *
from dataplane._frame cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *

cdef enum:
    # What may be pending for a side over the policy's buffered_max: what came behind a head, before
    # the session stood, and small frames, ours or held back.
    BUFFERED_MORE = INPUT_BYTES_MAX + 1024

cdef enum EndedBy:
    BY_GATEWAY = 0
    BY_CLIENT = 1
    BY_UPSTREAM = 2

# Take what the policy says over into the flows; the session stands from now on.
cdef void session_begin(Worker* worker, Session* session) noexcept nogil
# Count a Close that goes to a side, and remember its code for the record.
cdef void session_note_close(Worker* worker, Session* session, Conn* sink, int code) noexcept nogil
# Both sockets are done: leave the close record and give the session back.
cdef void session_free(Worker* worker, Session* session) noexcept nogil


cdef inline Flow* flow_from(Session* session, const Conn* source) noexcept nogil:
    return &session.up if source == session.client else &session.down


cdef inline Conn* session_other(Session* session, const Conn* conn) noexcept nogil:
    return session.upstream if conn == session.client else session.client


cdef inline uint16_t session_due(const Session* session, const Conn* sink) noexcept nogil:
    """The code of our Close that is due to this side; 0: none."""
    return session.due_client if sink == session.client else session.due_upstream


cdef inline bint flow_at_boundary(const Flow* flow) noexcept nogil:
    """Whether a frame of ours may go to the sink now."""
    return (flow.frame_left == 0 and flow.seen == 0) or (flow.flags & FLOW_CHUNKED) != 0


cdef inline int session_write(
    Session* session, Conn* sink, const uint8_t* data, uint32_t size
) noexcept nogil:
    """As conn_write.  How much may be pending is kept by not reading, see `_pump`."""
    return conn_write_most(sink, data, size, session.policy.buffered_max + BUFFERED_MORE)


cdef inline bint session_has_room(const Session* session, const Conn* sink) noexcept nogil:
    """Whether a whole read more may be pending for this side, or nothing is ever sent to it again."""
    cdef uint32_t pending = buffer_size(&sink.output)
    return (
        nx_likely(pending == 0)
        or pending + SCRATCH_BYTES <= session.policy.buffered_max
        or sink.flags & FLAG_BROKEN
    )
