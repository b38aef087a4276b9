"""One direction's frames, walked in place: what may go on, what is held, what must not arrive."""

from dataplane._core cimport *
from dataplane._frame cimport *
from dataplane._session cimport *
from dataplane._sys cimport *

cdef enum:
    LARGE_MIN = 32768  # bytes of payload: such frames may be passed on without a copy, see _large

cdef struct Walked:
    # What a walk over data[0:size] found.

    uint32_t ready  # bytes from the start that go on
    uint32_t dropped  # bytes behind them that do not: read in full by us
    uint32_t head_len  # bytes of `head`
    int violation  # 0, or minus a close code: what follows must not arrive
    uint8_t again  # what follows `ready` and `dropped` is to be walked too; else it is held
    uint8_t head[14]  # a header of ours that goes in front of what is ready
    # Invariant: ready + dropped <= size; with `head_len` no frame of the source's begins in `ready`.

cdef void walk(
    Worker* worker, Session* session, Flow* flow, Conn* sink, const uint8_t* data, uint32_t size,
    Walked* out,
) noexcept nogil
