"""The compiled snapshot.

Routes are split into virtual routes, one for each distinct length of their paths, and ranked once
by Kong's order of precedence, so that "which route wins" is "which matching one has the lowest
rank".  Each (plain host or "", path prefix or "") has a bucket of candidates in that order.  A
request can only match candidates of the buckets (its host, p) and ("", p), p being each prefix of
its path that is as long as some route's; the hashes of all those prefixes come from one pass over
the path.  Wildcard hosts, ports, methods and headers are checked for each candidate, header fields
after each was looked up once among the (name, value) pairs that any route asks for.

Work is bounded: lengths a host has (each costs one probe), candidates of the buckets met (a few
nanoseconds each, and only those that could still win), fields times two lookups.

Ownership: `Tables` owns the arrays and texts and holds the boxes of `_policies`.  Workers see them
by pointers and within a turn only; the engine retires an old `Tables` through the Reclaimer.
"""

from operator import itemgetter

cimport cython

from dataplane._policies cimport *

PLAIN = 0  # kinds of host patterns
SUFFIX = 1  # "*.x"
PREFIX = 2  # "x.*"


# --- hashes ---------------------------------------------------------------------------------------


cdef inline uint64_t _load(const uint8_t* data) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, data, 8)
    return word


cdef inline uint64_t _step(uint64_t state, uint64_t word) noexcept nogil:
    state = (state ^ word) * 0x9E3779B97F4A7C15ULL
    return state ^ (state >> 32)


cdef inline uint64_t _finish(uint64_t state, const uint8_t* data, uint32_t size) noexcept nogil:
    """Hash of data[0:size], `state` having taken its whole words; reads no byte past `size`."""
    cdef uint64_t tail = 0
    cdef uint32_t i
    if size >= 8:
        tail = _load(data + size - 8)
    else:
        for i in range(size):
            tail |= <uint64_t>data[i] << (8 * i)
    state = _step(_step(state, tail), size) * 0xD6E8FEB86659FD93ULL
    return state ^ (state >> 29)


cdef uint64_t _hash(uint64_t seed, const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(size // 8):
        seed = _step(seed, _load(data + 8 * i))
    return _finish(seed, data, size)


cdef inline uint8_t _lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if 65 <= byte <= 90 else byte


cdef uint64_t _hash_lower(uint64_t seed, const Span* text) noexcept nogil:
    """A hash of the text in lower case; not the one that `_hash` gives."""
    cdef uint32_t i
    for i in range(text.size):
        seed = _step(seed, _lower(text.data[i]))
    return _step(seed, text.size)


cdef inline bint _same(const Span* a, const Span* b) noexcept nogil:
    return a.size == b.size and memcmp(a.data, b.data, a.size) == 0


cdef bint _same_lower(const Span* lower, const Span* text) noexcept nogil:
    cdef uint32_t i
    if lower.size != text.size:
        return False
    for i in range(text.size):
        if lower.data[i] != _lower(text.data[i]):
            return False
    return True


cdef inline uint64_t _seeded(const TableSet* tables, uint32_t number) noexcept nogil:
    """Where the hash of a prefix under host `number`, or of a value of header `number`, starts."""
    return _step(tables.seed, number)


# --- lookups --------------------------------------------------------------------------------------


cdef inline const Slot* _slot(const Index* index, uint64_t hash, uint32_t i) noexcept nogil:
    return &index.slots[(<uint32_t>hash + i) & index.mask]


cdef uint32_t host_find(const TableSet* tables, const Span* host) noexcept nogil:
    """Index of a plain host, 0 when no route names it."""
    cdef uint64_t hash = _hash(tables.seed, host.data, host.size) & tables.hash_mask
    cdef const Slot* slot
    cdef int i
    for i in range(TABLES_PROBES_MAX):
        slot = _slot(&tables.by_host, hash, i)
        if slot.item == 0:
            return 0
        if slot.tag == hash >> 32 and _same(&tables.hosts[slot.item - 1].name, host):
            return slot.item - 1
    return 0


cdef const Bucket* bucket_find(
    const TableSet* tables, uint64_t hash, uint32_t host, const uint8_t* path, uint32_t size
) noexcept nogil:
    cdef const Bucket* bucket
    cdef const Slot* slot
    cdef int i
    hash &= tables.hash_mask
    for i in range(TABLES_PROBES_MAX):
        slot = _slot(&tables.by_prefix, hash, i)
        if slot.item == 0:
            return NULL
        if slot.tag != hash >> 32:
            continue
        bucket = &tables.buckets[slot.item - 1]
        if (
            bucket.host == host
            and bucket.prefix_len == size
            and memcmp(bucket.prefix, path, size) == 0
        ):
            return bucket
    return NULL


cdef uint32_t name_find(const TableSet* tables, const Span* name) noexcept nogil:
    """1 + index of a header name that some route looks at, else 0."""
    cdef uint64_t hash = _hash_lower(tables.seed, name) & tables.hash_mask
    cdef const Slot* slot
    cdef int i
    for i in range(TABLES_PROBES_MAX):
        slot = _slot(&tables.by_name, hash, i)
        if slot.item == 0:
            return 0
        if slot.tag == hash >> 32 and _same_lower(&tables.names[slot.item - 1], name):
            return slot.item
    return 0


cdef uint32_t pair_find(const TableSet* tables, uint32_t name, const Span* value) noexcept nogil:
    """1 + index of the pair (header, value) that some route asks for, else 0."""
    cdef uint64_t hash = _hash_lower(_seeded(tables, name), value) & tables.hash_mask
    cdef const Pair* pair
    cdef const Slot* slot
    cdef int i
    for i in range(TABLES_PROBES_MAX):
        slot = _slot(&tables.by_pair, hash, i)
        if slot.item == 0:
            return 0
        pair = &tables.pairs[slot.item - 1]
        if slot.tag == hash >> 32 and pair.name == name and _same_lower(&pair.value, value):
            return slot.item
    return 0


cdef Principal* tables_principal(
    const TableSet* tables, const uint8_t* credential
) noexcept nogil:
    cdef uint64_t hash = _hash(tables.seed, credential, 16) & tables.hash_mask
    cdef Principal* principal
    cdef const Slot* slot
    cdef int i
    for i in range(TABLES_PROBES_MAX):
        slot = _slot(&tables.by_credential, hash, i)
        if slot.item == 0:
            return NULL
        principal = &tables.principals[slot.item - 1]
        if slot.tag == hash >> 32 and memcmp(principal.credential, credential, 16) == 0:
            return principal
    return NULL


cdef uint64_t _hash_document(const TableSet* tables, const Span* host, const Span* path) noexcept nogil:
    cdef uint64_t of_host = _hash(tables.seed, host.data, host.size)
    return _hash(of_host, path.data, path.size) & tables.hash_mask


cdef const Document* tables_document(
    const TableSet* tables, const Span* host, const Span* path
) noexcept nogil:
    cdef uint64_t hash = _hash_document(tables, host, path)
    cdef const Document* document
    cdef const Slot* slot
    cdef int i
    for i in range(TABLES_PROBES_MAX):
        slot = _slot(&tables.by_document, hash, i)
        if slot.item == 0:
            return NULL
        document = &tables.documents[slot.item - 1]
        if slot.tag == hash >> 32 and _same(&document.host, host) and _same(&document.path, path):
            return document
    return NULL


# --- matching -------------------------------------------------------------------------------------


cdef struct Wanted:
    # A query as candidates are checked against it.

    const RouteQuery* query
    uint64_t method  # its bit, 0 when no route names it
    uint32_t pairs_n
    uint32_t pairs[128]  # indexes of the pairs that the fields have


cdef uint64_t method_bit(const TableSet* tables, const Span* method) noexcept nogil:
    cdef uint32_t i
    for i in range(tables.methods_n):  # at most TABLES_METHODS_MAX
        if _same(&tables.methods[i], method):
            return <uint64_t>1 << i
    return 0


cdef void wanted_fields(Wanted* wanted, const TableSet* tables) noexcept nogil:
    cdef const RouteQuery* query = wanted.query
    cdef uint32_t name
    cdef uint32_t pair
    cdef uint32_t i
    BUG_ON(query.fields_n > QUERY_FIELDS_MAX)
    for i in range(query.fields_n):
        name = name_find(tables, &query.names[i])
        if name == 0 or query.values[i].size > tables.value_bytes_max:
            continue
        pair = pair_find(tables, name - 1, &query.values[i])
        if pair != 0:
            wanted.pairs[wanted.pairs_n] = pair - 1
            wanted.pairs_n += 1


cdef bint condition_holds(
    const Condition* condition, const TableSet* tables, const Wanted* wanted
) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t k
    for i in range(wanted.pairs_n):
        for k in range(condition.pairs_n):
            if tables.condition_pairs[condition.pairs_first + k] == wanted.pairs[i]:
                return True
    return False


cdef inline bint wild_matches(const Wild* wild, const Span* host) noexcept nogil:
    cdef uint32_t size = wild.text.size
    if host.size < size:
        return False
    cdef uint32_t start = host.size - size if wild.is_suffix else 0
    return memcmp(host.data + start, wild.text.data, size) == 0


cdef bint candidate_matches(
    const Candidate* candidate, const TableSet* tables, const Wanted* wanted
) noexcept nogil:
    """All that the candidate's bucket does not say already."""
    cdef const VirtualRoute* route = &tables.routes[candidate.rank]
    cdef uint32_t i
    if candidate.port != 0 and candidate.port != wanted.query.port:
        return False
    if candidate.wild != 0 and not wild_matches(
        &tables.wilds[candidate.wild - 1], &wanted.query.host
    ):
        return False
    if route.methods != 0 and route.methods & wanted.method == 0:
        return False
    for i in range(route.conditions_n):
        if not condition_holds(&tables.conditions[route.conditions_first + i], tables, wanted):
            return False
    return True


cdef uint32_t bucket_best(
    const Bucket* bucket, const TableSet* tables, const Wanted* wanted, uint32_t best
) noexcept nogil:
    cdef const Candidate* candidate
    cdef uint32_t i
    for i in range(bucket.count):
        candidate = &tables.candidates[bucket.first + i]
        if candidate.rank >= best:
            break
        if candidate_matches(candidate, tables, wanted):
            return candidate.rank
    return best


cdef uint32_t host_best(
    const TableSet* tables, const Wanted* wanted, uint32_t host, uint32_t best
) noexcept nogil:
    """The best rank among the routes of one plain host ("" is host 0), if it beats `best`."""
    cdef const HostEntry* entry = &tables.hosts[host]
    cdef const Span* path = &wanted.query.path
    cdef uint64_t state = _seeded(tables, host)
    cdef const Length* length
    cdef const Bucket* bucket
    cdef uint32_t done = 0
    cdef uint32_t i
    for i in range(entry.lengths_n):  # at most ROUTE_PATH_MAX + 1
        length = &tables.lengths[entry.lengths_first + i]
        if length.bytes > path.size:
            break
        if length.rank >= best:
            continue
        while done + 8 <= length.bytes:
            state = _step(state, _load(path.data + done))
            done += 8
        bucket = bucket_find(
            tables, _finish(state, path.data, length.bytes), host, path.data, length.bytes
        )
        if bucket != NULL:
            best = bucket_best(bucket, tables, wanted, best)
    return best


cdef int tables_match(
    const TableSet* tables, const RouteQuery* query, RouteMatch* out
) noexcept nogil:
    cdef uint32_t best = tables.routes_n
    cdef uint32_t host = host_find(tables, &query.host)
    cdef Wanted wanted
    wanted.query = query
    wanted.method = method_bit(tables, &query.method)
    wanted.pairs_n = 0
    if tables.wants_fields:
        wanted_fields(&wanted, tables)
    if host != 0:
        best = host_best(tables, &wanted, host, best)
    best = host_best(tables, &wanted, 0, best)
    if best == tables.routes_n:
        return 0
    out.policy = tables.routes[best].policy
    out.prefix_len = tables.routes[best].prefix_len
    return 1


# --- building: the Python thread ------------------------------------------------------------------


cdef int index_build(Index* index, const uint64_t* hashes, uint32_t count) noexcept nogil:
    """Index items 0 to count-1 by their hashes.  Returns 1, or -ENOMEM."""
    cdef uint64_t slots = 8
    cdef int attempt
    while slots < <uint64_t>count * 2:
        slots *= 2
    for attempt in range(8):
        index.slots = <Slot*>calloc(slots, sizeof(Slot))
        if index.slots == NULL:
            return -ENOMEM
        index.mask = <uint32_t>(slots - 1)
        if index_fill(index, hashes, count):
            return 1
        free(index.slots)
        index.slots = NULL
        slots *= 2
    return -ENOMEM  # more than TABLES_PROBES_MAX equal hashes under a random seed: does not happen


cdef bint index_fill(Index* index, const uint64_t* hashes, uint32_t count) noexcept nogil:
    """Whether all items found a slot within TABLES_PROBES_MAX of their start."""
    cdef Slot* slot
    cdef uint32_t item
    cdef int i
    for item in range(count):
        for i in range(TABLES_PROBES_MAX):
            slot = <Slot*>_slot(index, hashes[item], i)
            if slot.item == 0:
                slot.tag = <uint32_t>(hashes[item] >> 32)
                slot.item = item + 1
                break
        else:
            return False
    return True


cdef void tables_free(TableSet* tables) noexcept nogil:
    free(tables.routes)
    free(tables.candidates)
    free(tables.buckets)
    free(tables.hosts)
    free(tables.lengths)
    free(tables.wilds)
    free(tables.conditions)
    free(tables.condition_pairs)
    free(tables.pairs)
    free(tables.names)
    free(tables.principals)
    free(tables.documents)
    free(tables.by_host.slots)
    free(tables.by_prefix.slots)
    free(tables.by_name.slots)
    free(tables.by_pair.slots)
    free(tables.by_credential.slots)
    free(tables.by_document.slots)
    free(tables)


cdef void tables_check(const TableSet* tables) noexcept nogil:
    cdef const Bucket* bucket
    cdef uint32_t i
    cdef uint32_t k
    for i in range(tables.buckets_n):
        bucket = &tables.buckets[i]
        BUG_ON(bucket.host >= tables.hosts_n or bucket.count == 0)
        BUG_ON(bucket.first + bucket.count > tables.candidates_n)
        for k in range(bucket.count):
            BUG_ON(tables.candidates[bucket.first + k].rank >= tables.routes_n)
            BUG_ON(
                k > 0
                and tables.candidates[bucket.first + k - 1].rank
                > tables.candidates[bucket.first + k].rank
            )


@cython.final
cdef class _Texts:
    """Collects texts, equal ones once; then all lie in one bytes object."""

    cdef dict offsets
    cdef list parts
    cdef uint64_t size
    cdef bytes whole  # once joined

    def __cinit__(self):
        self.offsets = {}
        self.parts = []

    cdef int add(self, bytes text) except -1:
        if text not in self.offsets:
            self.offsets[text] = self.size
            self.parts.append(text)
            self.size += len(text)
        return 0

    cdef bytes join(self):
        self.whole = b"".join(self.parts)
        return self.whole

    cdef Span span(self, bytes text):
        cdef Span span
        span.data = <const uint8_t*><const char*>self.whole + <uint64_t>self.offsets[text]
        span.size = <uint32_t>len(text)
        return span


@cython.final
cdef class _Plan:
    """What a TableSet will hold, as Python objects: first counted, then copied into its arrays."""

    cdef list ranked  # (box, virtual route), best first
    cdef dict hosts  # plain host -> index; b"" -> 0
    cdef list lengths  # of each host: {prefix length: best rank}
    cdef dict buckets  # (host index, prefix) -> [(rank, wild, port)]
    cdef dict wilds  # (text, kind) -> 1 + index
    cdef dict methods  # method -> index
    cdef dict names  # header name -> index
    cdef dict pairs  # (name index, value) -> index
    cdef list conditions  # of all routes: lists of pair indexes
    cdef list principals
    cdef dict documents  # (host, path) -> plugin id
    cdef uint64_t candidates_n
    cdef _Texts texts

    def __cinit__(self, boxes, list principals, dict documents):
        cdef PolicyBox box
        self.texts = _Texts()
        self.hosts = {b"": 0}
        self.lengths = [{}]
        self.buckets, self.wilds, self.methods = {}, {}, {}
        self.names, self.pairs, self.conditions = {}, {}, []
        self.principals = principals
        self.documents = documents
        self.ranked = [(virtual[0], box, virtual) for box in boxes for virtual in box.virtual]
        self.ranked.sort(key=itemgetter(0))
        self.texts.add(b"")
        cdef uint32_t rank = 0
        for _, box, virtual in self.ranked:
            self.place(rank, virtual)
            rank += 1
        for table in (self.hosts, self.methods, self.names):
            for text in table:
                self.texts.add(text)
        for _, text in self.buckets:
            self.texts.add(text)
        for text, _ in self.wilds:
            self.texts.add(text)
        for _, text in self.pairs:
            self.texts.add(text)
        for _, _, text in principals:
            self.texts.add(text)
        for host, path in documents:
            self.texts.add(host)
            self.texts.add(path)
        if len(self.methods) > TABLES_METHODS_MAX:
            raise ValueError(f"the routes name more than {TABLES_METHODS_MAX} different methods")

    cdef int place(self, uint32_t rank, tuple virtual) except -1:
        """Put one virtual route where requests will look for it."""
        _, _, prefixes, hosts, methods, headers = virtual
        self.candidates_n += max(1, len(hosts)) * max(1, len(prefixes))
        if self.candidates_n > TABLES_CANDIDATES_MAX:
            raise ValueError(f"more than {TABLES_CANDIDATES_MAX} pairs of a route's host and path")
        for text, port, kind in hosts or ((b"", 0, 0),):
            wild = 0
            if kind:
                wild = self.wilds.setdefault((text, kind), len(self.wilds) + 1)
                text = b""
            host = self.hosts.setdefault(text, len(self.hosts))
            if host == len(self.lengths):
                self.lengths.append({})
            lengths = self.lengths[host]
            for prefix in prefixes or (b"",):
                lengths.setdefault(len(prefix), rank)
                self.buckets.setdefault((host, prefix), []).append((rank, wild, port))
        for method in methods:
            self.methods.setdefault(method, len(self.methods))
        for name, values in headers:
            number = self.names.setdefault(name, len(self.names))
            self.conditions.append(
                [self.pairs.setdefault((number, value), len(self.pairs)) for value in values]
            )
        return 0


cdef int build_index(TableSet* c, Index* index, uint64_t* hashes, uint32_t count) except -1:
    cdef uint32_t i
    for i in range(count):
        hashes[i] &= c.hash_mask
    if index_build(index, hashes, count) < 0:
        raise MemoryError
    return 0


cdef int fill_routes(TableSet* c, _Plan plan) except -1:
    cdef VirtualRoute* route
    cdef PolicyBox box
    cdef uint32_t conditions = 0
    c.routes = <VirtualRoute*>array_new(len(plan.ranked), sizeof(VirtualRoute))
    for _, box, virtual in plan.ranked:
        route = &c.routes[c.routes_n]
        c.routes_n += 1
        route.policy = box.c
        route.prefix_len = virtual[1]
        for method in virtual[4]:
            route.methods |= <uint64_t>1 << <int>plan.methods[method]
        route.conditions_first = conditions
        route.conditions_n = len(virtual[5])
        conditions += route.conditions_n
    for method in plan.methods:
        c.methods[c.methods_n] = plan.texts.span(method)
        c.methods_n += 1
    return 0


cdef int fill_buckets(TableSet* c, _Plan plan) except -1:
    cdef Bucket* bucket
    cdef Candidate* candidate
    cdef Span prefix
    cdef uint64_t* hashes = <uint64_t*>array_new(len(plan.buckets), sizeof(uint64_t))
    try:
        c.buckets = <Bucket*>array_new(len(plan.buckets), sizeof(Bucket))
        c.candidates = <Candidate*>array_new(plan.candidates_n, sizeof(Candidate))
        for (host, text), candidates in plan.buckets.items():
            bucket = &c.buckets[c.buckets_n]
            prefix = plan.texts.span(text)
            bucket.prefix = prefix.data
            bucket.prefix_len = prefix.size
            bucket.host = host
            bucket.first = c.candidates_n
            bucket.count = len(candidates)
            hashes[c.buckets_n] = _hash(_seeded(c, bucket.host), prefix.data, prefix.size)
            c.buckets_n += 1
            for rank, wild, port in candidates:
                candidate = &c.candidates[c.candidates_n]
                candidate.rank = rank
                candidate.wild = wild
                candidate.port = port
                c.candidates_n += 1
        build_index(c, &c.by_prefix, hashes, c.buckets_n)
    finally:
        free(hashes)
    return 0


cdef int fill_hosts(TableSet* c, _Plan plan) except -1:
    cdef HostEntry* entry
    cdef Wild* wild
    cdef uint32_t filled = 0
    cdef uint64_t* hashes = <uint64_t*>array_new(len(plan.hosts), sizeof(uint64_t))
    try:
        c.hosts = <HostEntry*>array_new(len(plan.hosts), sizeof(HostEntry))
        c.lengths = <Length*>array_new(sum(map(len, plan.lengths)), sizeof(Length))
        for text, lengths in zip(plan.hosts, plan.lengths, strict=True):
            entry = &c.hosts[c.hosts_n]
            entry.name = plan.texts.span(text)
            entry.lengths_first = filled
            entry.lengths_n = len(lengths)
            for size in sorted(lengths):
                c.lengths[filled].bytes = size
                c.lengths[filled].rank = lengths[size]
                filled += 1
            hashes[c.hosts_n] = _hash(c.seed, entry.name.data, entry.name.size)
            c.hosts_n += 1
        build_index(c, &c.by_host, hashes, c.hosts_n)
    finally:
        free(hashes)
    c.wilds = <Wild*>array_new(len(plan.wilds), sizeof(Wild))
    for (text, kind), number in plan.wilds.items():
        wild = &c.wilds[<uint32_t>number - 1]
        wild.text = plan.texts.span(text)
        wild.is_suffix = kind == SUFFIX
    return 0


cdef int fill_fields(TableSet* c, _Plan plan) except -1:
    cdef uint32_t i = 0
    cdef uint32_t filled = 0
    cdef uint64_t* hashes = <uint64_t*>array_new(
        max(len(plan.names), len(plan.pairs)), sizeof(uint64_t)
    )
    try:
        c.wants_fields = len(plan.names) > 0
        c.names = <Span*>array_new(len(plan.names), sizeof(Span))
        for text in plan.names:
            c.names[i] = plan.texts.span(text)
            hashes[i] = _hash_lower(c.seed, &c.names[i])
            i += 1
        build_index(c, &c.by_name, hashes, i)
        c.pairs = <Pair*>array_new(len(plan.pairs), sizeof(Pair))
        i = 0
        for name, text in plan.pairs:
            c.pairs[i].name = name
            c.pairs[i].value = plan.texts.span(text)
            c.value_bytes_max = max(c.value_bytes_max, c.pairs[i].value.size)
            hashes[i] = _hash_lower(_seeded(c, c.pairs[i].name), &c.pairs[i].value)
            i += 1
        build_index(c, &c.by_pair, hashes, i)
    finally:
        free(hashes)
    c.conditions = <Condition*>array_new(len(plan.conditions), sizeof(Condition))
    c.condition_pairs = <uint32_t*>array_new(sum(map(len, plan.conditions)), sizeof(uint32_t))
    i = 0
    for pairs in plan.conditions:
        c.conditions[i].pairs_first = filled
        c.conditions[i].pairs_n = len(pairs)
        i += 1
        for pair in pairs:
            c.condition_pairs[filled] = pair
            filled += 1
    return 0


cdef int fill_principals(TableSet* c, _Plan plan) except -1:
    cdef Principal* principal
    cdef uint64_t* hashes = <uint64_t*>array_new(len(plan.principals), sizeof(uint64_t))
    try:
        c.principals = <Principal*>array_new(len(plan.principals), sizeof(Principal))
        for credential, consumer, headers in plan.principals:
            principal = &c.principals[c.principals_n]
            memcpy(principal.credential, id_bytes(credential, 16, "a credential id"), 16)
            memcpy(principal.consumer, id_bytes(consumer, 16, "a consumer id"), 16)
            principal.has_credential = 1
            principal.headers = plan.texts.span(headers)
            hashes[c.principals_n] = _hash(c.seed, principal.credential, 16)
            c.principals_n += 1
        build_index(c, &c.by_credential, hashes, c.principals_n)
    finally:
        free(hashes)
    return 0


cdef int fill_documents(TableSet* c, _Plan plan) except -1:
    cdef Document* document
    cdef uint64_t* hashes = <uint64_t*>array_new(len(plan.documents), sizeof(uint64_t))
    try:
        c.documents = <Document*>array_new(len(plan.documents), sizeof(Document))
        for (host, path), plugin in plan.documents.items():
            document = &c.documents[c.documents_n]
            document.host = plan.texts.span(host)
            document.path = plan.texts.span(path)
            memcpy(document.plugin, id_bytes(plugin, 16, "a plugin id"), 16)
            hashes[c.documents_n] = _hash_document(c, &document.host, &document.path)
            c.documents_n += 1
        build_index(c, &c.by_document, hashes, c.documents_n)
    finally:
        free(hashes)
    return 0


cdef class Tables:
    """Owns one compiled snapshot.  `dataplane.compile` makes it.

    boxes: every route's PolicyBox by its content.  principals: (credential id, consumer id,
    prepared header lines) of every credential.  Raises ValueError past TABLES_METHODS_MAX and
    TABLES_CANDIDATES_MAX.  snis: what listeners show.  documents: (host, path) of metadata -> the
    plugin id.  hash_bits: fewer than 64 make keys collide, for tests.
    """

    def __cinit__(
        self, uint64_t version, bytes check_key, uint64_t seed, dict boxes, list principals,
        hash_bits=64, ServerNames snis=None, dict documents={},
    ):
        cdef _Plan plan = _Plan(boxes.values(), principals, documents)
        cdef TableSet* c = <TableSet*>array_new(1, sizeof(TableSet))
        self.c = c
        self.boxes = boxes
        self.snis = snis
        self.text = plan.texts.join()
        c.version = version
        c.seed = seed
        c.hash_mask = (1 << hash_bits) - 1
        memcpy(c.check_key, id_bytes(check_key, 32, "the check key"), 32)
        fill_routes(c, plan)
        fill_buckets(c, plan)
        fill_hosts(c, plan)
        fill_fields(c, plan)
        fill_principals(c, plan)
        fill_documents(c, plan)
        tables_check(c)

    def __dealloc__(self):
        if self.c != NULL:
            tables_free(self.c)

    @property
    def version(self):
        return self.c.version

    @property
    def wants_fields(self):
        return bool(self.c.wants_fields)

    def match(self, bytes host, int port, bytes method, bytes path, fields=()):
        """(PolicyBox's route id, bytes of the prefix) of the route that takes a request, or None.

        As a worker asks: host in lower case without port, path normalised; fields: (name, value).
        """
        cdef Span names[128]
        cdef Span values[128]
        cdef RouteQuery query
        cdef RouteMatch found
        cdef int hit
        query.host = span_of(host)
        query.port = port
        query.method = span_of(method)
        query.path = span_of(path)
        query.names = names
        query.values = values
        query.fields_n = 0
        fields = list(fields)[:QUERY_FIELDS_MAX]  # keeps the bytes alive
        for name, value in fields:
            names[query.fields_n] = span_of(name)
            values[query.fields_n] = span_of(value)
            query.fields_n += 1
        with nogil:
            hit = tables_match(self.c, &query, &found)
        return (found.policy.route[:16], found.prefix_len) if hit else None

    def principal(self, bytes credential):
        """(consumer id, prepared header lines) of a credential, or None."""
        cdef Principal* principal = tables_principal(self.c, id_bytes(credential, 16, "an id"))
        return None if principal == NULL else principal_face(principal)

    def document(self, bytes host, bytes path):
        """The plugin id of the instance whose metadata stands there, or None."""
        cdef Span host_span = span_of(host)
        cdef Span path_span = span_of(path)
        cdef const Document* found = tables_document(self.c, &host_span, &path_span)
        return None if found == NULL else found.plugin[:16]
