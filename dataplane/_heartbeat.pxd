"""Whether a session's sides still live: Pings of ours, and every timeout of a live session."""

from dataplane._core cimport *
from dataplane._frame cimport *
from dataplane._grants cimport *
from dataplane._session cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *

cdef enum Beat:
    BEAT_ON = 0  # all is well; the session's timer is armed for the next look
    BEAT_CLIENT_LOST  # its socket failed under a Ping
    BEAT_UPSTREAM_LOST
    BEAT_CLIENT_SILENT  # no Pong, nor anything else
    BEAT_UPSTREAM_SILENT
    BEAT_CLIENT_STALLED  # took nothing for too long
    BEAT_UPSTREAM_STALLED
    BEAT_IDLE  # no data frame either way for too long
    BEAT_QUIET  # opaque: no byte either way for too long

# Look after a live session, and arm its timer for the next look.  Returns Beat.
cdef int heartbeat(Worker* worker, Session* session) noexcept nogil
# From now on the flow's sink has output pending: look in time whether it takes it.
cdef void heartbeat_pending(Worker* worker, Session* session, Flow* flow) noexcept nogil
