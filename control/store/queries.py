"""Every SELECT and UPDATE that is not generic over entities (those are in `rows`)."""

import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    Boolean,
    Dialect,
    Integer,
    LargeBinary,
    Select,
    String,
    case,
    cast,
    delete,
    func,
    insert,
    or_,
    type_coerce,
)
from sqlmodel import Session, col, select

from control.store import selection
from control.store.changes import IssuedToken, Revoked
from control.store.columns import EncryptedText, dump_json
from control.store.session import RowsOf, WriteSession
from control.store.tables import (
    AuthorizationCode,
    CACertificate,
    Certificate,
    ClusterState,
    Consumer,
    OAuth2Credential,
    OAuth2Token,
    Plugin,
    Revocation,
    Route,
    SeenAssertion,
    Service,
    SigningKey,
    Target,
    Upstream,
)

# A revocation outlives what it covers by this much at least: a data plane may be told late.
REVOCATION_SECONDS_MIN = 60
REFRESHES_MAX = 1000  # in a row, that a data plane may miss and its sessions still go over
SEEN_GRACE_SECONDS = 60  # a used assertion is remembered for so long after its end
_SEEN_DROPPED_MAX = 100  # by each new one

# --- cluster state ---------------------------------------------------------------------------


def cluster_state(session: Session) -> ClusterState:
    """Epoch, config version, revocation sequence and check key."""
    return session.exec(select(ClusterState)).one()


def config_version(session: Session) -> int:
    """The version alone: nothing is decrypted."""
    return session.exec(select(ClusterState.config_version)).one()


# --- what a snapshot is made of ----------------------------------------------------------------


class ServiceRow(NamedTuple):
    id: str
    name: str | None
    protocol: str
    host: str
    port: int
    path: str | None
    connect_timeout: int
    write_timeout: int
    read_timeout: int
    retries: int
    enabled: bool
    updated_at: int
    tls_verify: bool | None = None
    tls_verify_depth: int | None = None
    ca_certificates: list[str] | None = None
    client_certificate_id: str | None = None


class RouteRow(NamedTuple):
    id: str
    name: str | None
    protocols: list[str]
    methods: list[str] | None
    hosts: list[str] | None
    paths: list[str] | None
    headers: dict[str, list[str]] | None
    https_redirect_status_code: int
    strip_path: bool
    preserve_host: bool
    path_handling: str
    service_id: str | None
    created_at: int


class PluginRow(NamedTuple):
    id: str
    name: str
    service_id: str | None
    route_id: str | None
    consumer_id: str | None
    config: dict[str, Any]  # the column `policy`: what a data plane needs, no secret
    protocols: list[str]
    enabled: bool


class ConsumerRow(NamedTuple):
    id: str
    username: str | None
    custom_id: str | None


class CredentialRow(NamedTuple):
    id: str
    client_id: str
    consumer_id: str


class CertificateRow(NamedTuple):
    id: str
    cert: str
    key: str
    cert_alt: str | None
    key_alt: str | None
    snis: list[str]

    def __repr__(self) -> str:
        return f"CertificateRow({self.id})"  # no key in any log


class CACertificateRow(NamedTuple):
    id: str
    cert: str


class UpstreamRow(NamedTuple):
    id: str
    name: str
    host_header: str | None
    client_certificate_id: str | None


class TargetRow(NamedTuple):
    id: str
    upstream_id: str
    target: str
    weight: int
    down: bool
    created_at: float


class SigningKeyRow(NamedTuple):
    """The public half: no snapshot holds more."""

    kid: str
    alg: str
    public_jwk: dict[str, Any]
    gone_at: float | None


@dataclass(frozen=True, slots=True)
class ConfigRows:
    """All configuration at one version; plain tuples, since ORM objects cost ten times more."""

    epoch: str
    version: int
    check_key: bytes = field(repr=False)
    services: list[ServiceRow]
    routes: list[RouteRow]
    plugins: list[PluginRow]
    consumers: list[ConsumerRow]
    credentials: list[CredentialRow]
    certificates: list[CertificateRow] = field(default_factory=list)
    ca_certificates: list[CACertificateRow] = field(default_factory=list)
    keys: list[SigningKeyRow] = field(default_factory=list)
    upstreams: list[UpstreamRow] = field(default_factory=list)
    targets: list[TargetRow] = field(default_factory=list)


class RowCache:
    """Rows as they were read last: those that have not changed are not put together again.

    For one reader at a time, of one database.
    """

    def __init__(self) -> None:
        self._known: dict[Any, dict[str, tuple[Any, Any]]] = {}  # kind → id → (as read, row)

    def rows(self, kind: Any, found: Iterable[Any], make: Callable[[Any], Any]) -> list[Any]:
        """The row of each of `found`, whose first value is the id: the very one of last time."""
        before, now = self._known.get(kind, {}), {}
        for values in found:
            held = before.get(values[0])
            now[values[0]] = held if held and held[0] == values else (values, make(values))
        self._known[kind] = now
        return [row for _, row in now.values()]


def config_rows(session: Session, known: RowCache | None = None) -> ConfigRows:
    """What a snapshot is made of; one transaction, so that all of it is of one version."""
    known = known or RowCache()
    state = cluster_state(session)
    return ConfigRows(
        epoch=state.epoch,
        version=state.config_version,
        check_key=state.check_key,
        services=_plain(session, Service, ServiceRow, known),
        routes=_plain(session, Route, RouteRow, known),
        plugins=_plain(session, Plugin, PluginRow, known),
        consumers=_plain(session, Consumer, ConsumerRow, known),
        credentials=_plain(session, OAuth2Credential, CredentialRow, known),
        certificates=_plain(session, Certificate, CertificateRow, known),
        ca_certificates=_plain(session, CACertificate, CACertificateRow, known),
        keys=_plain(session, SigningKey, SigningKeyRow, known),
        upstreams=_plain(session, Upstream, UpstreamRow, known),
        targets=_plain(session, Target, TargetRow, known),
    )


def _plain(session: Session, table: Any, kind: Any, known: RowCache) -> list[Any]:
    """The rows of a table in order of their primary keys.

    Read as the database has them: to parse JSON is most of the work, and nearly all is parsed
    already.
    """
    statement, decoders = _raw(table, kind)
    dialect = session.connection().dialect

    def make(values: Any) -> Any:
        row = list(values)
        for place, decode in decoders:
            if row[place] is not None:
                row[place] = decode(row[place], dialect)
        return kind._make(row)

    found = session.connection().execute(statement)
    # The driver's tuples as they are: SQLAlchemy's rows take longer to make and to compare.
    values = found.cursor.fetchall() if found.cursor is not None else []
    found.close()
    return known.rows(kind, values, make)


@cache
def _raw(table: Any, kind: Any) -> tuple[Select[Any], list[tuple[int, Callable[..., Any]]]]:
    """What selects the columns of `kind` undecoded, and how to decode which of them."""
    columns = table.__table__.c
    wanted: list[Any] = []
    decoders: list[tuple[int, Callable[..., Any]]] = []
    for place, name in enumerate(kind._fields):
        column = columns["policy" if name == "config" else name]
        if isinstance(column.type, JSON):
            decoders.append((place, _from_json))
            column = cast(column, String).label(name)  # some drivers decode JSON by themselves
        elif isinstance(column.type, Boolean):
            decoders.append((place, _from_flag))
            column = type_coerce(column, Integer).label(name)
        elif isinstance(column.type, EncryptedText):
            decoders.append((place, column.type.process_result_value))
            column = type_coerce(column, LargeBinary).label(name)
        wanted.append(column)
    return select(*wanted).order_by(*table.__table__.primary_key.columns), decoders


def _from_flag(value: Any, _dialect: Dialect) -> bool:
    return bool(value)


def _from_json(value: Any, _dialect: Dialect) -> Any:
    return json.loads(value)


def service_trusting(session: Session, ca_id: str) -> str | None:
    """The id of a service that lists this CA certificate."""
    lists = select(Service.id, Service.ca_certificates).where(
        col(Service.ca_certificates).is_not(None)
    )
    return next((id_ for id_, listed in session.exec(lists) if ca_id in (listed or ())), None)


def count_targets(session: Session, upstream_id: str) -> int:
    statement = select(func.count()).where(col(Target.upstream_id) == upstream_id)
    return session.exec(statement).one()


# --- single entities ---------------------------------------------------------------------------


def credential_by_client_id(session: Session, client_id: str) -> OAuth2Credential | None:
    return session.exec(
        select(OAuth2Credential).where(OAuth2Credential.client_id == client_id)
    ).first()


def plugin_by_id(session: Session, plugin_id: str) -> Plugin | None:
    """The plugin with its config, provision key readable."""
    return session.get(Plugin, plugin_id)


def global_audiences(session: Session) -> set[str]:
    """What the `oauth2` instances with `global_credentials` protect."""
    policies = session.exec(select(Plugin.policy).where(Plugin.name == "oauth2", Plugin.enabled))
    found = [
        policy.get("audience") or policy.get("issuer")
        for policy in policies
        if policy.get("global_credentials")
    ]
    return {name for name in found if name}


def plugin_on_route(session: Session, name: str, route_id: str) -> Plugin | None:
    """The instance of a plugin that runs on a route, if the route is there."""
    route = session.get(Route, route_id)
    if route is None:
        return None
    service_id = route.service_id
    here = or_(col(Plugin.route_id).is_(None), col(Plugin.route_id) == route_id)
    of_service = or_(col(Plugin.service_id).is_(None), col(Plugin.service_id) == service_id)
    found = session.exec(select(Plugin).where(Plugin.name == name, here, of_service)).all()
    instances = selection.instances(found, name)
    return selection.select(instances, route_id, service_id, route.protocols)


def renew_client_secret(session: WriteSession, held: OAuth2Credential, phc: str) -> None:
    """Store the secret of `held` hashed anew with today's parameters; it verifies as before.

    Nothing where the secret is another one by now, or the client is gone.
    """
    row = session.get(OAuth2Credential, held.id)
    before = held.client_secret.encode()
    if row is not None and hmac.compare_digest(row.client_secret.encode(), before):
        row.client_secret = phc
        session.add(row)


# --- tokens ------------------------------------------------------------------------------------


def token_expiry(created_at: float, expires_in: int, gone_at: float | None) -> float:
    """When an access token stops to be good: seconds since 1970, 0 = never."""
    ends = [created_at + expires_in] if expires_in else []
    if gone_at is not None:
        ends.append(gone_at)
    return min(ends, default=0.0)


_TOKEN_ROWS = RowsOf(
    "oauth2_tokens",
    (
        "id",
        "credential_id",
        "service_id",
        "token_type",
        "access_token_digest",
        "refresh_token_digest",
        "authenticated_userid",
        "scope",
        "created_at",
        "expires_in",
        "gone_at",
        "by_hand",
        "plugin_id",
        "family_id",
        "audience",
        "is_jwt",
    ),
)


def issued_token(row: Any, version: int = 0) -> IssuedToken:
    """What the data planes learn of a token row: one of the ORM, or one that was selected."""
    return IssuedToken(
        digest=row.access_token_digest,
        credential_id=row.credential_id,
        service_id=row.service_id,
        scope=row.scope,
        user_id=row.authenticated_userid,
        expires_at=token_expiry(row.created_at, row.expires_in, row.gone_at),
        version=version,
        plugin_id=row.plugin_id,
        audience=tuple(row.audience or ()),
        jti=row.id if row.is_jwt else None,
    )


def insert_token(
    session: WriteSession,
    *,
    credential_id: str,
    access_token_digest: bytes,
    expires_in: int,
    token_id: str | None = None,
    service_id: str | None = None,
    refresh_token_digest: bytes | None = None,
    authenticated_userid: str | None = None,
    scope: str | None = None,
    created_at: float | None = None,
    ttl: float | None = None,
    by_hand: bool = False,
    plugin_id: str | None = None,
    family_id: str | None = None,
    audience: Sequence[str] = (),
    is_jwt: bool = False,
    told: bool = True,
) -> IssuedToken:
    """Store a token and, if it is `told`, hand it to the data planes at the commit.

    `ttl`: seconds until the row (and its refresh token) ends; None = never. Not through the ORM,
    whose objects cost more than the rest of issuing a token.
    """
    now = time.time() if created_at is None else created_at
    gone_at = None if ttl is None else now + ttl
    row_id = token_id or str(uuid.uuid4())
    session.insert_later(
        _TOKEN_ROWS,
        (
            row_id,
            credential_id,
            service_id,
            "bearer",
            access_token_digest,
            refresh_token_digest,
            authenticated_userid,
            scope,
            now,
            expires_in,
            gone_at,
            by_hand,
            plugin_id,
            family_id,
            dump_json(list(audience)) if audience else None,
            is_jwt,
        ),
    )
    token = IssuedToken(
        digest=access_token_digest,
        credential_id=credential_id,
        service_id=service_id,
        scope=scope,
        user_id=authenticated_userid,
        expires_at=token_expiry(now, expires_in, gone_at),
        version=0,
        plugin_id=plugin_id,
        audience=tuple(audience),
        jti=row_id if is_jwt else None,
    )
    if told:
        session.note_token(token)
    return token


def token_by_digest(
    session: Session, digest: bytes, now: float | None = None
) -> IssuedToken | None:
    """The token with this SHA-256, unless it is unknown or expired."""
    return tokens_by_digest(session, [digest], now)[0]


def tokens_by_digest(
    session: Session, digests: Sequence[bytes], now: float | None = None
) -> list[IssuedToken | None]:
    """The token of each digest, read together; None for one that is unknown or expired."""
    moment = time.time() if now is None else now
    version = cluster_state(session).config_version
    chosen = select(OAuth2Token).where(col(OAuth2Token.access_token_digest).in_(digests))
    tokens = [issued_token(row, version) for row in session.exec(chosen)]
    found = {t.digest: t for t in tokens if not t.expires_at or t.expires_at > moment}
    return [found.get(digest) for digest in digests]


def tokens_to_replay(
    session: Session, after: bytes = b"", limit: int | None = None, now: float | None = None
) -> list[IssuedToken]:
    """Tokens made by hand that have not expired: their value proves nothing, so they are sent.

    In the order of their digests, those after `after`.
    """
    moment = time.time() if now is None else now
    version = cluster_state(session).config_version
    expires_in, created_at = col(OAuth2Token.expires_in), col(OAuth2Token.created_at)
    digest, gone_at = col(OAuth2Token.access_token_digest), col(OAuth2Token.gone_at)
    unexpired = or_(expires_in == 0, created_at + expires_in > moment)
    there = or_(gone_at.is_(None), gone_at > moment)
    chosen = select(OAuth2Token).where(OAuth2Token.by_hand, unexpired, there, digest > after)
    rows = session.exec(chosen.order_by(digest).limit(limit))
    return [issued_token(row, version) for row in rows]


def note_token_revoked(session: WriteSession, token: IssuedToken) -> None:
    """A token ends; of a JWT, whatever else verifies to the same `jti` as well (S05)."""
    session.note_revocation("token", token.digest, token.expires_at)
    if token.jti is not None:
        session.note_revocation("jti", uuid.UUID(token.jti).bytes, token.expires_at)


def delete_tokens(session: WriteSession, rows: Iterable[OAuth2Token]) -> None:
    """Delete tokens and revoke each on the data planes."""
    for row in rows:
        session.delete(row)
        note_token_revoked(session, issued_token(row))


def delete_tokens_of_service(session: WriteSession, service_id: str) -> None:
    """Delete and revoke the tokens that are bound to a service."""
    delete_tokens(
        session, session.exec(select(OAuth2Token).where(OAuth2Token.service_id == service_id)).all()
    )
    session.flush()


def delete_tokens_of_credential(session: WriteSession, credential_id: str) -> None:
    """Delete the tokens of a credential, which is itself revoked."""
    session.execute(delete(OAuth2Token).where(col(OAuth2Token.credential_id) == credential_id))


def last_expiry_of_credential(session: Session, credential_id: str) -> float:
    """When the revocation of a credential has nothing left to cover; 0 = never."""
    return _last_expiry(session, col(OAuth2Token.credential_id) == credential_id)


def last_expiry_of_consumer(session: Session, consumer_id: str) -> float:
    """As `last_expiry_of_credential`, over all credentials of a consumer."""
    credentials = select(OAuth2Credential.id).where(OAuth2Credential.consumer_id == consumer_id)
    return _last_expiry(session, col(OAuth2Token.credential_id).in_(credentials))


def last_expiry_of_plugin(session: Session, plugin_id: str) -> float:
    """As `last_expiry_of_credential`, over the tokens that a plugin instance issued."""
    return _last_expiry(session, col(OAuth2Token.plugin_id) == plugin_id)


def delete_issued_by_plugin(session: Session, plugin_id: str) -> None:
    """Delete the codes and tokens of a plugin instance, as its own deletion does."""
    for model in (AuthorizationCode, OAuth2Token):
        session.execute(delete(model).where(col(model.plugin_id) == plugin_id))


def _last_expiry(session: Session, condition: Any) -> float:
    never = case((col(OAuth2Token.expires_in) == 0, 1), else_=0)
    statement = select(
        func.max(OAuth2Token.created_at + OAuth2Token.expires_in), func.max(never)
    ).where(condition)
    last, has_endless = session.exec(statement).one()
    if has_endless:
        return 0.0
    return max(last or 0.0, time.time() + REVOCATION_SECONDS_MIN)


# --- client assertions --------------------------------------------------------------------------


def insert_seen_assertion(
    session: WriteSession, digest: bytes, expires_at: float, now: float
) -> None:
    """Note that an assertion was used; it goes some time after it has expired.

    Raises:
        IntegrityError: it was used before.
    """
    old = select(SeenAssertion.digest).where(SeenAssertion.expires_at < now - SEEN_GRACE_SECONDS)
    stale = col(SeenAssertion.digest).in_(old.limit(_SEEN_DROPPED_MAX))
    session.execute(delete(SeenAssertion).where(stale))
    session.connection().execute(
        insert(SeenAssertion), {"digest": digest, "expires_at": expires_at}
    )


# --- revocations -------------------------------------------------------------------------------


def revocations_after(
    session: Session, seq: int, now: float | None = None, limit: int | None = None
) -> list[Revoked]:
    """Revocations after `seq` that still matter, in order."""
    moment = time.time() if now is None else now
    matters = or_(col(Revocation.expires_at) == 0, col(Revocation.expires_at) > moment)
    statement = (
        select(Revocation).where(Revocation.seq > seq, matters).order_by(col(Revocation.seq))
    )
    return [
        Revoked(row.seq, row.kind, row.key, row.expires_at, row.version, row.successor)
        for row in session.exec(statement.limit(limit))
    ]


def heirs(session: Session, revoked: Sequence[Revoked]) -> dict[bytes, IssuedToken]:
    """What refreshed tokens have become by now, by the digests of those that did not end.

    `revoked` in order: the newest is looked at first, so that a token which was refreshed many
    times in a row is followed once, and not again from each of its steps.
    """
    found: dict[bytes, IssuedToken | None] = {}
    for row in reversed(revoked):
        if row.successor is not None:
            known = row.successor in found
            heir = found[row.successor] if known else _follow(session, row.successor)
            found[row.key] = heir
    return {digest: token for digest, token in found.items() if token is not None}


def _follow(session: Session, digest: bytes | None) -> IssuedToken | None:
    """The token with this digest, or what took its place; None when it ended."""
    for _ in range(REFRESHES_MAX):
        if digest is None:
            return None
        token = token_by_digest(session, digest)
        if token is not None:
            return token
        chosen = select(Revocation.successor).where(Revocation.kind == "token")
        digest = session.exec(chosen.where(Revocation.key == digest)).first()
    return None


def forget_revocation(session: WriteSession, kind: str, key: bytes) -> None:
    """What is made again under an old key is not revoked any more."""
    session.execute(
        delete(Revocation).where(col(Revocation.key) == key, col(Revocation.kind) == kind)
    )


# --- what an import looks up ---------------------------------------------------------------------


def ids_by_key(session: Session, kind: str) -> list[tuple[str, str | None]]:
    """(id, endpoint key) of every service or credential."""
    columns = {
        "oauth2_credentials": select(OAuth2Credential.id, OAuth2Credential.client_id),
        "services": select(Service.id, Service.name),
    }
    return [(id_, key) for id_, key in session.execute(columns[kind])]


def known_tokens(session: Session, rows: Sequence[Mapping[str, Any]]) -> set[str | bytes]:
    """Ids and digests, of these rows, that tokens have which are stored already."""
    table = OAuth2Token.__table__  # type: ignore[attr-defined]
    names = ("id", "access_token_digest", "refresh_token_digest")
    columns = [table.c[name] for name in names]
    same = or_(*(table.c[name].in_([row[name] for row in rows]) for name in names))
    found = session.execute(select(*columns).where(same))
    return {value for row in found for value in row if value is not None}


def ended_tokens(session: Session, digests: Sequence[bytes]) -> set[bytes]:
    """Those of these digests whose tokens were refreshed or revoked."""
    ended = col(Revocation.key).in_(digests), Revocation.kind == "token"
    return set(session.exec(select(Revocation.key).where(*ended)))


def insert_tokens(session: WriteSession, rows: Sequence[dict[str, Any]]) -> None:
    """Store whole rows, and hand these tokens to the data planes at the commit."""
    if rows:
        session.execute(insert(OAuth2Token), rows)
    for row in rows:
        session.note_token(issued_token(OAuth2Token(**row)))
