"""Whether a handshake's Origin is among those that a policy allows.  RFC 6455 §10.2."""

from dataplane._core cimport *
from dataplane._sys cimport *

# `listed`: entries each ended by LF, as `dataplane.sessions` prepares them.
cdef bint origin_listed(
    const Span* listed, const uint8_t* origin, uint32_t size
) noexcept nogil
