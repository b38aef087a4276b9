"""The messages of the link between the planes, and how they travel.

With `jws` the only module that both planes import; it imports nothing of ours. Each message is one
binary WebSocket message: a tagged union in MessagePack. `decode_to_control` and `decode_to_data`
raise `msgspec.ValidationError` or `msgspec.DecodeError` for anything else. In which order they
come: `docs/link.md`.

Ids are 16 bytes (a UUID's), digests 32 (SHA-256), times seconds since 1970 as floats.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Iterator

import msgspec

SUBPROTOCOL = "narthex.link.1"
WIRE_MAJOR = 1
WIRE_MINOR = 4  # 1: SizeLimit, SessionRules; 2: its deflate; 3: OAuth 2.0 in full; 4: Upstream
CHUNK_BYTES = 64 * 1024  # a snapshot is cut so that nothing waits behind more than this
SNAPSHOT_BYTES_MAX = 256 * 1024 * 1024  # uncompressed; larger is refused on both ends
CHUNKS_MAX = SNAPSHOT_BYTES_MAX // CHUNK_BYTES
MESSAGE_BYTES_MAX = 1024 * 1024  # any single message, chunks included
TOKENS_PER_MESSAGE = 1000
TOKEN_REQUESTS_IN_FLIGHT_MAX = 256  # a data plane
TOKEN_REQUESTS_PER_MESSAGE = 64
TOGETHER_BYTES = 256 * 1024  # requests or replies of one message, by their bodies and headers
TOKEN_REQUEST_SECONDS = 2.0
TOKEN_REQUEST_BODY_MAX = 64 * 1024
HEARTBEAT_SECONDS = 1.0
NONCE_BYTES = 32
TARGETS_MAX = 1000  # of one upstream: an engine looks at each for every request


class Struct(msgspec.Struct, frozen=True, array_like=False, omit_defaults=True, tag=True):
    """Immutable, tagged by class name, fields by name: a minor version may add fields."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """Part of a message; immutable and untagged."""


# --- configuration ---------------------------------------------------------------------------


class OAuth2(Record, frozen=True):
    """What the data plane must know of one `oauth2` plugin instance.  spec/oauth2.md §2, §6."""

    plugin_id: bytes
    global_credentials: bool = False
    hide_credentials: bool = False
    auth_header_name: str = "authorization"
    realm: str | None = None
    anonymous: bytes | None = None  # consumer id; `anonymous_missing` when it resolved to none
    anonymous_missing: str | None = None
    jwt: bool = False  # tokens may be JWTs of `issuer`, for `audience`
    issuer: str | None = None
    audience: str | None = None  # what a token that names audiences must name; None: `issuer`
    resource_metadata: str | None = None  # the URL named in challenges, RFC 9728 §5.1
    session_expiry: str = "close"  # or ignore: the end of a token does nothing to its sessions
    session_follow: str = "token"  # or credential, none: whose renewal moves a session's deadline
    session_max_age_ms: int = 0  # 0: any
    carriers: tuple[str, ...] = ("header", "query")  # and subprotocol, ticket, cookie
    subprotocol_prefix: str | None = None
    cookie_name: str | None = None
    endpoints: str = "kong"  # or all: revoke, introspect, jwks, ticket, sessions are there too


class SizeLimit(Record, frozen=True):
    """One `websocket-size-limit` instance, in payload bytes.  routing-and-proxy.md §12.4."""

    plugin_id: bytes
    client_max_payload: int = 1048576
    upstream_max_payload: int = 16777216


class SessionRules(Record, frozen=True):
    """One `websocket-session` instance; times in milliseconds, 0 is off.  §12.6."""

    plugin_id: bytes
    ping_interval_ms: int = 30000
    ping_timeout_ms: int = 20000
    idle_timeout_ms: int = 0
    stall_timeout_ms: int = 60000
    buffered_max: int = 65536
    validate_utf8: bool = False
    on_edit: str = "keep"
    on_delete: str = "drain"
    allowed_origins: list[str] = []  # empty: any
    deflate: str = "pass"  # or refuse: no extension is offered to the upstream
    on_auth_failure: str = "http"  # or close: 101 and a Close that says why; auto: for browsers


class Service(Record, frozen=True):
    """Where a route's traffic goes.  Kong `services`; times in milliseconds."""

    id: bytes
    protocol: str
    host: str
    port: int
    name: str | None = None
    path: str | None = None
    connect_timeout_ms: int = 60000
    write_timeout_ms: int = 60000
    read_timeout_ms: int = 60000
    retries: int = 5
    tls_verify: bool | None = None  # None: as true
    tls_verify_depth: int | None = None
    ca_certificates: list[bytes] | None = None  # CaCertificate.id; None: the system's store
    client_certificate: bytes | None = None  # Certificate.id


class Target(Record, frozen=True):
    """One address of an upstream."""

    host: str  # an IPv6 address without brackets
    port: int
    weight: int = 100  # 1..65535


class Upstream(Record, frozen=True):
    """Where services go that have its name for their host.  Kong `upstreams`.

    The targets that may have traffic, oldest first: neither of weight 0 nor marked unhealthy, and
    TARGETS_MAX at the most. None: such a service is answered 503.
    """

    id: bytes
    name: str
    targets: list[Target] = []
    host_header: str | None = None
    client_certificate: bytes | None = None  # Certificate.id, for services without one of their own


class Route(Record, frozen=True):
    """One route of an enabled service, or without one.  Kong `routes`."""

    id: bytes
    protocols: list[str]
    name: str | None = None
    created_at: int = 0
    methods: list[str] = []
    hosts: list[str] = []
    paths: list[str] = []
    headers: dict[str, list[str]] = {}
    https_redirect_status_code: int = 426
    strip_path: bool = True
    preserve_host: bool = False
    path_handling: str = "v0"
    service: bytes | None = None  # Service.id
    # The plugin instances chosen for this route, by their plugin_id.
    oauth2: bytes | None = None
    size_limit: bytes | None = None
    session: bytes | None = None


class Consumer(Record, frozen=True):
    id: bytes
    username: str | None = None
    custom_id: str | None = None


class Credential(Record, frozen=True):
    """An `oauth2_credentials` row without its secret."""

    id: bytes
    client_id: str
    consumer: bytes


class Certificate(Record, frozen=True):
    """A pair, PEM, for listeners (`snis`) and for services that show it to their upstream.

    `cert` may have its chain behind it; the `_alt` pair is of the other kind of key (RSA, ECDSA).
    """

    id: bytes
    cert: str
    key: str
    cert_alt: str | None = None
    key_alt: str | None = None
    snis: list[str] = []  # server names, lower case; one label may be `*`

    def __repr__(self) -> str:
        return f"Certificate({self.id.hex()})"  # no key in any log


class CaCertificate(Record, frozen=True):
    """A certificate authority that a service trusts, PEM."""

    id: bytes
    cert: str


class PublicKey(Record, frozen=True):
    """What one key of the issuer verifies with.  RFC 7517."""

    kid: str
    alg: str  # ES256, RS256, EdDSA
    jwk: str  # JSON, without a private part
    until: float = 0.0  # what it signed is no good from then on; 0: it is still in use


class Issuer(Record, frozen=True):
    """Where the metadata of an `oauth2` instance is asked for.  RFC 8414 §3, RFC 9728 §3."""

    plugin: bytes
    host: str  # lower case, no port
    path: str = ""  # of the issuer or the resource, without a final slash
    resource: bool = False  # of a protected resource, else of an authorization server


class Snapshot(Record, frozen=True):
    """All a data plane needs to route, admit and speak TLS.

    Never a client secret, provision key, token signing key or token row. `check_key` makes the six
    check characters of opaque tokens (`token_check`). References between records (Route.service,
    Route.oauth2 and its like, Credential.consumer, Service.client_certificate and .ca_certificates,
    Upstream.client_certificate) always resolve: `problems` says which do not.
    """

    epoch: bytes
    version: int
    check_key: bytes
    services: list[Service] = []
    routes: list[Route] = []
    oauth2: list[OAuth2] = []
    consumers: list[Consumer] = []
    credentials: list[Credential] = []
    size_limits: list[SizeLimit] = []
    sessions: list[SessionRules] = []
    certificates: list[Certificate] = []
    ca_certificates: list[CaCertificate] = []
    keys: list[PublicKey] = []
    issuers: list[Issuer] = []
    upstreams: list[Upstream] = []  # those that a service names

    def problems(self) -> list[str]:
        """What keeps this snapshot from being applied, one line each; empty when it is sound."""
        services = {s.id for s in self.services}
        plugins = {p.plugin_id for p in self.oauth2}
        limits = {p.plugin_id for p in self.size_limits}
        sessions = {p.plugin_id for p in self.sessions}
        consumers = {c.id for c in self.consumers}
        found = [
            f"route {r.id.hex()} names a service that is not there"
            for r in self.routes
            if r.service is not None and r.service not in services
        ]
        found += [
            f"route {r.id.hex()} names an oauth2 plugin that is not there"
            for r in self.routes
            if r.oauth2 is not None and r.oauth2 not in plugins
        ]
        found += [
            f"route {r.id.hex()} names a websocket-size-limit plugin that is not there"
            for r in self.routes
            if r.size_limit is not None and r.size_limit not in limits
        ]
        found += [
            f"route {r.id.hex()} names a websocket-session plugin that is not there"
            for r in self.routes
            if r.session is not None and r.session not in sessions
        ]
        found += [
            f"credential {c.id.hex()} names a consumer that is not there"
            for c in self.credentials
            if c.consumer not in consumers
        ]
        pairs = {c.id for c in self.certificates} | {None}
        found += [
            f"service {s.id.hex()} names a client certificate that is not there"
            for s in self.services
            if s.client_certificate not in pairs
        ]
        found += [
            f"upstream {u.id.hex()} names a client certificate that is not there"
            for u in self.upstreams
            if u.client_certificate not in pairs
        ]
        authorities = {c.id for c in self.ca_certificates}
        found += [
            f"service {s.id.hex()} names a CA certificate that is not there"
            for s in self.services
            if not authorities.issuperset(s.ca_certificates or ())
        ]
        return found


class Token(Record, frozen=True):
    """What an access token says.  `expires_at` is 0 for one that never expires.

    `version` is the config version at which it was made: a data plane that has not reached it
    waits for it rather than call the token's credential unknown.
    """

    digest: bytes
    credential: bytes
    expires_at: float
    service: bytes | None = None  # None: a global token
    scope: str | None = None
    user_id: str | None = None
    version: int = 0
    plugin: bytes | None = None  # the instance that issued it; None: made by hand
    audience: list[str] = []  # empty: for whoever takes it
    jti: bytes | None = None  # of a JWT, else None
    issuer: str | None = None  # likewise; a data plane reads this and `kid` from the JWT itself
    kid: str | None = None


class Revocation(Record, frozen=True):
    """An end that no snapshot has to carry.

    `kind` is token (`key`: its digest), jti, credential, consumer or plugin (`key`: its id).
    `expires_at` (0 = never): when the last thing it covers has expired by itself. That of a
    credential, consumer or plugin covers what was made at a config version below `version`, seen
    before or not: an id may come back, and what is made then is good. `version` 0: whatever.
    """

    seq: int
    kind: str
    key: bytes
    expires_at: float = 0.0
    version: int = 0


# --- control plane to data plane ---------------------------------------------------------------


class Welcome(Struct, frozen=True):
    """Answer to Hello.  `proof` is `prove(secret, "control", …)`, empty where certificates do."""

    nonce: bytes
    proof: bytes
    wire: tuple[int, int] = (WIRE_MAJOR, WIRE_MINOR)
    version: str = ""  # of Narthex


class Refused(Struct, frozen=True):
    """The link will not be; `reason` is for the operator.  The connection closes next."""

    reason: str


class Chunk(Struct, frozen=True):
    """One piece of a snapshot: `zlib` of its MessagePack, pieces 0 … count-1 in order."""

    version: int
    index: int
    count: int
    digest: bytes  # SHA-256 of the whole, before compression
    data: bytes


class Tokens(Struct, frozen=True):
    """Tokens just issued, or replayed on connect; at most TOKENS_PER_MESSAGE."""

    tokens: list[Token]


class Revocations(Struct, frozen=True):
    """In order of `seq`; at most TOKENS_PER_MESSAGE."""

    revocations: list[Revocation]


class Answer(Struct, frozen=True):
    """Answer to Question.  `token` None: there is no such token."""

    id: int
    token: Token | None = None


class Superseded(Struct, frozen=True):
    """Sessions of the old token belong to the new one from now on.

    Without an `id` a refresh, and the old token is no good any more: its revocation follows, and a
    data plane that missed both gets both when it comes back.  With an `id` the client moved its
    sessions, the old token stays as it was, and Moved tells how many went over; `token` was good
    when the client asked, which says nothing of now.
    """

    old: bytes  # digest
    token: Token
    id: int = 0


class Redeemed(Struct, frozen=True):
    """Answer to Redeem.  `token` None: there is no such ticket, or not for this handshake.

    Of a JWT `issuer` and `kid` are there as nowhere else: the JWT itself does not come along.
    """

    id: int
    token: Token | None = None


class TokenReply(Struct, frozen=True):
    """Answer to TokenRequest: an HTTP response of the issuer."""

    id: int
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class TokenReplies(Struct, frozen=True):
    """Several at once: those that became ready together."""

    replies: list[TokenReply]


class Heartbeat(Struct, frozen=True):
    """Every HEARTBEAT_SECONDS: what the control plane holds, and its clock.

    `settled`: all revocations up to `revocation_seq` that matter went before this message.
    """

    epoch: bytes
    version: int
    revocation_seq: int
    now: float
    settled: bool = False


# --- data plane to control plane ---------------------------------------------------------------


class Hello(Struct, frozen=True):
    """The first message.  Versions are 0 and epoch empty on a data plane that knows nothing."""

    node_id: bytes
    name: str
    nonce: bytes
    epoch: bytes = b""
    version: int = 0
    revocation_seq: int = 0
    wire: tuple[int, int] = (WIRE_MAJOR, WIRE_MINOR)
    software: str = ""


class Proof(Struct, frozen=True):
    """`prove(secret, "data", …)`, sent once Welcome's proof was found good."""

    proof: bytes


class Ack(Struct, frozen=True):
    """The snapshot of this version carries traffic."""

    version: int


class Nack(Struct, frozen=True):
    """The snapshot of this version was refused; the one before it stays."""

    version: int
    reason: str


class Question(Struct, frozen=True):
    """Who is the token with this digest?  `id` is the data plane's, echoed in Answer."""

    id: int
    digest: bytes


class Redeem(Struct, frozen=True):
    """Whose is the ticket with this digest, here?  It is good once.  spec/oauth2.md §14."""

    id: int
    digest: bytes
    host: str  # lower case, no port
    path: str
    origin: str | None = None


class Moved(Struct, frozen=True):
    """How many live sessions a Superseded with an `id` moved."""

    id: int
    sessions: int


class TokenRequest(msgspec.Struct, omit_defaults=True, tag=True):
    """A request to an endpoint of the issuer, met on the data plane's port.  spec/oauth2.md §3.

    Not frozen: whoever sends it gives it its `id`.
    """

    id: int
    plugin: bytes
    route: bytes
    client_ip: str
    tls: bool
    method: str
    path: str
    service: bytes | None = None
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = []
    body: bytes = b""
    peer_trusted: bool = False
    request_id: str = ""


class TokenRequests(Struct, frozen=True):
    """Several at once: those that came together.  At most TOKEN_REQUESTS_PER_MESSAGE."""

    requests: list[TokenRequest]


class Counters(Struct, frozen=True):
    """For `GET /dataplanes`: a few figures, every ten seconds."""

    sessions: int
    handshakes: int
    uptime_s: float


ToData = (
    Welcome
    | Refused
    | Chunk
    | Tokens
    | Revocations
    | Superseded
    | Answer
    | Redeemed
    | TokenReply
    | TokenReplies
    | Heartbeat
)
ToControl = (
    Hello | Proof | Ack | Nack | Question | Redeem | Moved | TokenRequest | TokenRequests | Counters
)

_encoder = msgspec.msgpack.Encoder()
_to_data = msgspec.msgpack.Decoder(ToData)
_to_control = msgspec.msgpack.Decoder(ToControl)
_snapshot = msgspec.msgpack.Decoder(Snapshot)


def encode(message: ToData | ToControl) -> bytes:
    """The message as one binary WebSocket message."""
    return _encoder.encode(message)


def decode_to_data(data: bytes) -> ToData:
    message: ToData = _to_data.decode(data)
    return message


def decode_to_control(data: bytes) -> ToControl:
    message: ToControl = _to_control.decode(data)
    return message


def prove(secret: bytes, role: str, hello_nonce: bytes, welcome_nonce: bytes) -> bytes:
    """HMAC-SHA-256 that proves LINK_SECRET for one role (`control` or `data`) in one connection."""
    text = b"\0".join((SUBPROTOCOL.encode(), role.encode(), hello_nonce, welcome_nonce))
    return hmac.digest(secret, text, "sha256")


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """MessagePack of a snapshot, not compressed; equal snapshots give equal bytes."""
    return _encoder.encode(snapshot)


def unpack_snapshot(packed: bytes) -> Snapshot:
    """Raises `msgspec.ValidationError` or `msgspec.DecodeError` when `packed` is not a snapshot."""
    return _snapshot.decode(packed)


def split_snapshot(version: int, packed: bytes) -> Iterator[Chunk]:
    """The chunks that carry `packed`, in order; at least one."""
    digest = hashlib.sha256(packed).digest()
    squeezed = zlib.compress(packed, 1)
    count = max(1, -(-len(squeezed) // CHUNK_BYTES))
    for index in range(count):
        piece = squeezed[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        yield Chunk(version, index, count, digest, piece)


class SnapshotAssembler:
    """Puts chunks together again.  One snapshot at a time; a new one drops an unfinished one."""

    def __init__(self) -> None:
        self._version = -1
        self._pieces: list[bytes] = []

    def add(self, chunk: Chunk) -> bytes | None:
        """The packed snapshot once its last chunk is in, else None.

        Raises:
            ValueError: out of order, over SNAPSHOT_BYTES_MAX, or the digest is not the whole's.
        """
        if not 0 < chunk.count <= CHUNKS_MAX:
            raise ValueError(f"version {chunk.version} has {chunk.count} chunks")
        if chunk.index == 0:
            self._version, self._pieces = chunk.version, []
        if chunk.version != self._version or chunk.index != len(self._pieces):
            raise ValueError(f"chunk {chunk.index} of version {chunk.version} is out of order")
        self._pieces.append(chunk.data)
        if len(self._pieces) < chunk.count:
            return None
        whole, self._pieces, self._version = b"".join(self._pieces), [], -1
        unpacker = zlib.decompressobj()
        try:
            packed = unpacker.decompress(whole, SNAPSHOT_BYTES_MAX)
        except zlib.error as error:
            raise ValueError(f"version {chunk.version} does not unpack: {error}") from None
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError(f"version {chunk.version} is cut short or too large")
        if hashlib.sha256(packed).digest() != chunk.digest:
            raise ValueError(f"version {chunk.version} was changed on its way: digests differ")
        return packed


TOKEN_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
TOKEN_RANDOM_CHARS = 26
TOKEN_CHECK_CHARS = 6


def token_check(check_key: bytes, random_part: str) -> str:
    """The six characters that end an opaque token of ours, made from its first 26.

    The first six bytes of HMAC-SHA-256(check_key, random part), each modulo 62 into TOKEN_ALPHABET.
    They prove nothing to a client; they let junk die on the data plane without a question.
    """
    mac = hmac.digest(check_key, random_part.encode(), "sha256")
    return "".join(TOKEN_ALPHABET[b % 62] for b in mac[:TOKEN_CHECK_CHARS])


def token_digest(token: str) -> bytes:
    """SHA-256 of an access token: how it is stored, pushed and looked up."""
    return hashlib.sha256(token.encode()).digest()
