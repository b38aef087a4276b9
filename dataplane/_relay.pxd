"""An established WebSocket: frames both ways, and every way it can end."""

from dataplane._core cimport *
from dataplane._frame cimport *
from dataplane._heartbeat cimport *
from dataplane._large cimport *
from dataplane._session cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *
from dataplane._walk cimport *

cdef enum:
    CLOSE_MS = 5000  # from the first Close to the end of both sockets
    BOUNDARY_MS = 1000  # for a frame half sent to be completed before a Close of ours
    HEAR_OUT_MS = 2000  # for the innocent side to finish before the violator hears its code

# The session stands: pass on what came in behind the heads, and from then on what comes.
cdef void relay_begin(Worker* worker, Session* session) noexcept nogil
# The flags of `conn` were set from its event: read, write, end.
cdef void relay_event(Worker* worker, Conn* conn) noexcept nogil
cdef void relay_timer(Worker* worker, Conn* conn) noexcept nogil
# End a session of ours: a Close with these codes to the sides (0: none), then a bounded wait.
cdef void relay_end(
    Worker* worker, Session* session, const char* why, int client_code, int upstream_code,
    int ended_by,
) noexcept nogil
# Cut both sides at once.
cdef void relay_cut(Worker* worker, Session* session) noexcept nogil
