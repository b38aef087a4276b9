"""A compiled snapshot as workers read it: the route matcher and the principals.

Published by one pointer swap and read-only from then on; `Tables` owns the memory.
"""

from dataplane._policies cimport *

cdef enum:
    QUERY_FIELDS_MAX = 128  # header fields of one RouteQuery
    TABLES_METHODS_MAX = 64  # different methods in the routes of one snapshot
    TABLES_PROBES_MAX = 32  # slots looked at for one key; a table that needs more is made larger
    ROUTE_PATH_MAX = 8192  # of a route's path: a longer request line is refused anyway
    TABLES_CANDIDATES_MAX = 1 << 18  # pairs of a route's host and path, of all: compiled in 1 s

cdef struct RouteQuery:
    Span host  # borrowed, as all spans here; lower case, without port
    uint16_t port  # Host's port, else the listener's
    Span method  # upper case, as sent
    Span path  # normalised, without query
    Span* names  # header fields in order; only filled when the tables want them
    Span* values
    uint32_t fields_n  # <= QUERY_FIELDS_MAX

cdef struct RouteMatch:
    Policy* policy  # borrowed from the tables; policy_hold keeps it longer
    uint32_t prefix_len  # bytes of path matched by the route's path; 0 when it has none

cdef struct VirtualRoute:
    # A route, or its paths of one length.  Its index in TableSet.routes is its rank: 0 wins.

    Policy* policy
    uint64_t methods  # bits of TableSet.methods; 0: any
    uint32_t prefix_len
    uint32_t conditions_first  # in TableSet.conditions
    uint32_t conditions_n

cdef struct Condition:
    # One header of a route: any of these pairs.

    uint32_t pairs_first  # in TableSet.condition_pairs
    uint32_t pairs_n

cdef struct Candidate:
    # One way into a virtual route: by one of its hosts and one of its paths.

    uint32_t rank  # index of the virtual route
    uint32_t wild  # 1 + index in TableSet.wilds, or 0
    uint32_t port  # that the host asks for; 0: any

cdef struct Bucket:
    # The candidates of one (plain host or "", path prefix or "").

    const uint8_t* prefix
    uint32_t prefix_len
    uint32_t host  # index in TableSet.hosts
    uint32_t first  # in TableSet.candidates, by rank
    uint32_t count

cdef struct Length:
    uint32_t bytes  # of path prefixes that are there for this host
    uint32_t rank  # the best of those routes

cdef struct HostEntry:
    Span name  # index 0: "", for routes without a plain host
    uint32_t lengths_first  # in TableSet.lengths, shortest first
    uint32_t lengths_n

cdef struct Wild:
    Span text  # ".x" of "*.x", or "x." of "x.*"
    uint8_t is_suffix

cdef struct Pair:
    Span value  # of a header, lower case
    uint32_t name  # index in TableSet.names

cdef struct Document:
    # Metadata of an oauth2 instance, which the issuer answers whatever the routes say.

    Span host  # lower case, without port
    Span path  # normalised
    uint8_t plugin[16]

cdef struct Slot:
    uint32_t tag  # upper half of the key's hash
    uint32_t item  # 1 + index in the array behind; 0: free

cdef struct Index:
    # Open addressing over an array; a lookup ends at a free slot or after TABLES_PROBES_MAX.

    Slot* slots  # owned
    uint32_t mask
    # Invariant: mask + 1 is a power of two; every item is within TABLES_PROBES_MAX of its start.

cdef struct TableSet:
    uint64_t version
    bint wants_fields  # some route looks at header fields
    uint8_t check_key[32]  # wire.Snapshot.check_key
    uint64_t seed  # of the hashes
    uint64_t hash_mask  # all ones; tests keep fewer bits, so that keys collide
    VirtualRoute* routes  # owned, as all arrays here; by rank
    Candidate* candidates
    Bucket* buckets
    HostEntry* hosts
    Length* lengths
    Wild* wilds
    Condition* conditions
    uint32_t* condition_pairs
    Pair* pairs
    Span* names  # of headers, lower case
    Principal* principals
    Document* documents
    Span methods[64]
    uint32_t methods_n
    uint32_t routes_n
    uint32_t candidates_n
    uint32_t buckets_n
    uint32_t hosts_n
    uint32_t principals_n
    uint32_t documents_n
    uint32_t value_bytes_max  # of the longest Pair.value
    Index by_host
    Index by_prefix
    Index by_name
    Index by_pair
    Index by_credential
    Index by_document
    # Invariant: ranks ascend in a bucket and are < routes_n; nothing changes once published.

# 1, and `out` filled, for the first match in Kong's order of precedence; else 0.
cdef int tables_match(
    const TableSet* tables, const RouteQuery* query, RouteMatch* out
) noexcept nogil
# Who a credential is; NULL when the snapshot has no such credential.  `credential`: 16 bytes.
cdef Principal* tables_principal(
    const TableSet* tables, const uint8_t* credential
) noexcept nogil
# The instance whose metadata stands at this host and path, or NULL.
cdef const Document* tables_document(
    const TableSet* tables, const Span* host, const Span* path
) noexcept nogil

cdef class Tables:
    cdef TableSet* c  # owned
    cdef readonly dict boxes  # content -> PolicyBox, of every route
    cdef readonly ServerNames snis  # published beside c, or None
    cdef bytes text  # what the spans of c point into
