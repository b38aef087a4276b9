"""The ends of sessions whose policy an edit or a deletion has parted from the configuration."""

from dataplane._core cimport *
from dataplane._relay cimport *
from dataplane._sys cimport *

# Policies of sessions of this worker have parted: begin to look for these sessions.
cdef void parting_begin(Worker* worker) noexcept nogil
# Once a turn while `worker.walk.under_way`: look at some connections, end what is due.
cdef void parting_go_on(Worker* worker) noexcept nogil
# How long the worker may sleep, `sleep_ms` at the most.
cdef int parting_sleep_ms(const Worker* worker, int sleep_ms) noexcept nogil
