"""Both ends of the link for tests: a store with a configuration, a bare peer, a bare server."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import secrets
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert
from sqlmodel import col, select
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from control.push import Push
from control.push.issuer import Issuer
from control.store import Store, queries
from control.store.tables import (
    Consumer,
    OAuth2Credential,
    OAuth2Token,
    Plugin,
    Route,
    Service,
)
from dataplane import wire
from dataplane.disk import DiskState
from dataplane.link import Link
from dataplane.requests import Done, LinkDown

POLL_SECONDS = 0.005
SECRET = b"a secret that both ends know"
BOUND_SECONDS = 5.0  # B of decisions.md: how long a revocation may take to a data plane
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
    """The result of a coroutine in a loop of its own."""
    return asyncio.run(asyncio.wait_for(work, seconds))


async def until(probe: Callable[[], T | None], seconds: float = 10.0) -> T:
    """The first truthy value of `probe`; fails after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := probe()):
        assert asyncio.get_running_loop().time() < deadline, "it did not come about in time"
        await asyncio.sleep(POLL_SECONDS)
    return found


# --- the store ---------------------------------------------------------------------------------


def new_id() -> str:
    return str(uuid.uuid4())


def fill(store: Store, count: int = 1, filling: int = 0) -> str:
    """`count` services with a route each, one plugin, one credential: its id.

    `filling`: random bytes in each route's path, which no compression shortens.
    """
    services = [new_id() for _ in range(count)]
    consumer, credential = new_id(), new_id()
    with store.writing() as session:
        session.execute(insert(Service), [_service(n, id_) for n, id_ in enumerate(services)])
        paths = [f"/r{n}-{secrets.token_hex(filling)}" for n in range(count)]
        session.execute(insert(Route), list(map(_route, paths, services)))
        session.add(
            Plugin(
                id=new_id(),
                name="oauth2",
                config={},
                protocols=["ws", "wss"],
                created_at=1,
                updated_at=1,
            )
        )
        session.add(Consumer(id=consumer, username=f"u-{consumer}", created_at=1, updated_at=1))
        session.flush()
        session.add(
            OAuth2Credential(
                id=credential,
                name="app",
                client_id=f"id-{credential}",
                client_secret="not to be sent",
                consumer_id=consumer,
                created_at=1,
            )
        )
        session.note_config()
    return credential


def _service(number: int, id_: str) -> dict[str, Any]:
    made = Service(id=id_, name=f"s{number}", protocol="ws", host=f"h{number}.test")
    return {**made.model_dump(), "created_at": 1, "updated_at": 1}


def _route(path: str, service: str) -> dict[str, Any]:
    made = Route(id=new_id(), name=path[1:20], protocols=["ws", "wss"], paths=[path])
    return {**made.model_dump(), "service_id": service, "created_at": 1, "updated_at": 1}


def edit(store: Store) -> int:
    """Change one thing; the new config version."""
    with store.writing() as session:
        name = secrets.token_hex(8)
        session.add(Consumer(id=new_id(), username=name, created_at=1, updated_at=1))
        session.note_config()
    return version(store)


def version(store: Store) -> int:
    with store.reading() as session:
        return queries.cluster_state(session).config_version


def issue(store: Store, credential: str, by_hand: bool = False, expires_in: int = 3600) -> bytes:
    """Issue a token; its digest."""
    return issue_many(store, credential, 1, by_hand=by_hand, expires_in=expires_in)[0]


def issue_many(
    store: Store, credential: str, count: int, by_hand: bool = False, expires_in: int = 3600
) -> list[bytes]:
    """Issue tokens in one transaction; their digests."""
    digests = [secrets.token_bytes(32) for _ in range(count)]
    with store.writing() as session:
        for digest in digests:
            queries.insert_token(
                session,
                credential_id=credential,
                access_token_digest=digest,
                scope="email",
                expires_in=expires_in,
                by_hand=by_hand,
            )
    return digests


def revoke(store: Store, *digests: bytes) -> None:
    """Delete tokens in one transaction."""
    with store.writing() as session:
        found = col(OAuth2Token.access_token_digest).in_(digests)
        queries.delete_tokens(session, session.exec(select(OAuth2Token).where(found)).all())


# --- the control plane's end, and a bare peer ----------------------------------------------------


async def no_issuer(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("no token request was expected")


@contextlib.asynccontextmanager
async def pushing(
    store: Store,
    issuer: Any = no_issuer,
    secret: bytes = SECRET,
    ssl: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Push]:
    """A served `Push` on a free port; a fault of it is raised at the end."""
    push = Push(store, Issuer(issuer), secret, **options)
    task = asyncio.create_task(push.serve("127.0.0.1", 0, ssl))
    try:
        await until(lambda: push.listening.is_set() or task.done())
        yield push
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


Future = asyncio.Future[wire.TokenReply]


def asked(asks: Callable[[wire.TokenRequest, Done], None], request: wire.TokenRequest) -> Future:
    """The reply to come to a token request that `asks` passes on."""
    future: Future = asyncio.get_running_loop().create_future()

    def done(found: wire.TokenReply | LinkDown) -> None:
        if isinstance(found, LinkDown):
            future.set_exception(found)
        else:
            future.set_result(found)

    asks(request, done)
    return future


class BarePeer:
    """A data plane of single messages: sends what a test says, keeps what it hears."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.nonce = secrets.token_bytes(wire.NONCE_BYTES)
        self.heard: list[wire.ToData] = []
        self._waiting: list[Any] = []  # came together with what was heard last
        self.assembler = wire.SnapshotAssembler()

    async def send(self, message: wire.ToControl) -> None:
        await self.connection.send(wire.encode(message))

    async def hear(self, kind: type[T], seconds: float = 10.0) -> T:
        """The next message of this kind; the ones before it are kept in `heard`."""
        async with asyncio.timeout(seconds):
            while True:
                if not self._waiting:
                    data = await self.connection.recv()
                    assert isinstance(data, bytes)
                    message = wire.decode_to_data(data)
                    together = isinstance(message, wire.TokenReplies)
                    self._waiting += message.replies if together else [message]
                message = self._waiting.pop(0)
                self.heard.append(message)
                if isinstance(message, kind):
                    return message

    async def snapshot(self, ack: bool = True) -> wire.Snapshot:
        """The next whole snapshot."""
        while True:
            packed = self.assembler.add(await self.hear(wire.Chunk))
            if packed is not None:
                found = wire.unpack_snapshot(packed)
                if ack:
                    await self.send(wire.Ack(found.version))
                return found

    async def greet(self, secret: bytes = SECRET, **hello: Any) -> wire.Welcome:
        """Hello and, when `secret` is not empty, Proof."""
        said = {"node_id": b"n" * 16, "name": "bare", "nonce": self.nonce, **hello}
        await self.send(wire.Hello(**said))
        welcome = await self.hear(wire.Welcome)
        if secret:
            await self.send(wire.Proof(wire.prove(secret, "data", self.nonce, welcome.nonce)))
        return welcome


@contextlib.asynccontextmanager
async def bare(port: int, **options: Any) -> AsyncIterator[BarePeer]:
    """A connection to the link's port that has said nothing yet."""
    scheme = "wss" if options.get("ssl") else "ws"
    options.setdefault("subprotocols", [wire.SUBPROTOCOL])
    async with connect(
        f"{scheme}://127.0.0.1:{port}",
        compression=None,
        proxy=None,
        max_size=wire.MESSAGE_BYTES_MAX,
        ping_interval=None,
        **options,
    ) as connection:
        yield BarePeer(connection)


@contextlib.asynccontextmanager
async def peer(push: Push, **hello: Any) -> AsyncIterator[BarePeer]:
    """A bare peer that has proved itself."""
    async with bare(push.port) as found:
        await found.greet(**hello)
        yield found


# --- the data plane's end, and a bare control plane -------------------------------------------


class Seen:
    """What a link handed to the data plane."""

    def __init__(self) -> None:
        self.snapshots: list[wire.Snapshot] = []
        self.tokens: dict[bytes, wire.Token] = {}
        self.revocations: list[wire.Revocation] = []
        self.forgotten = 0
        self.unfit: str | None = None  # why the next snapshots are refused

    def on_snapshot(self, snapshot: wire.Snapshot) -> None:
        if self.unfit is not None:
            raise ValueError(self.unfit)
        self.snapshots.append(snapshot)

    def on_tokens(self, tokens: list[wire.Token]) -> None:
        self.tokens.update((token.digest, token) for token in tokens)

    def on_revocations(self, revocations: list[wire.Revocation]) -> None:
        self.revocations += revocations
        for revocation in revocations:
            self.tokens.pop(revocation.key, None)

    def on_forget(self) -> None:
        self.forgotten += 1
        self.tokens.clear()


@contextlib.asynccontextmanager
async def linked(
    url: str, folder: Path, seen: Seen, fernet: Any = None, **options: Any
) -> AsyncIterator[Link]:
    """A running `Link` whose state is under `folder`."""
    state = DiskState(folder / "state", fernet or Fernet(Fernet.generate_key()))
    options.setdefault("secret", SECRET)
    link = Link(
        url=url,
        state=state,
        on_snapshot=seen.on_snapshot,
        on_tokens=seen.on_tokens,
        on_revocations=seen.on_revocations,
        on_forget=seen.on_forget,
        **options,
    )
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        state.close()


class BareControl:
    """A control plane of single messages, for one data plane at a time."""

    def __init__(self) -> None:
        self.port = 0
        self.secret = SECRET
        self.epoch = b"e" * 16
        self.beats = True  # a heartbeat follows the proofs
        self.welcome: wire.Welcome | None = None  # sent instead of the right one
        self.hellos: list[wire.Hello] = []
        self.proofs: list[bytes] = []
        self.heard: list[wire.ToControl] = []
        self.connection: ServerConnection | None = None

    async def serve_one(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            hello = self._decode(await connection.recv())
            assert isinstance(hello, wire.Hello)
            self.hellos.append(hello)
            nonce = secrets.token_bytes(wire.NONCE_BYTES)
            proof = wire.prove(self.secret, "control", hello.nonce, nonce)
            await connection.send(wire.encode(self.welcome or wire.Welcome(nonce, proof)))
            answer = self._decode(await connection.recv())
            assert isinstance(answer, wire.Proof)
            self.proofs.append(answer.proof)
            if self.beats:
                await connection.send(wire.encode(wire.Heartbeat(self.epoch, 0, 0, 0.0)))
            self.connection = connection
            async for data in connection:
                message = self._decode(data)
                together = isinstance(message, wire.TokenRequests)
                self.heard += message.requests if together else [message]

    @staticmethod
    def _decode(data: str | bytes) -> wire.ToControl:
        assert isinstance(data, bytes)
        return wire.decode_to_control(data)

    async def send(self, *messages: wire.ToData) -> None:
        """Send to the data plane, waiting for one first."""
        connection = await until(lambda: self.connection)
        for message in messages:
            await connection.send(wire.encode(message))

    async def send_snapshot(self, snapshot: wire.Snapshot) -> None:
        await self.send(*wire.split_snapshot(snapshot.version, wire.pack_snapshot(snapshot)))

    async def hear(self, kind: type[T]) -> T:
        """The next message of this kind that was not asked for before."""

        def find() -> T | None:
            return next((m for m in self.heard if isinstance(m, kind)), None)

        found = await until(find)
        self.heard = [message for message in self.heard if message is not found]
        return found

    async def hang_up(self) -> None:
        connection = await until(lambda: self.connection)
        self.connection = None
        await connection.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def bare_control(port: int = 0, **options: Any) -> AsyncIterator[BareControl]:
    control = BareControl()
    options.setdefault("subprotocols", [wire.SUBPROTOCOL])
    async with serve(
        control.serve_one,
        "127.0.0.1",
        port,
        compression=None,
        max_size=wire.MESSAGE_BYTES_MAX,
        close_timeout=1,
        **options,
    ) as server:
        control.port = server.sockets[0].getsockname()[1]
        yield control


# --- certificates --------------------------------------------------------------------------------


class Authority:
    """A certificate authority and what it signed, as PEM files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._now = datetime.datetime.now(datetime.UTC)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        cert = self._builder(self._subject, self._key, days=30).add_extension(constraints, True)
        cert = cert.add_extension(self._usage(signs_certificates=True), True)
        self.ca = self._write(f"{name}.pem", cert.sign(self._key, hashes.SHA256()))

    def _usage(self, signs_certificates: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs_certificates,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=signs_certificates,
            crl_sign=signs_certificates,
            encipher_only=False,
            decipher_only=False,
        )

    def _builder(self, subject: x509.Name, key: Any, days: float) -> x509.CertificateBuilder:
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - datetime.timedelta(days=40))
            .not_valid_after(self._now + datetime.timedelta(days=days))
            .add_extension(own, critical=False)
            .add_extension(issuer, critical=False)
        )

    def _write(self, name: str, thing: Any) -> Path:
        path = self._folder / name
        path.write_bytes(thing.public_bytes(serialization.Encoding.PEM))
        return path

    def sign(self, name: str, days: float = 30) -> tuple[Path, Path]:
        """A certificate for `name` and 127.0.0.1, and its key; expired when `days` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = self._builder(subject, key, days)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(self._usage(signs_certificates=False), critical=True)
        cert = self._write(f"{name}.{self._name}.pem", builder.sign(self._key, hashes.SHA256()))
        key_path = self._folder / f"{name}.{self._name}.key"
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert, key_path

    def revoke(self, *certs: Path) -> Path:
        """A revocation list that names these certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._subject)
            .last_update(self._now - datetime.timedelta(days=1))
            .next_update(self._now + datetime.timedelta(days=1))
        )
        for path in certs:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(revoked.revocation_date(self._now).build())
        return self._write(f"{self._name}.crl", builder.sign(self._key, hashes.SHA256()))
