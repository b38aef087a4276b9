"""Where a request has its token: spec/oauth2.md §6.1, §14."""

from dataplane._carriers cimport *
from dataplane._core cimport *
from dataplane._http cimport *
from dataplane._origin cimport origin_listed
from dataplane._params cimport *
from dataplane._sys cimport *
from dataplane._visit cimport *

cdef enum:
    TOKEN_BYTES_MAX = 8192  # longer tokens are refused unread (S10)
    TOKEN_SEARCH_MAX = 65536  # bytes of a body that is looked through for a token
    AT_TOKEN = 16384  # in Worker.compose: TOKEN_BYTES_MAX bytes of a decoded token

cdef enum Finding:
    FOUND = 0  # `visit.token` and `visit.source` say what; size 0: there is none
    FOUND_BODY  # the body must be here to tell
    FOUND_AMBIGUOUS  # two of them, or one that cannot be read

cdef int find_token(Worker* worker, Visit* visit) noexcept nogil
# Which subprotocols of a client carry something, as a policy says.
cdef void protocol_rules(const Policy* policy, ProtocolRules* rules) noexcept nogil
# What the client's subprotocols hold.
cdef void read_offer(const Visit* visit, const ProtocolRules* rules, Offer* offer) noexcept nogil
