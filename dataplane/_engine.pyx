"""The Python thread's end of the engine: listeners, threads, publishing, questions, records.

The `Engine` owns the workers' memory.  What it tells a worker goes through that worker's inbox,
what it hears comes from that worker's rings, and what all workers read (tables, tokens, TLS) it
publishes by one pointer store and frees after a grace period.
"""

import ipaddress
import os
import re
import threading
import uuid
from collections import deque
from functools import lru_cache
from http import HTTPStatus

cdef enum:
    LISTENERS_MAX = 16
    BACKLOG = 4096
    DEFER_ACCEPT_S = 10
    CLOCK_STEP_MS = 200  # more than the two clocks drift between two looks
    TOKENS_PER_NOTE = 1024
    LINES_BYTES = RECORD_SLOTS * LINE_BYTES_MAX  # of log lines made at a time
    MAPPED_BYTES = 1 << 17  # buffers from here on are mappings of their own

# glibc would raise this threshold with the first such buffer that is freed, and keep what later ones of
# slow readers held.  Set, it stays: what a buffer took goes back to the system with it.
mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)

# --- listeners --------------------------------------------------------------------------------------


cdef int _listen(Worker* worker, bytes packed, bint v6, int port, bint tls) except -1:
    """One worker's SO_REUSEPORT listener.  Returns the port."""
    cdef sockaddr_storage address
    cdef sockaddr_in* v4_address = <sockaddr_in*>&address
    cdef sockaddr_in6* v6_address = <sockaddr_in6*>&address
    cdef socklen_t size = sizeof(sockaddr_in6) if v6 else sizeof(sockaddr_in)
    cdef int one = 1
    cdef int defer = DEFER_ACCEPT_S
    cdef Conn* listener
    cdef int fd = socket(
        AF_INET6 if v6 else AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    memset(&address, 0, sizeof(address))
    if v6:
        v6_address.sin6_family = <unsigned short>AF_INET6
        v6_address.sin6_port = htons(<uint16_t>port)
        memcpy(v6_address.sin6_addr.s6_addr, <const char*>packed, 16)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))
    else:
        v4_address.sin_family = <unsigned short>AF_INET
        v4_address.sin_port = htons(<uint16_t>port)
        memcpy(&v4_address.sin_addr, <const char*>packed, 4)
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one))
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one))
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))  # accepted sockets inherit it
    setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof(defer))
    if bind(fd, <sockaddr*>&address, size) < 0 or listen(fd, BACKLOG) < 0:
        error = errno
        close(fd)
        raise OSError(error, os.strerror(error))
    getsockname(fd, <sockaddr*>&address, &size)
    listener = conn_new(worker, fd, CONN_LISTENER, 0)
    listener.flags = FLAG_TLS if tls else 0
    listener.local_port = ntohs(v6_address.sin6_port if v6 else v4_address.sin_port)
    if watch_listener(worker, listener) < 0:
        raise OSError(errno, os.strerror(errno))
    worker.listeners[worker.listener_count] = listener
    worker.listener_count += 1
    return listener.local_port


# --- the Python thread's end ------------------------------------------------------------------------

_VERDICTS = {
    "known": VERDICT_KNOWN,
    "unknown": VERDICT_UNKNOWN,
    "unavailable": VERDICT_UNAVAILABLE,
}
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_MOVES = {"refreshed": MOVE_REFRESHED, "renewed": MOVE_RENEWED, "asked": MOVE_ASKED}
_UNFORWARDED = {
    b"connection",
    b"content-length",
    b"date",
    b"keep-alive",
    b"server",
    b"transfer-encoding",
}


@lru_cache(maxsize=64)  # most replies have the same
def _reply_head(status, headers):
    """Status line and fields of an issuer's response, without what the engine says itself."""
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    for name, value in headers:
        if name.lower() in _UNFORWARDED:
            continue
        if _CONTROL.search(value) or _CONTROL.search(name):
            raise ValueError(f"header {name!r} has a control byte")
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n"


cdef str _uuid(const uint8_t* data):
    return str(uuid.UUID(bytes=(<const char*>data)[:16]))


cdef str _address(const uint8_t* data, bint v6):
    cdef char text[64]
    cdef uint32_t size = address_text(data, v6, text)
    return (<const char*>text)[:size].decode()


cdef dict _record_dict(const Record* record):
    """One record as the log wants it."""
    where = _address(record.remote, record.v6)
    client = f"[{where}]" if record.v6 else where
    if record.remote_port:  # 0: a trusted peer named the address
        client += f":{record.remote_port}"
    route = _uuid(record.route) if record.flags & RECORD_HAS_ROUTE else None
    request_id = (<const char*>record.id)[:16].hex()
    if record.kind == RECORD_REFUSED:
        return {
            "status": record.status,
            "why": record.why.decode(),
            "route": route,
            "client": client,
            "request_id": request_id,
        }
    return {
        "ended_by": ("gateway", "client", "upstream")[record.ended_by],
        "why": record.why.decode(),
        "client_code": record.client_code or None,
        "upstream_code": record.upstream_code or None,
        "duration_s": <double>record.duration_ms / 1000.0,
        "messages_from_client": record.messages_up,
        "messages_from_upstream": record.messages_down,
        "bytes_from_client": record.bytes_up,
        "bytes_from_upstream": record.bytes_down,
        "route": route,
        "service": _uuid(record.service) if record.flags & RECORD_HAS_SERVICE else None,
        "consumer": _uuid(record.consumer) if record.flags & RECORD_HAS_CONSUMER else None,
        "credential": _uuid(record.credential) if record.flags & RECORD_HAS_CREDENTIAL else None,
        "client": client,
        "request_id": request_id,
    }


cdef dict _request_dict(const Question* question):
    """A token request as `wire.TokenRequest` wants it."""
    cdef HttpRequest http
    cdef const uint8_t* head = question.text
    cdef const HttpField* field
    cdef int i
    cdef int size
    BUG_ON(http_parse_request(head, question.head_len, &http) <= 0)
    path = bytearray(http.path_len)
    size = http_normalise_path(head + http.path_off, http.path_len, path)
    headers = []
    for i in range(http.fields_n):
        field = &http.fields[i]
        if not field.flags & HTTP_FLAG_HOP and field.kind != HTTP_FIELD_IDENTITY:
            headers.append((
                (<const char*>(head + field.name_off))[: field.name_len],
                (<const char*>(head + field.value_off))[: field.value_len],
            ))
    return {
        "plugin": (<const char*>question.plugin)[:16],
        "route": (<const char*>question.route)[:16],
        "service": (<const char*>question.service)[:16] if question.has_service else None,
        "client_ip": _address(question.address, question.v6),
        "tls": bool(question.tls),
        "peer_trusted": bool(question.trusted),
        "method": (<const char*>head)[: http.method_len].decode(),
        "path": bytes(path[:size]).decode("latin-1"),
        "query": (<const char*>(head + http.query_off))[: http.query_len],
        "headers": headers,
        "body": (<const char*>(head + question.head_len))[
            : question.text_len - question.head_len
        ],
        "request_id": (<const char*>question.id)[:16].hex(),
    }


cdef tuple _place(const Question* question):
    """Digest, host, path and Origin of a handshake with a ticket."""
    cdef const char* text = <const char*>question.text
    cdef uint32_t path = question.head_len + question.path_len
    origin = text[path : question.text_len] if question.has_origin else None
    return (
        (<const char*>question.digest)[:32],
        text[: question.head_len].decode("latin-1"),
        text[question.head_len : path].decode("latin-1"),
        None if origin is None else origin.decode("latin-1"),
    )


cdef bytes _file(str path, str what):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be used: {error.strerror}") from None


cdef class Engine:
    """The workers and what they share.  Every method is for the one Python thread.

    `workers`: threads, 1..64.  `max_sessions`: live sessions of the process, `max_connections`:
    clients' connections (0: twice the sessions and 64).  `max_address_connections`,
    `address_handshakes` (a second), `max_consumer_sessions`: of one address or consumer; 0: no
    bound.  `head_bytes`: of a request's head, at most the parser's 32 KiB.  `trusted`: networks
    whose X-Forwarded-* are believed, as (16-byte address, IPv4 mapped; prefix bits).  `tickets`: keys
    of session tickets; None: each certificate has its own, until it changes.

    Raises:
        ValueError: a bound is out of range.
        MemoryError: the workers' memory could not be had.
    """

    def __cinit__(
        self, *, int workers, int token_cache, int max_sessions, str server_token,
        trusted=(), bytes seed, uint32_t max_connections=0, uint32_t max_address_connections=0,
        uint32_t address_handshakes=0, uint32_t max_consumer_sessions=0,
        uint32_t head_bytes=HTTP_HEAD_MAX,
        TicketKeys tickets=None,
    ):
        cdef Limits* limits = &self.shared.limits
        cdef int i
        if not 1 <= workers <= WORKERS_MAX:
            raise ValueError(f"workers must be between 1 and {WORKERS_MAX}")
        if max_sessions < 1:
            raise ValueError("max_sessions must be at least 1")
        if len(trusted) > 64:
            raise ValueError("at most 64 trusted networks")
        self.worker_count = workers
        self.tickets = tickets
        self.threads = []
        self.unposted = [deque() for _ in range(workers)]
        self.reclaimer = Reclaimer()
        self.tokens = TokenCache(token_cache, seed, self.reclaimer)
        self.question_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.question_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.server_token = server_token.encode()
        self.shared.server_token.data = <const uint8_t*><const char*>self.server_token
        self.shared.server_token.size = <uint32_t>len(self.server_token)
        self.shared.tokens = self.tokens.c
        self.shared.question_fd = self.question_fd
        self.shared.workers = workers
        self.shared.max_sessions = limits.sessions.most = <uint32_t>max_sessions
        limits.refusals.most = REFUSALS_MAX
        limits.connections.most = max_connections if max_connections else 2 * max_sessions + 64
        self.shared.max_connections = <uint32_t>limits.connections.most
        self.shared.head_max = min(head_bytes, HTTP_HEAD_MAX)
        key = os.urandom(16)
        if limit_init(
            &limits.addresses, max_address_connections, address_handshakes,
            self.shared.max_connections, key,
        ) < 0 or limit_init(
            &limits.consumers, max_consumer_sessions, 0, self.shared.max_sessions, key
        ) < 0:
            raise MemoryError
        for i, (address, bits) in enumerate(trusted):
            memcpy(self.shared.trusted[i].bytes, <const char*><bytes>address, 16)
            self.shared.trusted_bits[i] = bits
        self.shared.trusted_count = len(trusted)
        self._set_clock()
        self.workers = <Worker**>calloc(workers, sizeof(Worker*))
        if self.workers == NULL:
            raise MemoryError
        for i in range(workers):
            self.workers[i] = <Worker*>calloc(1, sizeof(Worker))
            if self.workers[i] == NULL or worker_init(self.workers[i], i, &self.shared) < 0:
                raise MemoryError("a worker could not be prepared")
            self.reclaimer.attach(&self.workers[i].turn)

    def __dealloc__(self):
        cdef int i
        if self.workers != NULL:
            for i in range(self.worker_count):
                if self.workers[i] != NULL:
                    worker_free(self.workers[i])
                    # `turn` is read by the reclaimer, which may outlive the engine: kept.
            free(self.workers)
        limit_free(&self.shared.limits.addresses)
        limit_free(&self.shared.limits.consumers)
        free(self.lines)
        if self.question_fd > 0:
            close(self.question_fd)

    cdef bint _set_clock(self):
        """Whether it has gone forward by more than a blink, at once or little by little, since
        deadlines were looked at."""
        cdef int64_t now_ms = clock_ms(CLOCK_REALTIME)
        cdef int64_t offset
        if self.offset_known:
            now_ms = clock_ms(CLOCK_BOOTTIME) + self.boottime_offset_ms
        offset = now_ms - <int64_t>clock_ms(CLOCK_MONOTONIC)
        nx_store_u64(&self.shared.realtime_offset_ms, <uint64_t>offset)
        if offset - self.least_offset_ms > CLOCK_STEP_MS:
            self.least_offset_ms = offset
            return True
        self.least_offset_ms = min(self.least_offset_ms, offset)
        return False

    def set_clock_offset(self, double seconds):
        """Take CLOCK_BOOTTIME and so much for the time, no longer the system's wall clock."""
        self.boottime_offset_ms = <int64_t>round(seconds * 1000)
        self.offset_known = True
        if self._set_clock():
            self.end_sessions()  # deadlines have come nearer

    def listen(self, str address, int port, bint tls):
        """Open a listener in every worker.  Returns its port (port 0 picks a free one).

        Raises:
            OSError: it cannot be had; errno says why.
        """
        cdef int i
        parsed = ipaddress.ip_address(address)
        for i in range(self.worker_count):
            if self.workers[i].listener_count == LISTENERS_MAX:
                raise OSError(0, f"at most {LISTENERS_MAX} listeners")
            port = _listen(self.workers[i], parsed.packed, parsed.version == 6, port, tls)
        return port

    def certificate(self, str certificate, str key):
        """Use this pair (PEM files) for TLS listeners; handshakes from now on get it.

        Raises:
            ValueError: a file cannot be read, or they are not a pair; says which.
        """
        pair = tuple(_file(path, what) for path, what in ((certificate, "certificate"), (key, "key")))
        cdef Context context = server_context((pair,), (certificate, key), self.tickets)
        choose_by_name(context, &self.shared)
        old = self.context
        self.context = context
        nx_store_ptr(&self.shared.tls, context.c)
        if old is not None:
            self.reclaimer.retire_object(old)

    def start(self):
        """Start the workers' threads."""
        for i in range(self.worker_count):
            thread = threading.Thread(target=self._run, args=(i,), name=f"worker-{i}", daemon=True)
            thread.start()
            self.threads.append(thread)

    def _run(self, int index):
        cdef Worker* worker = self.workers[index]
        cdef sigset_t mask
        with nogil:
            sigfillset(&mask)
            pthread_sigmask(SIG_BLOCK, &mask, NULL)
            worker_run(worker)

    def publish(self, Tables tables not None):
        """Let new requests be judged by these tables; live sessions keep what they have."""
        old = self.tables
        self.tables = tables
        nx_store_ptr(&self.shared.tables, tables.c)
        nx_store_ptr(&self.shared.snis, NULL if tables.snis is None else &tables.snis.c)
        if old is not None:
            self.reclaimer.retire_object(old)

    def sweep(self):
        """Post what was held up, look at the clocks, free what is past its grace period."""
        if self._set_clock():
            self.end_sessions()  # deadlines have come nearer
        for index, held_up in enumerate(self.unposted):
            while held_up:
                ref, kind, value, text = held_up[0]
                if not self._put(index, ref, kind, value, text):
                    break
                held_up.popleft()
                self._wake(index)
        return self.reclaimer.sweep()

    cdef int _post(
        self, int index, uint64_t ref, uint8_t kind, uint64_t value, bytes text, bint wake=True
    ) except -1:
        """Tell a worker, in the order of the calls; later where its inbox is full."""
        if self.unposted[index] or not self._put(index, ref, kind, value, text):
            self.unposted[index].append((ref, kind, value, text))
        self.unseen[index] = True
        if wake:
            self._wake(index)
        return 1

    cdef int _wake(self, int index) except -1:
        cdef uint64_t one = 1
        self.unseen[index] = False
        write(self.workers[index].inbox_fd, &one, sizeof(one))
        return 1

    cdef int _put(self, int index, uint64_t ref, uint8_t kind, uint64_t value, bytes text) except -1:
        """Whether there was room in a worker's inbox."""
        cdef Worker* worker = self.workers[index]
        cdef Note* note = <Note*>ring_reserve(&worker.inbox)
        if note == NULL:
            return 0
        memset(note, 0, sizeof(Note))
        if text is not None:
            note.text = <uint8_t*>malloc(len(text) + 1)
            if note.text == NULL:
                raise MemoryError
            memcpy(note.text, <const char*>text, len(text))
            note.text_len = <uint32_t>len(text)
        note.ref = ref
        note.kind = kind
        note.value = value
        ring_publish(&worker.inbox)
        return 1

    def questions(self, int limit=256):
        """What workers wait for, oldest first: ("token", ref, digest, check_passed), ("jwt", ref,
        digest, the token), ("ticket", ref, digest, host, path, Origin or None), ("request", ref,
        fields of wire.TokenRequest) or ("name", ref, host); and ("moved", id, sessions) of one
        worker, see `move_sessions`."""
        cdef Question* question
        cdef uint64_t count
        cdef uint64_t one = 1
        cdef list found = []
        cdef int i
        read(self.question_fd, &count, sizeof(count))
        for i in range(self.worker_count):
            while len(found) < limit:
                question = <Question*>ring_peek(&self.workers[i].questions)
                if question == NULL:
                    break
                if question.kind == QUESTION_TOKEN:
                    digest = (<const char*>question.digest)[:32]
                    if question.text != NULL:
                        text = (<const char*>question.text)[: question.text_len].decode()
                        found.append(("jwt", question.ref, digest, text))
                    else:
                        found.append(("token", question.ref, digest, bool(question.check_passed)))
                elif question.kind == QUESTION_TICKET:
                    found.append(("ticket", question.ref, *_place(question)))
                elif question.kind == QUESTION_MOVED:
                    found.append(("moved", question.ref, question.count))
                elif question.kind == QUESTION_REQUEST:
                    found.append(("request", question.ref, _request_dict(question)))
                else:
                    host = (<const char*>question.text)[: question.text_len].decode()
                    found.append(("name", question.ref, host))
                free(question.text)
                question.text = NULL
                ring_release(&self.workers[i].questions)
        if len(found) >= limit:
            write(self.question_fd, &one, sizeof(one))  # there may be more
        return found

    def answer_token(self, uint64_t ref, str verdict):
        """`known`: look in the cache again; `unknown`: 401; `unavailable`: 503."""
        self._post(ref >> 56, ref, NOTE_VERDICT, _VERDICTS[verdict], None)

    def answer_ticket(self, uint64_t ref, str verdict, bytes token=None):
        """Whose the ticket is: `known` with the token's digest, else as `answer_token`."""
        if (verdict == "known") != (token is not None and len(token) == 32):
            raise ValueError("a ticket that is known has the digest of its token")
        self._post(ref >> 56, ref, NOTE_VERDICT, _VERDICTS[verdict], token)

    def answer_name(self, uint64_t ref, bint found):
        """The host's addresses were published, or there are none."""
        value = VERDICT_NAME_FOUND if found else VERDICT_NAME_FAILED
        self._post(ref >> 56, ref, NOTE_VERDICT, value, None)

    def answer_request(
        self, uint64_t ref, int status, list headers, bytes body, bint wake=True
    ):
        """The issuer's response to a token request.

        Without `wake` its worker may see it as late as the next `wake()`: for several at once.

        Raises:
            ValueError: a header has a control byte (S57).
        """
        cdef bytes head = _reply_head(status, tuple(headers))
        if status == 204 or status == 304:  # RFC 9110 §8.6
            body = b""
        else:
            head += b"Content-Length: %d\r\n" % len(body)
        self._post(ref >> 56, ref, NOTE_RESPONSE, len(head), head + body, wake)

    def wake(self):
        """Have the workers see all that was answered without waking them."""
        cdef int i
        for i in range(self.worker_count):
            if self.unseen[i]:
                self._wake(i)

    def records(self, int limit=4096):
        """What ended and was refused since the last call: ("ended", dict) and ("refused", dict)."""
        cdef Record* record
        cdef list found = []
        cdef int i
        for i in range(self.worker_count):
            while len(found) < limit:
                record = <Record*>ring_peek(&self.workers[i].records)
                if record == NULL:
                    break
                kind = "refused" if record.kind == RECORD_REFUSED else "ended"
                found.append((kind, _record_dict(record)))
                ring_release(&self.workers[i].records)
        return found

    def record_lines(self, str ts, int limit=4096):
        """As `records`, as JSON log lines with `ts` as their time.  Returns (how many, bytes)."""
        cdef Record* record
        cdef bytes stamp = ts.encode()
        cdef Span span
        cdef Writer out
        cdef int count = 0
        cdef int i
        span.data = <const uint8_t*><const char*>stamp
        span.size = <uint32_t>len(stamp)
        if self.lines == NULL:
            self.lines = <uint8_t*>malloc(LINES_BYTES)
            if self.lines == NULL:
                raise MemoryError
        out.data = self.lines
        out.size = 0
        out.capacity = LINES_BYTES
        out.full = 0
        for i in range(self.worker_count):
            while count < limit and out.capacity - out.size >= LINE_BYTES_MAX:
                record = <Record*>ring_peek(&self.workers[i].records)
                if record == NULL:
                    break
                line_put(&out, record, &span)
                ring_release(&self.workers[i].records)
                count += 1
        return count, (<const char*>self.lines)[: out.size]

    def counters(self):
        """Totals over the workers since the start."""
        cdef dict handshakes = {}
        cdef dict closes = {}
        cdef dict proxied = {}
        cdef dict ends = dict.fromkeys(_ENDS, 0)
        cdef dict refusals = dict.fromkeys(_REFUSALS, 0)
        cdef dict totals = {}
        cdef Counters* c
        cdef int i, status, slot
        cdef uint64_t n
        for i in range(self.worker_count):
            c = &self.workers[i].counters
            for status in range(STATUS_MAX):
                n = nx_peek(&c.handshakes[status])
                if n:
                    handshakes[status] = handshakes.get(status, 0) + n
            for status in range(1, 6):
                n = nx_peek(&c.proxied[status])
                if n:
                    proxied[status] = proxied.get(status, 0) + n
            for slot in range(2 * CLOSE_SLOTS):
                n = nx_peek(&c.closes[slot])
                if n:
                    key = (_CLOSE_NAMES[slot % CLOSE_SLOTS], ("client", "upstream")[slot // CLOSE_SLOTS])
                    closes[key] = closes.get(key, 0) + n
            for slot, name in enumerate(_REFUSALS[:REFUSALS]):
                refusals[name] += nx_peek(&c.refused[slot])
            for slot, name in enumerate(_ENDS, start=1):
                ends[name] += nx_peek(&c.ends[slot])
            refusals["memory"] += nx_peek(&c.refused_full)
            for name, value in (
                ("live_sessions", nx_peek(&c.sessions_live)),
                ("sessions_total", nx_peek(&c.sessions_total)),
                ("connections", nx_peek(&c.conns_live)),
                ("accepts", nx_peek(&c.accepts)),
                ("messages_in", nx_peek(&c.messages_up)),
                ("messages_out", nx_peek(&c.messages_down)),
                ("bytes_in", nx_peek(&c.bytes_up)),
                ("bytes_out", nx_peek(&c.bytes_down)),
                ("pings", nx_peek(&c.pings)),
                ("bytes_spliced", nx_peek(&c.bytes_spliced)),
                ("reads_held", nx_peek(&c.reads_held)),
                ("budgets_spent", nx_peek(&c.budgets_spent)),
                ("turns", nx_load_u64(&self.workers[i].turn) >> 1),
                ("token_hits", nx_peek(&c.token_hits)),
                ("token_misses", nx_peek(&c.token_misses)),
                ("records_dropped", nx_peek(&c.records_dropped)),
                ("questions_dropped", nx_peek(&c.questions_dropped)),
                ("requests", nx_peek(&c.requests)),
                ("live_exchanges", nx_peek(&c.exchanges_live)),
                ("upstream_reused", nx_peek(&c.upstream_reused)),
                ("moved", nx_peek(&c.moved)),
            ):
                totals[name] = totals.get(name, 0) + value
        # Our own listeners and inboxes are connections to the workers, not to an operator.
        for i in range(self.worker_count):
            totals["connections"] -= self.workers[i].listener_count + 1
        totals["handshakes"] = handshakes
        totals["closes"] = closes
        totals["proxied"] = proxied
        totals["refused"] = refusals
        totals["ends"] = ends
        return totals

    def sessions_by_worker(self):
        """Sessions ever established, a worker."""
        return [nx_peek(&self.workers[i].counters.sessions_total) for i in range(self.worker_count)]

    def live_sessions(self):
        cdef int i
        cdef uint64_t total = 0
        for i in range(self.worker_count):
            total += nx_peek(&self.workers[i].counters.sessions_live)
        return total

    def live_exchanges(self):
        """Requests that an upstream of an http or https route has in hand."""
        cdef int i
        cdef uint64_t total = 0
        for i in range(self.worker_count):
            total += nx_peek(&self.workers[i].counters.exchanges_live)
        return total

    def drain(self, double seconds):
        """Close the listeners and tell the sessions 1012, spread over `seconds`."""
        for i in range(self.worker_count):
            self._post(i, 0, NOTE_DRAIN, <uint64_t>(seconds * 1000), None)

    def tell_parted(self, workers):
        """Have these workers look for sessions whose policy's `parting` ends them."""
        for i in workers:
            self._post(i, 0, NOTE_PARTED, 0, None)

    def end_tokens(self, digests):
        """Have the sessions of these tokens end: revoked.  They are out of the cache already."""
        for at in range(0, len(digests), TOKENS_PER_NOTE):
            text = b"".join(digests[at : at + TOKENS_PER_NOTE])
            if len(text) % 32:
                raise ValueError("a digest must be 32 bytes")
            for i in range(self.worker_count):
                self._post(i, 0, NOTE_ENDED, 0, text)

    def end_sessions(self, credentials=(), consumers=(), plugins=(), jtis=()):
        """Have all workers look for the sessions of what is gone, and for deadlines that passed.

        Ids of 16 bytes; plugins: the issuers of tokens; jtis: of JWTs that were revoked.
        """
        cdef Hunt head
        keys = sorted(
            bytes([why]) + id_
            for why, ids in (
                (GRANT_CREDENTIAL, credentials), (GRANT_CONSUMER, consumers),
                (GRANT_PLUGIN, plugins), (GRANT_REVOKED, jtis),
            )
            for id_ in ids
        )
        if any(len(key) != HUNT_KEY for key in keys):
            raise ValueError("an id must be 16 bytes")
        head.next = NULL
        head.count = <uint64_t>len(keys)
        text = (<const char*>&head)[: sizeof(Hunt)] + b"".join(keys)
        for i in range(self.worker_count):
            self._post(i, 0, NOTE_GONE, 0, text)

    def move_sessions(
        self, olds, bytes digest not None, double expires_at, str how, uint64_t id=0, plugin=None,
        jti=None,
    ):
        """Have the sessions of old tokens (digests) go over to another one.

        how: `refreshed`, or `renewed` by a newer token (where the policy says so), or `asked` by the
        client.  With an `id` each worker says how many went over, see `questions`.
        """
        cdef MovedText to
        memset(&to, 0, sizeof(to))
        if len(digest) != 32 or any(len(old) != 32 for old in olds):
            raise ValueError("a digest must be 32 bytes")
        for id_ in (plugin, jti):
            if id_ is not None and len(id_) != 16:
                raise ValueError("an id must be 16 bytes")
        memcpy(to.digest, <const char*>digest, 32)
        if plugin is not None:
            memcpy(to.plugin, <const char*><bytes>plugin, 16)
        if jti is not None:
            memcpy(to.jti, <const char*><bytes>jti, 16)
        to.expires_at = expires_at
        text = (<const char*>&to)[: sizeof(MovedText)] + b"".join(olds)
        for i in range(self.worker_count):
            self._post(i, id, NOTE_MOVED, _MOVES[how], text)

    def stop(self):
        """End the workers at once: what is left is cut."""
        for i in range(self.worker_count):
            self._post(i, 0, NOTE_STOP, 0, None)

    def join(self, double seconds):
        """Wait for the workers to end.  Whether they did."""
        for thread in self.threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self.threads)


# Refusal's, in their order, and what met no bound of ours.
_REFUSALS = [
    "connections", "sessions", "descriptors", "address_connections", "address_rate",
    "consumer_sessions", "head_bytes", "draining", "memory",
]
_ENDS = ["expired", "revoked", "credential", "consumer", "plugin", "age"]  # GrantEnd's
_CLOSE_NAMES = [*range(1000, 1016), 4401, 4403, 4408, 4429, 3000, 4000, 0, 0]
