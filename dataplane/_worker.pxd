"""The loop of a worker, and the engine that owns the workers."""

from dataplane._core cimport *
from dataplane._exchange cimport *
from dataplane._handshake cimport *
from dataplane._lines cimport *
from dataplane._relay cimport *
from dataplane._sys cimport *
from dataplane._tables cimport Tables
from dataplane._tls cimport *
from dataplane._tokens cimport TokenCache

# Runs until a NOTE_STOP, or until a drain has ended.
cdef void worker_run(Worker* worker) noexcept nogil
