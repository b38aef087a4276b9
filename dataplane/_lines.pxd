"""Records as JSON log lines, made in C: at thousands of handshakes a second a line must cost 1 µs."""

from dataplane._core cimport *
from dataplane._sys cimport *

cdef enum:
    LINE_BYTES_MAX = 1024  # of one line, its LF too

# One line into `out`; `ts`: an ISO 8601 time.  `out.full` is set when it did not fit.
cdef void line_put(Writer* out, const Record* record, const Span* ts) noexcept nogil
