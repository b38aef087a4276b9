"""The tables, one class per Kong entity, and the state of the cluster.

Ids are UUIDs as 36 lower-case characters. Column names are Kong's field names; a foreign key
`service` is the column `service_id`. Times are integer seconds unless a field says otherwise.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    func,
    text,
)
from sqlmodel import Field, SQLModel

from control.store.columns import EncryptedBytes, EncryptedText, SealedJSON

ID_CHARS = 36

# Named by rule, so that a later migration can name what it changes, on every database.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


def _id() -> Any:
    return Field(primary_key=True, max_length=ID_CHARS)


def _json() -> Any:
    # none_as_null: SQL NULL, never the JSON document `null`.
    return Field(default=None, sa_type=JSON(none_as_null=True))


def _big(**options: Any) -> Any:
    return Field(sa_type=BigInteger, **options)


def _reference(target: str, *, on_delete: str, nullable: bool = True, index: bool = True) -> Any:
    column = Column(
        String(ID_CHARS), ForeignKey(target, ondelete=on_delete), nullable=nullable, index=index
    )
    return Field(default=None, sa_column=column) if nullable else Field(sa_column=column)


class Service(SQLModel, table=True):
    __tablename__ = "services"

    id: str = _id()
    name: str | None = Field(default=None, unique=True)
    retries: int = 5
    protocol: str = "http"
    host: str
    port: int = 80
    path: str | None = None
    connect_timeout: int = 60000  # milliseconds, as the two below
    write_timeout: int = 60000
    read_timeout: int = 60000
    client_certificate_id: str | None = Field(default=None, max_length=ID_CHARS)
    tls_verify: bool | None = None
    tls_verify_depth: int | None = None
    ca_certificates: list[str] | None = _json()
    enabled: bool = True
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


class Route(SQLModel, table=True):
    __tablename__ = "routes"

    id: str = _id()
    name: str | None = Field(default=None, unique=True)
    protocols: list[str] = _json()
    methods: list[str] | None = _json()
    hosts: list[str] | None = _json()
    paths: list[str] | None = _json()
    headers: dict[str, list[str]] | None = _json()
    snis: list[str] | None = _json()
    sources: list[dict[str, Any]] | None = _json()
    destinations: list[dict[str, Any]] | None = _json()
    https_redirect_status_code: int = 426
    regex_priority: int = _big(default=0)
    strip_path: bool = True
    preserve_host: bool = False
    request_buffering: bool = True
    response_buffering: bool = True
    path_handling: str = "v0"
    service_id: str | None = _reference("services.id", on_delete="RESTRICT")
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


class Consumer(SQLModel, table=True):
    __tablename__ = "consumers"

    id: str = _id()
    username: str | None = Field(default=None, unique=True)
    custom_id: str | None = Field(default=None, unique=True)
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


class Plugin(SQLModel, table=True):
    """One instance of a plugin.  Unique by name and scope, null references included."""

    __tablename__ = "plugins"

    id: str = _id()
    name: str
    instance_name: str | None = Field(default=None, unique=True)
    service_id: str | None = _reference("services.id", on_delete="CASCADE")
    route_id: str | None = _reference("routes.id", on_delete="CASCADE")
    consumer_id: str | None = _reference("consumers.id", on_delete="CASCADE")
    config: dict[str, Any] = Field(sa_column=Column(SealedJSON(), nullable=False))
    policy: dict[str, Any] = Field(  # config as a data plane needs it, without secrets
        default_factory=dict, sa_column=Column(JSON(), nullable=False)
    )
    protocols: list[str] = _json()
    enabled: bool = True
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


# NULL differs from NULL in a unique constraint, so that the index is over coalesced columns.
Index(
    "uq_plugins_scope",
    Plugin.__table__.c.name,  # type: ignore[attr-defined]
    func.coalesce(Plugin.__table__.c.route_id, ""),  # type: ignore[attr-defined]
    func.coalesce(Plugin.__table__.c.service_id, ""),  # type: ignore[attr-defined]
    func.coalesce(Plugin.__table__.c.consumer_id, ""),  # type: ignore[attr-defined]
    unique=True,
)


class Certificate(SQLModel, table=True):
    """A pair, or two of different kinds of keys.  `snis`: the names of its SNIs, sorted."""

    __tablename__ = "certificates"

    id: str = _id()
    cert: str
    key: str = Field(repr=False, sa_column=Column(EncryptedText(), nullable=False))
    cert_alt: str | None = None
    key_alt: str | None = Field(default=None, repr=False, sa_column=Column(EncryptedText()))
    snis: list[str] = _json()
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


class SNI(SQLModel, table=True):
    __tablename__ = "snis"

    id: str = _id()
    name: str = Field(unique=True)
    certificate_id: str = _reference("certificates.id", on_delete="CASCADE", nullable=False)
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


class CACertificate(SQLModel, table=True):
    __tablename__ = "ca_certificates"

    id: str = _id()
    cert: str
    cert_digest: str = Field(unique=True)  # SHA-256, hexadecimal
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


class Upstream(SQLModel, table=True):
    """A name that services may have as their host, for the targets that traffic goes to."""

    __tablename__ = "upstreams"

    id: str = _id()
    name: str = Field(unique=True)
    algorithm: str = "round-robin"
    hash_on: str = "none"
    hash_fallback: str = "none"
    hash_on_header: str | None = None
    hash_fallback_header: str | None = None
    hash_on_cookie: str | None = None
    hash_on_cookie_path: str = "/"
    hash_on_query_arg: str | None = None
    hash_fallback_query_arg: str | None = None
    hash_on_uri_capture: str | None = None
    hash_fallback_uri_capture: str | None = None
    slots: int = 10000
    healthchecks: dict[str, Any] = _json()
    host_header: str | None = None
    client_certificate_id: str | None = Field(default=None, max_length=ID_CHARS)
    use_srv_name: bool = False
    tags: list[str] | None = _json()
    created_at: int = _big()
    updated_at: int = _big()


class Target(SQLModel, table=True):
    """One address of an upstream: `host:port`.  `down`: an operator said that it is unhealthy."""

    __tablename__ = "targets"
    __table_args__ = (
        UniqueConstraint("upstream_id", "target", name="uq_targets_upstream_id_target"),
    )

    id: str = _id()
    upstream_id: str = _reference("upstreams.id", on_delete="CASCADE", nullable=False)
    target: str
    weight: int = 100
    down: bool = False
    tags: list[str] | None = _json()
    created_at: float  # seconds with milliseconds, as updated_at
    updated_at: float


class OAuth2Credential(SQLModel, table=True):
    __tablename__ = "oauth2_credentials"

    id: str = _id()
    consumer_id: str = _reference("consumers.id", on_delete="CASCADE", nullable=False)
    name: str
    client_id: str = Field(unique=True)
    client_secret: str = Field(repr=False, sa_column=Column(EncryptedText(), nullable=False))
    hash_secret: bool = False  # client_secret is then a PBKDF2 PHC string
    redirect_uris: list[str] | None = _json()
    client_type: str = "confidential"
    tags: list[str] | None = _json()
    created_at: int = _big()


def _index_where(name: str, column: Any, sqlite: str, postgresql: str | None = None) -> Index:
    """An index that has entries of some rows alone: the others pay nothing for it."""
    there = text(postgresql or sqlite)
    return Index(name, column, sqlite_where=text(sqlite), postgresql_where=there)


class OAuth2Token(SQLModel, table=True):
    """An issued access token, by the SHA-256 of its value; the values are not kept."""

    __tablename__ = "oauth2_tokens"
    __table_args__ = (
        # What few tokens have.
        _index_where("ix_oauth2_tokens_service_id", "service_id", "service_id IS NOT NULL"),
        _index_where("ix_oauth2_tokens_gone_at", "gone_at", "gone_at IS NOT NULL"),
        _index_where("ix_oauth2_tokens_family_id", "family_id", "family_id IS NOT NULL"),
        _index_where("ix_oauth2_tokens_by_hand", "access_token_digest", "by_hand = 1", "by_hand"),
        # What clean-up looks for among tokens that end with their access token. Those made by hand
        # end by hand, or by their ttl.
        _index_where(
            "ix_oauth2_tokens_expiry",
            text("(created_at + expires_in)"),
            "NOT (refresh_token_digest IS NOT NULL) AND expires_in > 0 AND NOT by_hand",
        ),
    )

    id: str = _id()
    credential_id: str = _reference("oauth2_credentials.id", on_delete="CASCADE", nullable=False)
    service_id: str | None = _reference("services.id", on_delete="CASCADE", index=False)
    token_type: str = "bearer"
    access_token_digest: bytes = Field(
        sa_column=Column(LargeBinary(32), nullable=False, unique=True)
    )
    refresh_token_digest: bytes | None = Field(
        default=None, sa_column=Column(LargeBinary(32), unique=True)
    )
    authenticated_userid: str | None = None
    scope: str | None = None  # space separated
    created_at: float  # seconds with a fraction: the base of expiry
    expires_in: int = _big()  # seconds; 0 = never
    gone_at: float | None = None  # when the row ends (Kong's ttl)
    by_hand: bool = False  # made through the Admin API: replayed
    plugin_id: str | None = _reference("plugins.id", on_delete="CASCADE")  # that issued it
    family_id: str | None = Field(default=None, max_length=ID_CHARS)
    audience: list[str] | None = _json()  # RFC 8707; null: for whoever takes it
    is_jwt: bool = False  # `id` is then its jti


class AuthorizationCode(SQLModel, table=True):
    """Kong's `oauth2_authorization_codes`, by the SHA-256 of the code.

    A redeemed code stays until it expires, so that a second redemption is known for one. `id` is
    the family of the tokens that come of it.
    """

    __tablename__ = "oauth2_authorization_codes"

    id: str = _id()
    credential_id: str = _reference("oauth2_credentials.id", on_delete="CASCADE", nullable=False)
    service_id: str | None = _reference("services.id", on_delete="CASCADE")
    plugin_id: str | None = _reference("plugins.id", on_delete="CASCADE")
    code_digest: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False, unique=True))
    authenticated_userid: str | None = None
    scope: str | None = None  # space separated
    challenge: str | None = None  # base64url of a SHA-256
    challenge_method: str | None = None  # S256
    redirect_uri: str | None = None  # as it was sent at authorize; null when it was not
    audience: list[str] | None = _json()
    created_at: float
    expires_at: float = Field(index=True)
    used_at: float | None = None


class SpentRefreshToken(SQLModel, table=True):
    """A refresh token that was rotated: seen again, it ends its family.  RFC 9700 §4.14.2.

    `answer`: what the rotation gave, for `refresh_grace` seconds, and null after that.
    """

    __tablename__ = "oauth2_spent_refresh_tokens"
    __table_args__ = (
        _index_where("ix_oauth2_spent_refresh_tokens_answered", "spent_at", "answer IS NOT NULL"),
    )

    digest: bytes = Field(sa_column=Column(LargeBinary(32), primary_key=True))
    credential_id: str = _reference("oauth2_credentials.id", on_delete="CASCADE", nullable=False)
    family_id: str = Field(max_length=ID_CHARS, index=True)
    answer: str | None = Field(default=None, repr=False, sa_column=Column(EncryptedText()))
    spent_at: float
    gone_at: float = Field(index=True)


class SigningKey(SQLModel, table=True):
    """A key pair that signs JWTs.  It is published before it signs, and verifies after it did."""

    __tablename__ = "signing_keys"

    kid: str = Field(primary_key=True)
    alg: str  # ES256, RS256, EdDSA
    private_pem: str = Field(repr=False, sa_column=Column(EncryptedText(), nullable=False))
    public_jwk: dict[str, Any] = Field(sa_column=Column(JSON(), nullable=False))
    created_at: float
    active_at: float  # signs from then on
    retired_at: float | None = None  # signs no more
    gone_at: float | None = Field(default=None, index=True)  # verifies no more


class Ticket(SQLModel, table=True):
    """A one-time ticket for a WebSocket, by the SHA-256 of its value.  spec/oauth2.md §14."""

    __tablename__ = "oauth2_tickets"

    digest: bytes = Field(sa_column=Column(LargeBinary(32), primary_key=True))
    token_digest: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    host: str  # lower case, no port
    path: str
    origin: str | None = None
    issuer: str | None = None  # as the token says, if it is a JWT; likewise `kid` and `audience`
    kid: str | None = None
    audience: list[str] | None = _json()
    expires_at: float = Field(index=True)


class SeenAssertion(SQLModel, table=True):
    """A client assertion that was used: SHA-256 of its issuer and `jti`.  RFC 7523 §3 (S41)."""

    __tablename__ = "oauth2_seen_assertions"

    digest: bytes = Field(sa_column=Column(LargeBinary(32), primary_key=True))
    expires_at: float = Field(index=True)


class EntityTag(SQLModel, table=True):
    """One tag of one entity, so that filters and `/tags` need no scan."""

    __tablename__ = "entity_tags"

    tag: str = Field(primary_key=True)
    entity_name: str = Field(primary_key=True)
    entity_id: str = Field(primary_key=True, max_length=ID_CHARS, index=True)


class ClusterState(SQLModel, table=True):
    """One row.  `epoch` tells this database from any other and from its own restored past.

    It is empty in a copy (`backup`), until a control plane starts on that.
    """

    __tablename__ = "cluster_state"

    id: int = Field(default=1, primary_key=True)
    epoch: str = Field(max_length=ID_CHARS)
    config_version: int = _big(default=1)  # an empty configuration is one; 0 says there is none
    revocation_seq: int = _big(default=0)
    check_key: bytes = Field(repr=False, sa_column=Column(EncryptedBytes(), nullable=False))


class Revocation(SQLModel, table=True):
    __tablename__ = "revocations"

    seq: int = _big(primary_key=True, sa_column_kwargs={"autoincrement": False})
    kind: str  # token, jti, credential, consumer, plugin
    key: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False, index=True))
    expires_at: float = Field(default=0.0, index=True)  # 0 = never
    version: int = _big(default=0)  # the config version since: what is made from then on is good
    # Of a refreshed token: the digest of the one that took its place, and its sessions.
    successor: bytes | None = Field(default=None, sa_column=Column(LargeBinary(32)))


class AuditRecord(SQLModel, table=True):
    """One change of one entity through the Admin API, without any secret.  Only ever added."""

    __tablename__ = "audit_records"

    seq: int | None = Field(  # SQLite numbers an INTEGER by itself, and no BIGINT
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    )
    at: float  # seconds since 1970
    request_id: str = Field(index=True)
    who: str | None = None  # of the token; null while ADMIN_TOKENS_FILE is unset
    role: str
    address: str  # of the connection
    change: str  # created, updated, deleted
    type: str  # the entity's table
    entity_id: str = Field(index=True)
    name: str | None = None
    before: dict[str, Any] | None = _json()
    after: dict[str, Any] | None = _json()
