"""The loop of a worker."""

from dataplane._core cimport *
from dataplane._exchange cimport *
from dataplane._follow cimport *
from dataplane._handshake cimport *
from dataplane._limits cimport *
from dataplane._parting cimport *
from dataplane._pool cimport *
from dataplane._proxy cimport *
from dataplane._relay cimport *
from dataplane._session cimport *
from dataplane._sys cimport *
from dataplane._tls cimport *
from dataplane._upstream cimport *

# Runs until a NOTE_STOP; on the way out everything is cut, with its records written.
cdef void worker_run(Worker* worker) noexcept nogil
# Level-triggered: a listener with more to accept says so again.  Returns 1 or -errno.
cdef int watch_listener(Worker* worker, Conn* listener) noexcept nogil
