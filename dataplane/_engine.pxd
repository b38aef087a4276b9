"""The engine as Python code holds it."""

from dataplane._contexts cimport Context, TicketKeys, choose_by_name, server_context
from dataplane._core cimport *
from dataplane._http cimport *
from dataplane._limits cimport *
from dataplane._lines cimport *
from dataplane._refusal cimport REFUSALS_MAX
from dataplane._sys cimport *
from dataplane._tables cimport Tables
from dataplane._tokens cimport TokenCache
from dataplane._worker cimport *

cdef class Engine:
    cdef Worker** workers
    cdef Shared shared
    cdef readonly int worker_count
    cdef readonly TokenCache tokens
    cdef readonly Reclaimer reclaimer
    cdef readonly int question_fd
    cdef Tables tables
    cdef Context context
    cdef readonly TicketKeys tickets
    cdef bytes server_token
    cdef list threads
    cdef uint8_t* lines  # owned: LINES_BYTES, once needed
    cdef list unposted  # by worker: notes that found its inbox full, in their order
    cdef bint[WORKERS_MAX] unseen  # by worker: it was told something and not woken
    cdef bint offset_known
    cdef int64_t boottime_offset_ms  # of the control plane's clock to CLOCK_BOOTTIME
    cdef int64_t least_offset_ms  # of the time to CLOCK_MONOTONIC since sessions were looked through
    cdef bint _set_clock(self)
    cdef int _post(
        self, int index, uint64_t ref, uint8_t kind, uint64_t value, bytes text, bint wake=*
    ) except -1
    cdef int _wake(self, int index) except -1
    cdef int _put(
        self, int index, uint64_t ref, uint8_t kind, uint64_t value, bytes text
    ) except -1
