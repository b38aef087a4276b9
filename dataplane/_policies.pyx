"""Policies, upstream names and targets: what outlives the snapshot that brought it.

A `PolicyBox` owns one route's Policy, a `NameBox` one host's addresses, a `BalanceBox` the targets of
an upstream; snapshots share the boxes of what did not change.  Sessions may hold a policy longer than any snapshot does (`Policy.users`):
when its box goes, the policy passes to `NameTable.orphans`, and `NameTable.sweep` lets it go once
nobody uses it.  Memory that a worker may still read in its turn goes through the Reclaimer.
"""

import socket as sockets
from weakref import WeakValueDictionary

cimport cython

from dataplane._balance cimport *
from dataplane._core cimport *

FLAGS = {  # PolicyFlag for Python
    "service": POLICY_SERVICE,
    "ws": POLICY_WS,
    "tls_only": POLICY_TLS_ONLY,
    "strip_path": POLICY_STRIP_PATH,
    "preserve_host": POLICY_PRESERVE_HOST,
    "oauth2": POLICY_OAUTH2,
    "global_credentials": POLICY_GLOBAL_CREDENTIALS,
    "hide_credentials": POLICY_HIDE_CREDENTIALS,
    "upstream_http": POLICY_UPSTREAM_HTTP,
    "upstream_tls": POLICY_UPSTREAM_TLS,
    "validate_utf8": POLICY_VALIDATE_UTF8,
    "refuse_deflate": POLICY_REFUSE_DEFLATE,
    "ignore_expiry": POLICY_IGNORE_EXPIRY,
    "follow_credential": POLICY_FOLLOW_CREDENTIAL,
    "follow_none": POLICY_FOLLOW_NONE,
    "jwt": POLICY_JWT,
    "endpoints": POLICY_ENDPOINTS,
    "carrier_header": POLICY_CARRIER_HEADER,
    "carrier_query": POLICY_CARRIER_QUERY,
    "carrier_subprotocol": POLICY_CARRIER_PROTOCOL,
    "carrier_ticket": POLICY_CARRIER_TICKET,
    "carrier_cookie": POLICY_CARRIER_COOKIE,
    "refuse_close": POLICY_REFUSE_CLOSE,
    "refuse_auto": POLICY_REFUSE_AUTO,
}
CHANGES = {"keep": CHANGE_KEEP, "drain": CHANGE_DRAIN, "close": CHANGE_CLOSE}  # for Python
PARTING = {  # Parting for Python
    "shut": PARTING_SHUT, "gone": PARTING_GONE, "drain": PARTING_DRAIN, "close": PARTING_CLOSE,
}

# What holds where no plugin says otherwise: websocket-size-limit and websocket-session,
# routing-and-proxy.md §12.3, §12.6.  Bytes, bytes, four times in ms, bytes, on_edit, on_delete.
SESSION_DEFAULTS = (
    1048576, 16777216, 30000, 20000, 0, 60000, 65536, CHANGE_KEEP, CHANGE_DRAIN,
)


cdef uint64_t policy_users(const Policy* policy) noexcept nogil:
    """Sessions and parked handshakes that hold the policy."""
    cdef uint64_t sum = 0
    cdef int i
    for i in range(WORKERS_MAX):
        sum += nx_load_u64(&policy.users[i])
    return sum


cdef void* array_new(size_t count, size_t size) except NULL:
    cdef void* memory = calloc(count if count else 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef const uint8_t* id_bytes(object value, Py_ssize_t size, str what) except NULL:
    if type(value) is not bytes or len(<bytes>value) != size:
        raise ValueError(f"{what} must be {size} bytes")
    return <const uint8_t*><const char*><bytes>value


cdef inline Span span_of(bytes text):
    cdef Span span
    span.data = <const uint8_t*><const char*>text
    span.size = <uint32_t>len(text)
    return span


cdef Span _copy(uint8_t** cursor, bytes text):
    """Copy a text to the cursor and move that."""
    cdef Span span = span_of(text)
    memcpy(cursor[0], span.data, span.size)
    span.data = cursor[0]
    cursor[0] += span.size
    return span


cdef bytes _text(const Span* span):
    return span.data[:span.size]


cdef tuple principal_face(const Principal* principal):
    return principal.consumer[:16], _text(&principal.headers)


# --- names ----------------------------------------------------------------------------------------


def parse_address(str host):
    """(16 bytes with an IPv4 address in the first 4, whether it is IPv6) of an IP address, or None.

    An IPv6 address may be in brackets.
    """
    bare = host[1 : len(host) - 1] if host.startswith("[") and host.endswith("]") else host
    try:
        if ":" in bare:
            return sockets.inet_pton(sockets.AF_INET6, bare), True
        return sockets.inet_pton(sockets.AF_INET, bare) + bytes(12), False
    except (OSError, ValueError):
        return None


cdef class NameBox:
    """One upstream host and its addresses; alive while some policy or lookup holds it."""

    def __cinit__(self, str host, Reclaimer reclaimer not None):
        self.host = host
        self.reclaimer = reclaimer
        self.literal = parse_address(host) is not None
        if self.literal:
            self.set_addresses([(host, ":" in host)])

    def __dealloc__(self):
        free(self.c.addresses)

    cpdef set_addresses(self, list addresses):
        """Publish [(IP, whether it is IPv6)], at most ADDRESSES_MAX of them.

        Raises ValueError for an empty list or what is no IP address.
        """
        parsed = [parse_address(ip) for ip, _ in addresses[:ADDRESSES_MAX]]
        if not parsed or None in parsed:
            raise ValueError(f"no addresses for {self.host!r}")
        cdef AddressList* old = self.c.addresses
        cdef AddressList* fresh = <AddressList*>array_new(1, sizeof(AddressList))
        for address, v6 in parsed:
            memcpy(fresh.items[fresh.count].bytes, <const char*><bytes>address, 16)
            fresh.items[fresh.count].v6 = v6
            fresh.count += 1
        if old != NULL and memcmp(old, fresh, sizeof(AddressList)) == 0:
            free(fresh)
            return
        nx_store_ptr(&self.c.addresses, fresh)
        nx_store_u64(&self.c.failed, 0)
        self.reclaimer.retire(old)

    cpdef mark_failed(self):
        """Resolution failed; the last good addresses stay."""
        if self.c.addresses == NULL:
            nx_store_u64(&self.c.failed, 1)

    @property
    def addresses(self):
        cdef AddressList* known = self.c.addresses
        if known == NULL:
            return []
        return [
            sockets.inet_ntop(sockets.AF_INET6, item.bytes[:16])
            if item.v6 else sockets.inet_ntop(sockets.AF_INET, item.bytes[:4])
            for item in known.items[:known.count]
        ]

    @property
    def failed(self):
        return self.c.failed != 0


@cython.final
@cython.no_gc_clear
cdef class _Orphan:
    """Owns a policy whose box has gone."""

    cdef Policy* c
    cdef NameBox name  # c.target.name lies in it
    cdef Context tls  # c.tls is its
    cdef BalanceBox balance  # c.balance lies in it

    def __dealloc__(self):
        free(self.c)

    def hold(self, int worker, int by):
        """As PolicyBox.hold; for tests."""
        nx_bump(&self.c.users[worker], <uint64_t>by)


@cython.no_gc_clear
cdef class NameTable:
    """What outlives a snapshot: upstream names, and policies that sessions still hold."""

    def __cinit__(self, Reclaimer reclaimer not None, TicketKeys tickets=None):
        self.reclaimer = reclaimer
        self.boxes = WeakValueDictionary()
        self.orphans = []
        self.contexts = Contexts(tickets)
        self.balances = WeakValueDictionary()

    cpdef NameBox intern(self, str host):
        """The one box of a host, in any case; an IP address has its address at once."""
        host = host.lower()
        box = self.boxes.get(host)
        if box is None:
            box = NameBox(host, self.reclaimer)
            self.boxes[host] = box
        return box

    def balance(self, bytes content, list targets):
        """The one box of an upstream's targets, as BalanceBox takes them, by what it is made of.

        What did not change keeps its place in the round.
        """
        box = self.balances.get(content)
        if box is None:
            box = BalanceBox(self, targets)
            self.balances[content] = box
        return box

    def set_addresses(self, str host, list addresses):
        self.intern(host).set_addresses(addresses)

    def mark_failed(self, str host):
        self.intern(host).mark_failed()

    def hosts_in_use(self):
        """The names, not IP addresses, that live tables and policies use."""
        return [box.host for box in list(self.boxes.values()) if not box.literal]

    def unresolved(self):
        """Those of `hosts_in_use` without an address yet."""
        cdef NameBox box
        return [
            box.host for box in list(self.boxes.values())
            if not box.literal and box.c.addresses == NULL
        ]

    cdef void adopt(self, Policy* policy, NameBox name, Context tls, BalanceBox balance):
        """Take over a policy that no live tables have; sessions may hold it."""
        cdef _Orphan orphan = _Orphan.__new__(_Orphan)
        orphan.c = policy
        orphan.name = name
        orphan.tls = tls
        orphan.balance = balance
        if policy_users(policy) != 0:
            self.orphans.append(orphan)
        elif self.reclaimer is not None and self.reclaimer.waiting is not None:
            self.reclaimer.retire_object(orphan)
        # Else the interpreter is taking everything down: freed now.

    def sweep(self):
        """Let go of policies whose last session has ended.  Returns how many are still held."""
        cdef _Orphan orphan
        held = []
        for orphan in self.orphans:
            if policy_users(orphan.c) != 0:
                held.append(orphan)
            else:
                self.reclaimer.retire_object(orphan)
        self.orphans = held
        return len(held)


# --- targets --------------------------------------------------------------------------------------


cdef class BalanceBox:
    """The targets of one upstream: (host, port, weight, Host value, that without its port) each."""

    def __cinit__(self, NameTable names not None, list targets):
        cdef Target* target
        cdef uint8_t* cursor
        cdef size_t workers
        if len(targets) > TARGETS_MAX:
            raise ValueError(f"more than {TARGETS_MAX} targets")
        self.names = [names.intern(host) for host, *_ in targets]
        self.texts = b"".join(
            host.encode() + header + name for host, _, _, header, name in targets
        )
        cursor = <uint8_t*><const char*>self.texts
        self.c.count = <uint32_t>len(targets)
        self.c.stride = self.c.count + 1 + 7
        self.c.targets = <Target*>array_new(self.c.count, sizeof(Target))
        # Sessions hold a box long after the next edit: no rows for workers that there are not.
        workers = names.reclaimer.workers if names.reclaimer.workers else WORKERS_MAX
        self.c.rows = <int64_t*>array_new(workers * self.c.stride, sizeof(int64_t))
        for i, (host, port, weight, header, name) in enumerate(targets):
            target = &self.c.targets[i]
            target.name = &(<NameBox>self.names[i]).c
            target.port = port
            target.weight = weight
            target.host_name = _next(&cursor, host.encode())
            target.host_header = _next(&cursor, header)
            target.server_name = _next(&cursor, name)

    def __dealloc__(self):
        free(self.c.targets)
        free(self.c.rows)

    def pick(self, int worker=0, tried=()):
        """The index of the target that comes next for a worker, or None; for tests."""
        cdef uint16_t indexes[TRIES_MAX]
        for place, index in enumerate(tried[:TRIES_MAX]):
            indexes[place] = index
        at = balance_pick(&self.c, worker, indexes, <uint32_t>min(len(tried), TRIES_MAX))
        return None if at < 0 else at

    def describe(self):
        """Of each target (name, port, weight, Host value, that without its port); for tests."""
        return [
            (
                _text(&target.host_name).decode(), target.port, target.weight,
                _text(&target.host_header), _text(&target.server_name),
            )
            for target in self.c.targets[: self.c.count]
        ]


cdef Span _next(uint8_t** cursor, bytes text):
    """The span of a text that stands at the cursor already; moves that."""
    cdef Span span
    span.data = cursor[0]
    span.size = <uint32_t>len(text)
    cursor[0] += span.size
    return span


# --- policies -------------------------------------------------------------------------------------


@cython.no_gc_clear
cdef class PolicyBox:
    """Owns the Policy of one route.  `dataplane.compile` makes it and keeps it while it can.

    target: (service id, host, port, retries, connect, write, read timeout in ms) or None.
    anonymous: (consumer id, prepared header lines) or None.  texts: host header, host name, service
    path, auth header, both challenges, name of the anonymous consumer that is missing, origins.
    session: in the order of SESSION_DEFAULTS.  own, plugins: what `dataplane.changes` compares.
    tls: how the upstream is spoken to, or None.  max_age_ms: of a session; 0: any.  issuer, audience:
    `_tokens.name_hash` of them, or zeros.  carriers: subprotocol prefix and cookie name.  balance: the
    targets that the host stands for, or None.
    """

    def __cinit__(
        self, NameTable names not None, bytes content, tuple virtual, bytes route, bytes plugin,
        uint32_t flags, uint16_t redirect_status, tuple target, tuple anonymous, tuple texts,
        tuple session=SESSION_DEFAULTS, uint32_t own=0, uint32_t plugins=0,
        Context tls=None, uint64_t max_age_ms=0, bytes issuer=bytes(16), bytes audience=bytes(16),
        tuple carriers=(b"", b""), BalanceBox balance=None,
    ):
        cdef size_t size = sizeof(Policy) + sum(map(len, texts)) + sum(map(len, carriers))
        if anonymous is not None:
            size += sizeof(Principal) + len(<bytes>anonymous[1])
        self.names = names
        self.content = content
        self.virtual = virtual
        self.own = own
        self.plugins = plugins
        cdef Policy* c = <Policy*>array_new(1, size)
        self.c = c
        cdef uint8_t* cursor = <uint8_t*>(c + 1)
        memcpy(c.route, id_bytes(route, 16, "a route id"), 16)
        memcpy(c.plugin, id_bytes(plugin, 16, "a plugin id"), 16)
        memcpy(c.issuer, id_bytes(issuer, 16, "an issuer"), 16)
        memcpy(c.audience, id_bytes(audience, 16, "an audience"), 16)
        c.flags = flags
        c.redirect_status = redirect_status
        (
            c.client_message_max, c.upstream_message_max, c.ping_interval_ms, c.ping_timeout_ms,
            c.idle_timeout_ms, c.stall_timeout_ms, c.buffered_max, c.on_edit, c.on_delete,
        ) = session
        c.max_age_ms = max_age_ms
        self.tls = tls
        c.tls = NULL if tls is None else tls.c
        self.balance = balance
        c.balance = NULL if balance is None else &balance.c
        if anonymous is not None:
            c.anonymous = <Principal*>cursor
            cursor += sizeof(Principal)
            memcpy(c.anonymous.consumer, id_bytes(anonymous[0], 16, "a consumer id"), 16)
            c.anonymous.headers = _copy(&cursor, anonymous[1])
        c.target.host_header = _copy(&cursor, texts[0])
        c.target.host_name = _copy(&cursor, texts[1])
        c.target.server_name = c.target.host_name
        c.service_path = _copy(&cursor, texts[2])
        c.auth_header = _copy(&cursor, texts[3])
        c.challenge_missing = _copy(&cursor, texts[4])
        c.challenge_invalid = _copy(&cursor, texts[5])
        c.anonymous_missing = _copy(&cursor, texts[6])
        c.origins = _copy(&cursor, texts[7])
        c.protocol_prefix = _copy(&cursor, carriers[0])
        c.cookie_name = _copy(&cursor, carriers[1])
        if target is not None:
            service, host, c.target.port, c.retries, connect, write, read = target
            memcpy(c.service, id_bytes(service, 16, "a service id"), 16)
            c.connect_timeout_ms = connect
            c.write_timeout_ms = write
            c.read_timeout_ms = read
            if balance is None:
                self.name = names.intern(host)
                c.target.name = &self.name.c

    def __dealloc__(self):
        if self.c != NULL:
            self.names.adopt(self.c, self.name, self.tls, self.balance)

    cpdef uint64_t users(self):
        """Sessions and parked handshakes that hold the policy now."""
        return policy_users(self.c)

    @property
    def route(self):
        return self.c.route[:16]

    @property
    def on_edit(self):
        return self.c.on_edit

    @property
    def on_delete(self):
        return self.c.on_delete

    def part(self, uint64_t parting, uint64_t from_ms=0, uint64_t until_ms=0):
        """Add to the `parting` of a policy that no tables have; a drain keeps its first window.

        Returns the workers that hold the policy.  One that holds it and is not among them sees
        `parting` when it looks, right before a session begins: a fence is between its hold and
        that look (`still_routed`), as one is here between our store and our loads.
        """
        cdef Policy* c = self.c
        cdef int i
        if parting & ~c.parting & PARTING_DRAIN:
            c.drain_from_ms = from_ms
            c.drain_until_ms = until_ms
        nx_store_u64(&c.parting, c.parting | parting)
        nx_fence()
        return [i for i in range(WORKERS_MAX) if nx_load_u64(&c.users[i])]

    @property
    def parting(self):
        return self.c.parting

    def hold(self, int worker, int by):
        """Change a worker's count of users, as policy_hold and policy_release do; for tests."""
        nx_bump(&self.c.users[worker], <uint64_t>by)

    def describe(self):
        """Every field as Python values; for tests."""
        cdef Policy* c = self.c
        return {
            "route": c.route[:16], "service": c.service[:16], "plugin": c.plugin[:16],
            "issuer": c.issuer[:16], "audience": c.audience[:16],
            "flags": c.flags, "redirect_status": c.redirect_status, "port": c.target.port,
            "connect_timeout_ms": c.connect_timeout_ms, "write_timeout_ms": c.write_timeout_ms,
            "read_timeout_ms": c.read_timeout_ms, "retries": c.retries,
            "name": self.name, "host_header": _text(&c.target.host_header),
            "host_name": _text(&c.target.host_name), "service_path": _text(&c.service_path),
            "auth_header": _text(&c.auth_header),
            "challenge_missing": _text(&c.challenge_missing),
            "challenge_invalid": _text(&c.challenge_invalid),
            "anonymous_missing": _text(&c.anonymous_missing),
            "origins": _text(&c.origins),
            "carriers": (_text(&c.protocol_prefix), _text(&c.cookie_name)),
            "anonymous": None if c.anonymous == NULL else principal_face(c.anonymous),
            "session": (
                c.client_message_max, c.upstream_message_max, c.ping_interval_ms,
                c.ping_timeout_ms, c.idle_timeout_ms, c.stall_timeout_ms, c.buffered_max,
                c.on_edit, c.on_delete,
            ),
            "max_age_ms": c.max_age_ms,
            "parting": c.parting, "drain_ms": (c.drain_from_ms, c.drain_until_ms),
        }

