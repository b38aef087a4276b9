"""Parameters in queries, bodies and headers: bytes in, `access_token` or `ticket` out."""

from dataplane._core cimport *
from dataplane._sys cimport *

cdef enum:
    PARAM_VALUE_MAX = 8192  # encoded bytes of a value that is decoded; a longer one is given as it is
    PARAM_NAME_MAX = 16  # bytes of a name that is looked for
    BOUNDARY_MAX = 70  # bytes of a multipart body's boundary, RFC 2046 §5.1.1

# The values of this name in a query or form: how many there are (2: or more), and the first in
# `found`, decoded into out[0:PARAM_VALUE_MAX].
cdef int form_value(
    const uint8_t* form, uint32_t size, const char* name, uint8_t* out, Span* found
) noexcept nogil
# Take every `access_token` out of a form, in place.  Returns the bytes left.
cdef uint32_t form_hide_token(uint8_t* form, uint32_t size) noexcept nogil
# Whether a `name=value` has this name, however it is escaped.
cdef bint param_is(const uint8_t* part, uint32_t size, const char* name) noexcept nogil
# The `access_token` of a JSON object, if it is a string without escapes.  Returns how many there are.
cdef int json_token(const uint8_t* text, uint32_t size, Span* token) noexcept nogil
# The part `access_token` of a multipart/form-data body.  Returns how many there are.
cdef int multipart_token(
    const uint8_t* text, uint32_t size, const Span* boundary, Span* token
) noexcept nogil
# A parameter of a header such as Content-Type, without its quotes; size 0 when it has none.
cdef void header_param(
    const uint8_t* value, uint32_t size, const char* name, Span* found
) noexcept nogil


cdef inline const char* token_param() noexcept nogil:
    return b"access_token"


cdef inline const char* ticket_param() noexcept nogil:
    return b"ticket"
