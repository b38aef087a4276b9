"""Parameters in queries, form bodies and JSON: bytes in, `access_token` out."""

from dataplane._core cimport *
from dataplane._sys cimport *

cdef enum:
    PARAM_VALUE_MAX = 8192  # encoded bytes of a value that is decoded; a longer one is given as it is

# The `access_token` of a query or form: how many there are (2: or more), and the value of the
# first in `token`, decoded into out[0:PARAM_VALUE_MAX].
cdef int form_token(const uint8_t* form, uint32_t size, uint8_t* out, Span* token) noexcept nogil
# Take every `access_token` out of a form, in place.  Returns the bytes left.
cdef uint32_t form_hide_token(uint8_t* form, uint32_t size) noexcept nogil
# Whether a `name=value` is named access_token, however it is escaped.
cdef bint param_is_token(const uint8_t* part, uint32_t size) noexcept nogil
# The same member of a JSON object, if it is a string without escapes.  Returns how many there are.
cdef int json_token(const uint8_t* text, uint32_t size, Span* token) noexcept nogil
