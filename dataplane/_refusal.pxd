"""Refusals that a browser's script can read: a 101, and a Close that says why.  oauth2.md §14."""

from dataplane._admission cimport *
from dataplane._carriers cimport *
from dataplane._core cimport *
from dataplane._finding cimport *
from dataplane._forward cimport AT_HEAD
from dataplane._frame cimport *
from dataplane._http cimport *
from dataplane._limits cimport *
from dataplane._sys cimport *
from dataplane._visit cimport *

cdef enum:
    REFUSALS_MAX = 1000  # at a time, of the process; over it plain HTTP

# Whether `worker.answer` is given so; it is then composed, and the client counted in
# Limits.refusals until its connection ends.
cdef bint refuse_readably(Worker* worker, Conn* client, const Visit* visit) noexcept nogil
