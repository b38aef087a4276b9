"""What the compiled modules share: configuration as workers see it, connections, memory, time.

Knows no protocol.  docs/relay.md is the theory of operation.
"""

from dataplane._limits cimport *
from dataplane._sys cimport *

cdef enum:
    WORKERS_MAX = 64
    ADDRESSES_MAX = 16  # of one upstream name
    TARGETS_MAX = 1000  # of one upstream: a pick looks at each of them
    TRIES_MAX = 16  # of a request, whatever the service's retries say
    SCRATCH_BYTES = 65536  # what one read can take
    HEADROOM = 256  # bytes before the read window, for what was held back from the last read
    OUTPUT_BYTES_MAX = 65536 + 2048  # pending output of a socket outside a session
    HEAD_BYTES_MAX = 32768  # a request head
    INPUT_BYTES_MAX = HEAD_BYTES_MAX + 65536  # and the body of a token request
    COMPOSE_BYTES = 262144  # of heads being put together: what came in, escaped, and ours
    EVENTS_MAX = 256  # a turn
    ACCEPTS_MAX = 16  # a listener and turn
    TLS_ACCEPTS_MAX = 4  # whose first flight is cryptography
    READS_MAX = 4  # a connection and turn: 256 KiB, then the others have theirs
    WHEEL_SLOTS = 512
    GRANT_SEGMENT = 512  # chains taken from the system at a time; a power of two
    WHEEL_TICK_MS = 100
    INBOX_SLOTS = 8192
    QUESTION_SLOTS = 4096
    RECORD_SLOTS = 4096
    SLAB_CHUNK = 256  # structs taken from the system at a time
    PIPE_BYTES = 1 << 20  # what a worker's pipe may hold: 256 pieces, however small each is
    STATUS_MAX = 600
    POOL_IDLE_MAX = 256  # upstream connections kept for a next request
    POOL_CHAINS = 64  # a power of two

cdef enum:  # times, milliseconds
    HEAD_MS = 10000  # from the first byte of a head to its last; also for the TLS handshake
    KEEPALIVE_MS = 60000  # a client connection without a request in hand
    PARK_MS = 5000  # a question out: the Python side's own bounds are shorter
    WRITE_MS = 60000  # for a client that takes nothing of an answer of ours

cdef enum:  # results that are not -errno; see style.md, one error channel
    IO_EOF = -900  # the peer ended its side in an orderly way
    IO_TLS = -901  # TLS broke: alert, bad record
    CORE_FULL = -902  # a bound was reached; the caller answers 503
    IO_VERIFY = -5000  # minus X509_V_ERR_*: the peer's certificate was refused

# --- configuration, as published: read-only once a worker can see it -----------------------------

cdef struct Span:
    const uint8_t* data  # borrowed
    uint32_t size  # bytes

cdef struct Address:
    uint8_t bytes[16]  # IPv4 in the first 4
    uint8_t v6

cdef struct AddressList:
    uint32_t count  # 1..ADDRESSES_MAX
    Address items[16]

cdef struct NameCell:
    AddressList* addresses  # published by the Python thread, replaced whole; NULL: none known
    uint64_t failed  # 1 while the last resolution failed and nothing good is known

cdef struct Target:
    # Where requests go: the service's own host, or one target of the upstream of that name.

    NameCell* name  # borrowed from the Python owner; NULL where there is nowhere to go
    uint32_t weight  # among the targets of an upstream; 1..65535
    uint16_t port
    Span host_name  # owned, as those below: without brackets, for questions
    Span host_header  # Host value to the upstream without preserve_host (port as §7 says)
    Span server_name  # that without its port: what TLS asks for, and kept connections were made for

cdef struct Balance:
    # The targets of an upstream, and how far each worker has come in going round: see _balance.

    uint32_t count  # 0..TARGETS_MAX
    uint32_t stride  # words from row to row: a cache line between, which no two workers write to
    Target* targets  # owned, in the order in which they were added
    int64_t* rows  # owned, [worker][stride]: whether it has begun, then each target's current weight
    # Invariant: a row is its worker's own; the current weights in it add up to 0.

cdef enum PolicyFlag:
    POLICY_SERVICE = 1 << 0  # has a service
    POLICY_WS = 1 << 1  # protocols are of the family ws, wss
    POLICY_TLS_ONLY = 1 << 2  # https without http, or wss without ws
    POLICY_STRIP_PATH = 1 << 3
    POLICY_PRESERVE_HOST = 1 << 4
    POLICY_OAUTH2 = 1 << 5  # the oauth2 plugin runs here
    POLICY_GLOBAL_CREDENTIALS = 1 << 6
    POLICY_HIDE_CREDENTIALS = 1 << 7
    POLICY_UPSTREAM_HTTP = 1 << 8  # the service's protocol is http or https, else ws or wss
    POLICY_UPSTREAM_TLS = 1 << 9  # https or wss
    POLICY_VALIDATE_UTF8 = 1 << 10  # text frames are checked as they pass
    POLICY_REFUSE_DEFLATE = 1 << 11  # no extension of WebSocket is offered to the upstream
    POLICY_IGNORE_EXPIRY = 1 << 24  # the end of a token does nothing to its sessions
    POLICY_FOLLOW_CREDENTIAL = 1 << 25  # also a newer token of the client moves its sessions
    POLICY_FOLLOW_NONE = 1 << 26  # a refresh does not move the deadline of its sessions
    POLICY_JWT = 1 << 13  # tokens may be JWTs of `issuer`
    POLICY_ENDPOINTS = 1 << 16  # the issuer answers all of its endpoints here
    POLICY_CARRIER_HEADER = 1 << 17  # where a token is looked for
    POLICY_CARRIER_QUERY = 1 << 18  # and in bodies
    POLICY_CARRIER_PROTOCOL = 1 << 19  # Sec-WebSocket-Protocol
    POLICY_CARRIER_TICKET = 1 << 20
    POLICY_CARRIER_COOKIE = 1 << 21
    POLICY_REFUSE_CLOSE = 1 << 22  # a refused handshake gets 101, and a Close that says why
    POLICY_REFUSE_AUTO = 1 << 23  # likewise where a browser asks

cdef enum:
    # Carriers that never go on to the upstream; looked at when the others hold no token.
    POLICY_CARRIERS_MORE = POLICY_CARRIER_PROTOCOL | POLICY_CARRIER_TICKET | POLICY_CARRIER_COOKIE

cdef enum PolicyChange:
    # What an edit or the end of a policy does to its sessions: websocket-session, on_edit, on_delete.
    CHANGE_KEEP = 0
    CHANGE_DRAIN  # Close 1012, spread over time
    CHANGE_CLOSE  # Close 1012 at once

cdef enum Parting:
    # What became of a policy that no tables have any more; none: the sessions on it stay.
    PARTING_SHUT = 1 << 0  # no session may begin on it
    PARTING_GONE = 1 << 1  # its route is gone, or its service disabled
    PARTING_DRAIN = 1 << 2  # its sessions end, spread over time
    PARTING_CLOSE = 1 << 3  # its sessions end at once

cdef struct Principal:
    uint8_t consumer[16]
    uint8_t credential[16]  # zeros for an anonymous consumer
    uint8_t has_credential
    Span headers  # owned: prepared header lines to the upstream, each ended by CRLF

cdef struct Policy:
    uint8_t route[16]
    uint8_t service[16]  # zeros without POLICY_SERVICE
    uint8_t plugin[16]  # oauth2 instance; zeros without POLICY_OAUTH2
    uint32_t flags  # PolicyFlag
    uint16_t redirect_status  # 426, 301, 302, 307, 308
    uint32_t connect_timeout_ms
    uint32_t write_timeout_ms
    uint32_t read_timeout_ms
    uint32_t retries  # further tries after the first
    uint32_t client_message_max  # payload bytes of one message from the client; over it 1009
    uint32_t upstream_message_max  # likewise from the upstream
    uint32_t ping_interval_ms  # 0: no Pings of ours
    uint32_t ping_timeout_ms  # 0: their Pongs are not waited for
    uint32_t idle_timeout_ms  # without a data frame either way; 0: never
    uint32_t stall_timeout_ms  # for a side that takes nothing
    uint32_t buffered_max  # bytes a direction; past it the fast side is not read
    uint8_t on_edit  # PolicyChange
    uint8_t on_delete  # PolicyChange
    uint64_t max_age_ms  # of a session, renewed or not; 0: any
    Target target  # the service's host; no name without POLICY_SERVICE, and beside a balance
    Balance* balance  # borrowed from the policy's Python owner; NULL: the host is no upstream's name
    void* tls  # SSL_CTX*, borrowed likewise; NULL without POLICY_UPSTREAM_TLS
    Span service_path  # owned: service.path, empty when null
    Span auth_header  # owned: lower-case name of the header that carries the token
    Span challenge_missing  # owned: value of WWW-Authenticate when there is no token
    Span challenge_invalid  # owned: … for an unknown, expired or foreign one
    Span anonymous_missing  # owned: the configured anonymous consumer that does not exist, or empty
    Span origins  # owned: those that a handshake may come from, see _origin; empty: any
    Span protocol_prefix  # owned: a subprotocol that begins so has the token behind it; or empty
    Span cookie_name  # owned; empty without POLICY_CARRIER_COOKIE
    uint8_t issuer[16]  # whose JWTs are good here; the first bytes of its SHA-256, zeros: nobody's
    uint8_t audience[16]  # what a token that names audiences must name; likewise, zeros: nothing
    Principal* anonymous  # owned; NULL when none is configured
    uint64_t users[64]  # [worker]: sessions and parked handshakes that hold this policy
    uint64_t parting  # Parting; set by the Python thread when unpublished, bits are only added
    uint64_t drain_from_ms  # monotonic; written once, before PARTING_DRAIN
    uint64_t drain_until_ms
    # Invariant: all up to `users` never changes; freed when unpublished and sum(users) == 0.

# --- memory ---------------------------------------------------------------------------------------

cdef struct Slab:
    size_t size  # of one struct, bytes
    size_t kept  # bytes at the start of a free struct that may be read; the rest is poisoned
    void* spare  # free list, linked through the first word
    void** chunks  # owned; each SLAB_CHUNK structs
    uint32_t chunk_count
    uint32_t chunk_capacity
    uint32_t taken
    uint32_t ceiling  # structs at most
    # Invariant: taken <= ceiling <= chunk_capacity * SLAB_CHUNK.

cdef int slab_init(Slab* slab, size_t size, size_t kept, uint32_t ceiling) noexcept nogil
cdef void slab_free(Slab* slab) noexcept nogil
cdef void* slab_take(Slab* slab) noexcept nogil  # zeroed; NULL at the ceiling
cdef void slab_give(Slab* slab, void* item) noexcept nogil
cdef void* slab_at(Slab* slab, uint32_t index) noexcept nogil  # NULL when never allocated
cdef uint32_t slab_grow(Slab* slab) noexcept nogil

cdef struct Buffer:
    uint8_t* data  # owned; NULL when empty and idle
    uint32_t head  # offset of the oldest byte
    uint32_t tail  # offset of the first free byte
    uint32_t capacity  # bytes
    # Invariant: head <= tail <= capacity.

cdef inline uint32_t buffer_size(const Buffer* buffer) noexcept nogil:
    return buffer.tail - buffer.head

cdef int buffer_append(
    Buffer* buffer, const uint8_t* data, uint32_t size, uint32_t most
) noexcept nogil
cdef void buffer_consume(Buffer* buffer, uint32_t size) noexcept nogil  # frees when it empties
cdef void buffer_drop(Buffer* buffer) noexcept nogil

# --- grace periods: when memory that workers may still read can be freed --------------------------

cdef class Reclaimer:
    """Frees memory once no worker can still be reading it.  Python thread only.

    A worker's `turn` is odd while it works and even while it sleeps in epoll_wait.  What is
    retired now may go when each worker that was odd has moved on.
    """

    cdef uint64_t* turns[64]  # borrowed, each worker's
    cdef int workers
    cdef object waiting  # deque of (turn values, kind, pointer or object)
    cdef void attach(self, uint64_t* turn)
    cdef void retire(self, void* memory)  # free() it later
    cpdef void retire_object(self, object owner)  # drop the reference later
    cpdef int sweep(self)
    cdef tuple _seen(self)
    cdef bint _passed(self, tuple seen)

# --- time -----------------------------------------------------------------------------------------

cdef struct Timer:
    Timer* next
    Timer* prev  # NULL: not armed
    uint64_t deadline_ms

cdef struct Wheel:
    Timer slots[512]  # heads of circular lists
    uint64_t filled[8]  # a bit a slot: set while it holds a timer, and perhaps for a while after
    uint64_t now_tick
    uint64_t armed

ctypedef void (*timer_fired)(void* context, Timer* timer) noexcept nogil

cdef void wheel_init(Wheel* wheel, uint64_t now_ms) noexcept nogil
cdef void wheel_arm(Wheel* wheel, Timer* timer, uint64_t deadline_ms) noexcept nogil
cdef void wheel_cancel(Wheel* wheel, Timer* timer) noexcept nogil
cdef int wheel_run(Wheel* wheel, uint64_t now_ms, timer_fired fired, void* context) noexcept nogil
cdef int wheel_sleep_ms(Wheel* wheel, uint64_t now_ms) noexcept nogil

# --- connections ----------------------------------------------------------------------------------

cdef enum ConnKind:
    CONN_FREE = 0
    CONN_LISTENER
    CONN_INBOX
    CONN_CLIENT
    CONN_UPSTREAM

cdef enum ConnState:
    STATE_TLS = 1  # TLS handshake; upstream: the TCP connect before it too
    STATE_HEAD  # client: reading a request head; upstream: reading the answer's head
    STATE_PARKED  # client: a question is out
    STATE_BODY  # client: reading the body of a token request
    STATE_PROXY  # client: an upstream has its request; upstream: its answer is on its way
    STATE_CONNECT  # upstream: TCP connect in flight, or the request's head not all out
    STATE_IDLE  # upstream: kept in the pool, nobody's
    STATE_RELAY  # both: an established session
    STATE_LINGER  # both: our last byte is out, the peer may end in its own time

cdef enum ConnFlag:
    FLAG_READABLE = 1 << 0  # the kernel may hold input (edge-triggered)
    FLAG_WRITABLE = 1 << 1  # the kernel may take output
    FLAG_EOF = 1 << 2  # the peer's sending side has ended
    FLAG_BROKEN = 1 << 3  # the socket failed: no more reads or writes
    FLAG_TLS = 1 << 4  # listener: its connections speak TLS; client: this one does
    FLAG_READY = 1 << 5  # is in the worker's ready list
    FLAG_REFUSED = 1 << 6  # client: refused by a Close, counted in Limits.refusals until it ends
    FLAG_KEEP = 1 << 7  # keep the connection after the answer being written
    FLAG_V6 = 1 << 8  # `remote` is IPv6
    FLAG_DEAD = 1 << 9  # closed; freed at the end of the turn
    FLAG_SHUT = 1 << 10  # our sending side has ended
    FLAG_USED = 1 << 11  # client: at least one request was answered here
    FLAG_REGISTERED = 1 << 12  # is in epoll
    FLAG_HUNG_UP = 1 << 13  # epoll told of the peer's end: read on until it shows
    FLAG_SOCKET_V6 = 1 << 14  # `socket_address` is IPv6
    FLAG_DRAINED = 1 << 15  # TLS: the kernel held nothing more; FLAG_READABLE means OpenSSL too

cdef enum GrantEnd:
    # Why the right to a session has ended.
    GRANT_HOLDS = 0
    GRANT_EXPIRED
    GRANT_REVOKED
    GRANT_CREDENTIAL  # its credential is gone
    GRANT_CONSUMER
    GRANT_PLUGIN  # the one that issued its token
    GRANT_TOO_OLD  # Policy.max_age_ms

cdef struct Grant:
    # The token that a session, or a handshake under way, rests on.  First field of its holder.

    Grant* next  # in its chain, or among those that are to end
    Grant** held  # what points here; NULL: it is in no list
    uint8_t digest[32]  # SHA-256 of the token
    uint8_t jti[16]  # of a JWT, else zeros
    uint8_t plugin[16]  # that issued it; zeros: made by hand, or there is no token
    double expires_at  # seconds since 1970; 0: never
    uint8_t ended  # GrantEnd
    uint8_t is_session  # the holder is a Session, else a Request
    # Invariant: held == NULL or held[0] is this; in the index while ended == GRANT_HOLDS.

cdef struct GrantIndex:
    # The grants of a worker by digest, see _grants; and those sessions that are to end.

    Grant*** segments  # owned; each, owned, of GRANT_SEGMENT chains
    uint32_t segments_max
    uint32_t chains  # in use
    uint32_t level  # the largest power of two that is not above `chains`
    uint32_t count  # grants in them
    uint64_t seed  # secret: nobody chooses whose chain is long
    Grant* ending  # oldest first
    Grant** ending_last  # where the next one goes
    # Invariant: GRANT_SEGMENT <= chains <= segments_max * GRANT_SEGMENT.

cdef struct Session
cdef struct Request

cdef struct Conn:
    Timer timer  # first: a Timer* is a Conn*
    int fd
    uint8_t kind
    uint8_t state
    uint16_t flags
    uint32_t index  # in the worker's slab: for refs
    uint32_t generation  # told apart from the slot's earlier lives
    void* ssl  # SSL*, owned; NULL: plaintext
    Session* session  # owned by the pair; NULL outside a WebSocket
    Request* request  # owned; NULL when no request is in hand (client only)
    Conn* peer  # upstream with a request in hand: its client; NULL else
    Conn* next  # in the ready list or the graveyard
    Buffer input  # bytes read and not consumed: partial heads, bodies, held-back frames
    Buffer output  # bytes the socket did not take
    uint8_t remote[16]  # the client's address, or the upstream's; network order, IPv4 in the first 4
    uint8_t socket_address[16]  # the peer's own, likewise: `remote` may be a trusted peer's word
    uint16_t remote_port  # 0: a trusted peer named the address
    uint16_t socket_port
    uint16_t local_port
    uint32_t scanned  # http_scan_head's memory; lingering: bytes dropped so far; listener: its batch
    # Body bytes of a request answered early, dropped as they come; idle: its slot; listener: its turn.
    uint32_t skip
    uint32_t address_cell  # in Limits.addresses, 0: not counted there (client only)

cdef struct Request:
    # One request being served, from its head to its answer; taken from a slab.

    Grant grant  # in the index once it may become a session
    Policy* policy  # held (users), NULL before routing or without a route
    const Target* target  # the policy's, of this try; set when an upstream is begun with
    uint8_t plugin[16]  # a request for the issuer: the oauth2 instance that it is for
    uint64_t began_ms  # monotonic, when its first byte was read
    uint64_t upstream_began_ms
    uint32_t head_len  # of the request, in the connection's input while parked
    uint32_t prefix_len  # of the path, matched by the route
    uint8_t id[16]  # random; 32 hex digits on the wire
    uint8_t verdict  # answer to a parked question: VERDICT_*
    uint8_t attempts  # upstream connects tried
    uint8_t aimed  # `attempts` when `target` was chosen
    uint8_t round  # how often each place had this request: the next address of it is tried
    uint8_t host_kept  # Host is the client's own, whatever the target
    uint8_t tried_n
    uint16_t tried[16]  # the targets of an upstream that had it in this round; TRIES_MAX at the most
    uint8_t is_handshake
    uint8_t head_only  # the method is HEAD: an answer has no body
    uint8_t question  # QuestionKind that is out; 0: none
    uint8_t expects  # the client waits for 100 Continue before its body
    uint8_t has_token
    uint8_t has_consumer
    uint8_t offered_extension
    uint8_t interim  # 1xx answers of the upstream so far
    uint8_t type_wanted  # AnswerType of an error met later
    uint8_t proxied  # on an http or https route; else a handshake of a ws or wss route
    uint8_t switches  # asks for a WebSocket: 101 is an answer to it
    uint8_t keys  # Sec-WebSocket-Key: 0 none, 1 `accept` answers it, 2 nothing can
    uint8_t version_minor
    uint8_t idempotent  # may be sent again after bytes of it went out
    uint8_t body_chunked  # the body comes, and goes on, in chunks
    uint8_t body_begun  # some of the body was taken: it cannot be sent again
    uint8_t judged_by_body  # its body is being read, as the token may be there
    uint8_t deaf  # the upstream takes no more of the body
    uint8_t reused  # the upstream's connection came out of the pool
    uint8_t fresh  # one from the pool was dead: no more of those
    uint8_t answer_coded  # the answer's body goes to the client in chunks
    uint8_t upstream_keeps  # the upstream's connection can serve another
    uint8_t moved  # bytes moved since the timers were armed
    uint8_t marked  # the client offers `bearer`: an answer where the upstream chooses nothing
    uint8_t redeemed  # what came of its ticket, TICKET_*
    int64_t answer_left  # of the answer's body, BODY_*
    uint64_t answer_passed  # bytes of it so far
    uint64_t answer_chunked[4]  # the chunked decoder's state
    uint8_t counted  # in Limits.sessions, until a session takes that over
    uint32_t consumer_cell  # likewise, in Limits.consumers; 0: not counted there
    int64_t body_left  # of the request's body; BODY_*
    uint8_t accept[28]  # the Sec-WebSocket-Accept the upstream owes
    uint8_t ticket_token[32]  # SHA-256 of the token that a ticket stands for: TICKET_GOOD
    uint8_t consumer[16]
    uint8_t credential[16]
    uint8_t* upstream_head  # owned; for the upstream, kept for another try
    uint32_t upstream_head_len
    uint32_t upstream_sent  # bytes of it
    uint32_t address  # of the upstream's list: where this attempt goes
    uint32_t body_have  # bytes of the body of a token request, decoded, behind its head
    uint32_t body_raw  # offset behind the head where undecoded chunks start
    uint64_t chunked[4]  # the chunked decoder's state
    Conn* upstream  # has this request, or is being connected for it; NULL else

cdef enum BodyLength:  # in the place of a length
    BODY_CHUNKED = -1
    BODY_TO_END = -2  # until the connection ends; of an upstream's answer

cdef enum Verdict:
    VERDICT_NONE = 0
    VERDICT_KNOWN
    VERDICT_UNKNOWN
    VERDICT_UNAVAILABLE
    VERDICT_NAME_FOUND
    VERDICT_NAME_FAILED

cdef enum TicketState:
    TICKET_UNASKED = 0
    TICKET_GOOD  # it was redeemed, and this request is what it was for
    TICKET_BAD

cdef enum Step:
    # What a stage tells the worker to do next with a connection.
    STEP_WAIT = 0  # nothing: an event, a timer or a note goes on
    STEP_CLOSE  # end it without a word
    STEP_ANSWER  # send `worker.answer`
    STEP_REQUEST  # for the issuer: its head stands at the start of the connection's input
    STEP_ESTABLISHED  # the WebSocket stands: relay
    STEP_ADMITTED  # the request may go to its upstream
    STEP_PARK  # a question must be answered first
    STEP_BODY  # its body must be here first
    STEP_PROXY  # move what can be moved between client and upstream
    STEP_ANSWERED  # an upstream's answer has ended: the connection goes on, or lingers
    STEP_REFUSE  # send `worker.answer.composed`, a 101 and a Close

cdef struct Answer:
    # An answer of our own, being made.  Spans are borrowed for this turn.
    uint16_t status
    uint8_t close  # the connection cannot go on
    uint8_t engine  # the body's type is text/plain unless asked otherwise (routing-and-proxy.md §9)
    uint8_t type_wanted  # negotiated: ANSWER_*
    const char* why  # static text for the record; NULL: as the message
    const char* message  # static text of the error template; NULL: `body` is sent as it is
    Span message_more  # goes behind `message`; clean of control bytes
    const char* message_end  # static text behind that, or NULL
    Span body  # JSON
    Span challenge  # value of WWW-Authenticate, or empty
    Span location  # value of Location, or empty
    const char* fields  # static header lines, each ended by CRLF, or NULL
    Span composed  # STEP_REFUSE: all that is sent, in `worker.compose`
    uint16_t close_code  # STEP_REFUSE

cdef enum AnswerType:
    ANSWER_DEFAULT = 0
    ANSWER_JSON
    ANSWER_PLAIN
    ANSWER_HTML
    ANSWER_XML

cdef enum FlowFlag:
    FLOW_IN_MESSAGE = 1 << 0  # a fragmented message is open
    FLOW_CLOSE_SEEN = 1 << 1  # the source sent its Close; what follows is ignored
    FLOW_CLOSE_SENT = 1 << 2  # the sink was sent a Close, the source's or ours: nothing may follow
    FLOW_RSV1 = 1 << 3  # permessage-deflate was negotiated
    FLOW_ENDED = 1 << 4  # nothing more is read from the source
    FLOW_MASKED = 1 << 5  # the source is the client
    FLOW_TORN = 1 << 6  # the sink's stream ends inside a frame: no Close can follow
    FLOW_CLOSE_PASSES = 1 << 7  # the source's Close is in what goes on now
    FLOW_CHECKED = 1 << 8  # text is checked as it passes
    FLOW_TEXT = 1 << 9  # the message in hand is text to be checked
    FLOW_CHUNKED = 1 << 10  # the frame in hand goes on as fragments, each after its check
    FLOW_PINGED = 1 << 11  # a Ping of ours went to the source, and its Pong has not come
    FLOW_OWES_PONG = 1 << 12  # the sink's last Ping went to the source, and no Pong has come since
    FLOW_OPAQUE = 1 << 13  # on an http or https route: no rule is enforced
    FLOW_BLIND = 1 << 14  # opaque, and what came is no frame: its bytes only pass
    FLOW_LARGE = 1 << 15  # the last data frames were large: the next may be passed on without a copy

cdef struct Flow:
    # One direction of a session: what the source sends, on its way to the sink.

    uint64_t frame_left  # payload bytes of the frame in hand not yet sent on
    uint64_t message_bytes  # payload so far of the message in hand
    uint64_t messages  # whole data messages sent on
    uint64_t bytes  # payload bytes of data messages sent on
    uint64_t heard_ms  # when the source last sent anything; 0: nothing since our last Ping
    uint64_t data_ms  # when it last sent a data frame, or part of one
    uint64_t taken_ms  # with output pending: when the sink last took some
    uint64_t pinged_ms  # when our last Ping went to the source; 0: none yet
    uint64_t owes_ms  # FLOW_OWES_PONG: since when
    uint32_t queued  # what the kernel held for the sink, looking for a stall; plus one; 0: not looked
    uint32_t ping_queued  # what it held for the source when our last Ping was behind that; plus one
    uint32_t message_max  # payload bytes of one message; over it 1009
    uint32_t read_max  # bytes a read
    uint32_t utf8  # FLOW_TEXT: utf8_step's state
    uint16_t close_code  # the source's own Close: its code, 1005 when empty, 0 when none
    uint16_t flags  # FlowFlag
    uint8_t held  # bytes of an incomplete header, Close or Pong, in the source's `input`
    uint8_t seen  # FLOW_OPAQUE: bytes in `head`, which have gone on
    uint8_t opcode  # FLOW_CHUNKED: of the next fragment
    uint8_t fin  # FLOW_CHUNKED: of the last one
    uint8_t mask[4]  # FLOW_CHUNKED: of the next one, turned to where its payload begins
    uint8_t ping[8]  # payload of our last Ping to the source
    uint8_t head[14]  # FLOW_OPAQUE: an incomplete header
    uint8_t turn  # the worker's, low bits, in which `reads` were made
    uint8_t reads  # READS_MAX at the most

cdef struct Session:
    # An established WebSocket: two connections and what they are allowed.

    Grant grant  # in the index, unless there is no token or its end is ignored
    Conn* client
    Conn* upstream
    Flow up  # client to upstream
    Flow down  # upstream to client
    Policy* policy  # held (users)
    Session* next  # all sessions of the worker, circular
    Session* prev
    uint64_t began_ms
    uint8_t id[16]  # the request's
    uint8_t consumer[16]
    uint8_t credential[16]
    uint8_t has_consumer
    uint8_t has_credential
    uint8_t opaque  # on an http or https route: frames are walked only to count and to place a Close
    uint8_t ending  # 0: live; else END_*
    uint8_t ended_by  # 0 gateway, 1 client, 2 upstream
    uint16_t client_code  # what the client hears; 0: nothing yet
    uint16_t upstream_code
    uint16_t due_client  # the Close that is due to the client once its stream stands at a boundary
    uint16_t due_upstream
    uint8_t heard_out  # EndedBy of the side that broke a rule: its Close waits for the other's
    uint32_t consumer_cell  # in Limits.consumers, 0: not counted there
    const char* why  # static text for the close record

# --- what workers tell the Python thread, and hear from it ----------------------------------------

cdef enum QuestionKind:
    QUESTION_TOKEN = 1
    QUESTION_REQUEST
    QUESTION_NAME
    QUESTION_TICKET
    QUESTION_MOVED  # no question: how many sessions a NOTE_MOVED with a ref moved

cdef struct Question:
    uint64_t ref  # worker, generation and index of the connection; QUESTION_MOVED: the note's
    uint64_t count  # QUESTION_MOVED: sessions
    uint8_t kind
    uint8_t check_passed
    uint8_t digest[32]
    # Owned, malloc: head and body of a token request; a host name; a JWT; of a ticket's handshake host,
    # path and Origin, one behind the other.
    uint8_t* text
    uint32_t text_len
    uint32_t head_len  # of a ticket: of the host
    uint32_t path_len
    uint8_t has_origin
    uint8_t plugin[16]
    uint8_t route[16]
    uint8_t service[16]
    uint8_t has_service
    uint8_t tls
    uint8_t trusted
    uint8_t v6
    uint8_t address[16]
    uint8_t id[16]

cdef enum NoteKind:
    NOTE_VERDICT = 1  # value: Verdict
    NOTE_RESPONSE  # text: a whole response, owned by the note
    NOTE_DRAIN  # value: milliseconds to spread the ends over
    NOTE_STOP
    NOTE_PARTED  # sessions of this worker hold a policy whose `parting` ends them
    NOTE_ENDED  # text: digests of tokens that were revoked
    NOTE_MOVED  # text: a MovedText; value: GrantMove; ref: of the answer, 0: none is wanted
    NOTE_GONE  # text: a Hunt, for the sessions of what is gone; kept by the worker

cdef struct Note:
    uint64_t ref
    uint64_t value  # Verdict, milliseconds, or the bytes of a response's head in `text`
    uint8_t* text  # owned by the receiver
    uint32_t text_len
    uint8_t kind

cdef enum GrantMove:
    # Why sessions go over from a token to another.
    MOVE_REFRESHED = 1  # the old one was refreshed
    MOVE_RENEWED  # a newer one of the same client and user came: where the policy says so
    MOVE_ASKED  # the client said so

cdef struct MovedText:
    uint8_t digest[32]  # of the new token
    uint8_t jti[16]
    uint8_t plugin[16]
    double expires_at
    # Digests of the old ones follow.

cdef enum:
    HUNT_KEY = 17  # bytes: a GrantEnd, and the id of what is gone; of a JWT with GRANT_REVOKED

cdef struct Hunt:
    Hunt* next
    uint64_t count  # keys that follow, in order; none: only deadlines are looked at
    # Owned by the worker; made by the Python thread.

cdef enum RecordKind:
    RECORD_REFUSED = 1
    RECORD_ENDED

cdef struct Record:
    uint8_t kind
    uint8_t flags  # RECORD_HAS_*
    uint8_t ended_by
    uint8_t v6
    uint16_t status
    uint16_t client_code
    uint16_t upstream_code
    uint16_t remote_port
    uint8_t remote[16]
    uint8_t id[16]
    uint8_t route[16]
    uint8_t service[16]
    uint8_t consumer[16]
    uint8_t credential[16]
    const char* why  # static text
    uint64_t duration_ms
    uint64_t messages_up
    uint64_t messages_down
    uint64_t bytes_up
    uint64_t bytes_down

cdef enum:
    RECORD_HAS_ROUTE = 1
    RECORD_HAS_SERVICE = 2
    RECORD_HAS_CONSUMER = 4
    RECORD_HAS_CREDENTIAL = 8

cdef struct Ring:
    # Single producer, single consumer; slots of one size, a power of two of them.

    uint8_t* slots  # owned
    uint32_t slot_size
    uint32_t mask
    uint64_t written  # by the producer only
    uint8_t _apart[64]
    uint64_t taken  # by the consumer only
    # Invariant: taken <= written <= taken + mask + 1.

cdef int ring_init(Ring* ring, uint32_t slot_size, uint32_t slots) noexcept nogil
cdef void ring_free(Ring* ring) noexcept nogil
cdef void* ring_reserve(Ring* ring) noexcept nogil  # NULL when full; then ring_publish
cdef void ring_publish(Ring* ring) noexcept nogil
cdef void* ring_peek(Ring* ring) noexcept nogil  # NULL when empty; then ring_release
cdef void ring_release(Ring* ring) noexcept nogil

# --- a worker -------------------------------------------------------------------------------------

cdef enum:
    # slots: 0-15: 1000-1015, 16: 4401, 17: 4403, 18: 4408, 19: 4429, 20: 3xxx, 21: 4xxx, 22: other
    CLOSE_SLOTS = 24

cdef enum Refusal:
    # What was refused, by the bound that it met.
    REFUSED_CONNECTIONS = 0  # MAX_CONNECTIONS
    REFUSED_SESSIONS  # MAX_SESSIONS
    REFUSED_DESCRIPTORS  # the process's own limit
    REFUSED_ADDRESS  # MAX_CONNECTIONS_PER_ADDRESS
    REFUSED_RATE  # HANDSHAKE_RATE_PER_ADDRESS
    REFUSED_CONSUMER  # MAX_SESSIONS_PER_CONSUMER
    REFUSED_HEAD  # HEAD_BYTES
    REFUSED_DRAINING
    REFUSALS

cdef struct Counters:
    # One writer, the worker; read torn-free by the Python thread.

    uint64_t handshakes[600]  # by status
    uint64_t sessions_total
    uint64_t sessions_live
    uint64_t conns_live
    uint64_t accepts
    uint64_t messages_up
    uint64_t messages_down
    uint64_t bytes_up
    uint64_t bytes_down
    uint64_t closes[48]  # [side * CLOSE_SLOTS + slot]: what was sent to client (0), upstream (1)
    uint64_t pings  # of ours, to either side
    uint64_t bytes_spliced  # of large frames and their headers, passed on without a copy
    uint64_t reads_held  # the fast side was not read, as the slow one had enough pending
    uint64_t budgets_spent  # a session had more to read than its turn allows
    uint64_t token_hits
    uint64_t token_misses
    uint64_t records_dropped
    uint64_t questions_dropped
    uint64_t requests  # answers of ours, token requests among them
    uint64_t refused_full  # without memory for one more
    uint64_t refused[16]  # by Refusal
    uint64_t proxied[6]  # answers of upstreams handed on, by the first digit of their status
    uint64_t exchanges_live  # requests that an upstream of an http or https route has in hand
    uint64_t upstream_reused  # requests sent on a connection out of the pool
    uint64_t ends[8]  # sessions whose right ended, by GrantEnd
    uint64_t moved  # sessions that went over to another token

cdef struct Pool:
    # Upstream connections without a request, chained by address and port, newest first.

    Conn* idle[256]  # NULL: a free slot
    uint16_t after[256]  # slot + 1 of the next in its chain, or of the next free slot
    uint16_t first[64]  # slot + 1
    uint16_t free_first  # slot + 1
    uint16_t used  # slots ever used
    uint16_t count
    # Invariant: count <= used <= POOL_IDLE_MAX.

cdef struct Shared:
    # What all workers read; written by the Python thread.

    void* tables  # Tables*, published
    void* tokens  # TokenCache's C side
    uint64_t draining
    uint64_t realtime_offset_ms  # realtime minus monotonic, refreshed by the Python thread
    int question_fd
    int workers
    uint32_t max_sessions
    uint32_t max_connections  # of clients
    uint32_t head_max  # bytes of a request's head
    Limits limits
    Span server_token
    Address trusted[64]  # IPv4 as mapped IPv6
    uint8_t trusted_bits[64]
    int trusted_count
    void* tls  # SSL_CTX* of TLS_CERT
    void* snis  # SniTable*, published with the tables

cdef struct Walk:
    # The search for sessions that end with their policy: rounds over all connections, see _parting.

    uint8_t under_way
    uint8_t once_more  # a note came during the round
    uint8_t not_yet_due  # sessions met in this round end later
    uint32_t at  # index of the next connection
    uint64_t next_ms  # when to go on

cdef struct Search:
    # The walk over all connections for the sessions of what is gone, see _follow.

    Hunt* wanted  # owned; looked for in this round
    Hunt* coming  # owned; for the next one
    uint8_t under_way
    uint32_t at  # index of the next connection

cdef struct Worker:
    int index
    int epoll_fd
    int inbox_fd
    int pipe[2]  # empty but during a pass of large frames, see _large
    int spare_fd  # open for nothing: closed to accept and refuse when there are no others
    uint8_t stopping
    uint8_t draining
    uint64_t turn  # odd while working, even while asleep
    uint64_t now_ms  # monotonic, read once a turn
    uint64_t random[4]  # xoshiro256**: ids, never secrets
    uint8_t entropy[256]  # from the kernel, used once each: masks
    uint32_t entropy_left
    Shared* shared
    uint8_t* scratch  # HEADROOM + SCRATCH_BYTES + slack, shared by all its connections
    uint8_t* compose  # COMPOSE_BYTES: where heads are put together
    Answer answer
    Wheel wheel
    Slab conns
    Slab sessions
    Slab requests
    Conn* ready  # connections that have more to read than their budget allowed
    Conn* graveyard  # closed in this turn
    Session all_sessions  # head of the circular list
    Pool pool
    Conn* listeners[16]
    int listener_count
    uint64_t drain_from_ms
    uint64_t drain_until_ms
    uint64_t drain_total  # sessions when the drain began
    uint64_t drain_ended  # of them, told to end so far
    Walk walk
    GrantIndex grants
    Search search
    Ring inbox
    Ring questions
    Ring records
    Counters counters

cdef int worker_init(Worker* worker, int index, Shared* shared) noexcept nogil
cdef void worker_free(Worker* worker) noexcept nogil
cdef int grants_init(GrantIndex* index, uint32_t grants_max) noexcept nogil  # 1 or -ENOMEM
cdef void grants_free(GrantIndex* index) noexcept nogil
cdef void hunts_free(Hunt** first) noexcept nogil  # all from there on
cdef Conn* conn_new(Worker* worker, int fd, uint8_t kind, uint8_t state) noexcept nogil
cdef void conn_close(Worker* worker, Conn* conn) noexcept nogil
cdef void conn_bury(Worker* worker) noexcept nogil  # frees what was closed in this turn
cdef int conn_register(Worker* worker, Conn* conn) noexcept nogil
cdef void conn_ready(Worker* worker, Conn* conn) noexcept nogil
cdef void policy_hold(Worker* worker, Policy* policy) noexcept nogil
cdef void policy_release(Worker* worker, Policy* policy) noexcept nogil
cdef void request_drop(Worker* worker, Conn* conn) noexcept nogil
cdef void session_uncount(Worker* worker, uint32_t consumer_cell) noexcept nogil
# Count a client under its address of now, and no more under the one before.  Returns False when
# that has too many: then it is counted nowhere.
cdef bint conn_count_address(Worker* worker, Conn* client) noexcept nogil
cdef void conn_uncount_address(Worker* worker, Conn* client) noexcept nogil
cdef Record* record_reserve(Worker* worker) noexcept nogil
# Count an answer other than 101, and leave a record when it refuses a handshake.
cdef void request_note(Worker* worker, Conn* client, int status, const char* why) noexcept nogil
cdef uint64_t worker_random(Worker* worker) noexcept nogil
cdef void worker_mask(Worker* worker, uint8_t* out4) noexcept nogil
cdef int conn_keep(Conn* client, const uint8_t* data, uint32_t size) noexcept nogil
cdef int conn_head_done(
    Conn* client, const uint8_t* data, uint32_t size, uint32_t head_len
) noexcept nogil
cdef Conn* conn_find(Worker* worker, uint64_t ref) noexcept nogil  # NULL when it is gone

cdef inline uint64_t conn_ref(const Worker* worker, const Conn* conn) noexcept nogil:
    return (
        (<uint64_t>worker.index << 56)
        | (<uint64_t>(conn.generation & 0xFFFFFF) << 32)
        | conn.index
    )

cdef inline void grant_leave(Worker* worker, Grant* grant) noexcept nogil:
    """Take a grant out of the list that it is in, if it is in one."""
    if grant.held == NULL:
        return
    grant.held[0] = grant.next
    if grant.next != NULL:
        grant.next.held = grant.held
    elif worker.grants.ending_last == &grant.next:
        worker.grants.ending_last = grant.held
    if grant.ended == GRANT_HOLDS:
        worker.grants.count -= 1
    grant.held = NULL
    grant.next = NULL

cdef inline void conn_renew(Conn* conn) noexcept nogil:
    """Let no ref made before find the connection: answers to older questions come to nothing."""
    conn.generation = conn.generation % 0xFFFFFF + 1

cdef inline int close_slot(int code) noexcept nogil:
    """Where a Close code that was sent is counted."""
    if 1000 <= code <= 1015:
        return code - 1000
    if code == 4401 or code == 4403:
        return 16 + (code - 4401) // 2
    if code == 4408:
        return 18
    if code == 4429:
        return 19
    if 3000 <= code <= 3999:
        return 20
    return 21 if 4000 <= code <= 4999 else 22

cdef inline void refused(Worker* worker, int refusal) noexcept nogil:
    nx_bump(&worker.counters.refused[refusal], 1)

cdef inline uint64_t clock_ms(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


# --- putting heads together -----------------------------------------------------------------------

cdef struct Writer:
    uint8_t* data  # borrowed
    uint32_t size  # bytes written
    uint32_t capacity
    uint8_t full  # something did not fit; `size` is then short
    # Invariant: size <= capacity.

cdef inline void put(Writer* out, const void* data, uint32_t size) noexcept nogil:
    if nx_unlikely(size > out.capacity - out.size):
        out.full = 1
        return
    memcpy(out.data + out.size, data, size)
    out.size += size

cdef inline void put_text(Writer* out, const char* text) noexcept nogil:
    put(out, text, <uint32_t>strlen(text))

cdef inline void put_span(Writer* out, const Span* span) noexcept nogil:
    put(out, span.data, span.size)

cdef inline void put_field(
    Writer* out, const char* name, const void* value, uint32_t size
) noexcept nogil:
    put_text(out, name)
    put(out, b": ", 2)
    put(out, value, size)
    put(out, b"\r\n", 2)

cdef void put_uint(Writer* out, uint64_t value) noexcept nogil
cdef void put_hex(Writer* out, const uint8_t* data, uint32_t size) noexcept nogil
cdef uint32_t address_text(const uint8_t* address, bint v6, char* out64) noexcept nogil
# The client is whom the socket shows, until a trusted peer names another.
cdef void client_is_peer(Conn* conn) noexcept nogil
cdef bint peer_trusted(const Shared* shared, const Conn* conn) noexcept nogil
