"""Paths that the issuer answers rather than an upstream: spec/oauth2.md §3, §14."""

from dataplane._core cimport *
from dataplane._sys cimport *

cdef enum Endpoint:
    ENDPOINT_NONE = 0
    ENDPOINT_KONG  # token, authorize: wherever the oauth2 plugin runs
    ENDPOINT_OURS  # the others: POLICY_ENDPOINTS

# The endpoint at the end of a normalised path.
cdef int endpoint_of(const Span* path) noexcept nogil
