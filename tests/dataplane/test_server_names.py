"""Which certificate a listener shows, hot swaps, session tickets, S73.  _contexts.pyx."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import random
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dataplane import wire
from dataplane._contexts import Contexts, ServerNames, TicketKeys
from dataplane.compile import CompileError
from dataplane.startup import ticket_key
from tests.dataplane.engine_kit import (
    TEXT,
    Line,
    Rig,
    frame,
    handshake,
    request,
    route,
    service,
    switching,
    until,
    up,
)
from tests.dataplane.snapshots import uid
from tests.pki import Pair, make

DEFAULT = make("default.test")
A, B = make("a.test"), make("b.test")


@pytest.fixture(params=[1, 2], ids=["one-worker", "two-workers"])
def tls_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with rig_of(request.param, tmp_path) as made:
        yield made


@contextlib.contextmanager
def rig_of(workers: int, folder: Path, **options: Any) -> Iterator[Rig]:
    made = Rig(workers, **options)
    made.use_tls(DEFAULT.files(folder))
    made.engine.start()
    try:
        yield made
        made.close_lines()
        made.idle()
    finally:
        made.close_lines()
        made.end()


def certificate(number: int, pair: Pair, *snis: str, alt: Pair | None = None) -> wire.Certificate:
    more = {} if alt is None else {"cert_alt": alt.cert, "key_alt": alt.key}
    return wire.Certificate(uid(number), pair.cert, pair.key, snis=list(snis), **more)


def publish(rig: Rig, *certificates: wire.Certificate) -> None:
    rig.publish(service(rig.upstream.port), route(paths=["/"], oauth2=None), *certificates)


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def connected(
    rig: Rig,
    name: str | None,
    context: ssl.SSLContext | None = None,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", rig.tls_port), 10)
    return (context or client_context()).wrap_socket(raw, server_hostname=name, session=session)


def shown(rig: Rig, name: str | None, context: ssl.SSLContext | None = None) -> x509.Certificate:
    """The certificate that a client is shown who asks for this name."""
    with connected(rig, name, context) as sock:
        der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


# --- lookup ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.b.c", "a.b.c"),
        ("A.B.C", "a.b.c"),
        ("a.b.c.", "a.b.c"),
        ("x.b.c", "*.b.c"),
        ("a.b.x", "a.b.*"),
        ("x.b.d", "*.b.d"),
        ("y.b.d", "*.b.d"),  # the leading wildcard before the trailing one
        ("y.b.e", "y.b.*"),
        ("x.x.b.c", "*"),  # one label and no more
        ("b.c", "*"),
        (".b.c", "*"),
        ("a.b.", "*"),
        ("..", "*"),
        (".", "*"),
        ("", "*"),
        ("x" * 253, "*"),
        ("x" * 254, "*"),
        ("x" * 300 + ".b.c", "*"),
        (None, "*"),
    ],
)
def test_name_is_found_exactly_then_by_wildcards(name: str | None, found: str) -> None:
    contexts = Contexts()
    names = ("a.b.c", "*.b.c", "a.b.*", "*.b.d", "y.b.*", "*")
    made = {n: contexts.server(((A.cert.encode(), pair_key(n)),)) for n in names}
    assert ServerNames(made).find(name) is made[found]


_KEYS: dict[str, bytes] = {}


def pair_key(name: str) -> bytes:
    """The same key as different texts, so that each name has a context of its own."""
    return _KEYS.setdefault(name, A.key.encode() + b"\n" * (len(_KEYS) + 1))


def test_names_are_found_as_a_dict_finds_them() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    context = Contexts().server(((A.cert.encode(), A.key.encode()),))
    labels = ["a", "b", "ab", "a-b", "c" * 60]

    def name() -> str:
        return ".".join(chance.choice(labels) for _ in range(chance.randint(1, 4)))

    known = {name() for _ in range(200)} | {f"*.{name()}" for _ in range(50)}
    table = ServerNames(dict.fromkeys(known, context))
    for _ in range(2000):
        asked = name()
        _, _, rest = asked.partition(".")
        expected = asked in known or f"*.{rest}" in known
        assert (table.find(asked) is context) is expected, asked


def test_without_names_nothing_is_found() -> None:
    assert ServerNames({}).find("a") is None


# --- what clients are shown -----------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_is_shown_the_certificate_of_the_name_it_asks_for(
    tls_rig: Rig, version: ssl.TLSVersion
) -> None:
    publish(tls_rig, certificate(1, A, "a.test", "*.a.test"), certificate(2, B, "b.*"))
    for name, pair in (
        ("a.test", A),
        ("x.a.test", A),
        ("b.anything", B),
        ("c.test", DEFAULT),
        (None, DEFAULT),
    ):
        assert shown(tls_rig, name, client_context(version)) == pair.certificate


def test_star_takes_the_place_of_the_default(tls_rig: Rig) -> None:
    publish(tls_rig, certificate(1, A, "a.test"), certificate(2, B, "*"))
    assert shown(tls_rig, "a.test") == A.certificate
    assert shown(tls_rig, "c.test") == shown(tls_rig, None) == B.certificate


def test_pair_of_two_kinds_is_chosen_by_what_the_client_can(tls_rig: Rig) -> None:
    publish(tls_rig, certificate(1, make("a.test", key="rsa"), "a.test", alt=A))
    for ciphers, kind in (
        ("ECDHE+aRSA", rsa.RSAPublicKey),
        ("ECDHE+ECDSA", ec.EllipticCurvePublicKey),
    ):
        context = client_context(ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        assert isinstance(shown(tls_rig, "a.test", context).public_key(), kind)


def test_certificates_are_swapped_under_a_live_session(tls_rig: Rig) -> None:
    publish(tls_rig, certificate(1, A, "a.test"))
    client = Line(connected(tls_rig, "a.test"))
    tls_rig.lines.append(client)
    client.send(handshake())
    upstream = tls_rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    for pair in (B, A, B):
        publish(tls_rig, certificate(1, pair, "a.test"))
        del tls_rig.tables[:-1]
        tls_rig.engine.sweep()
        assert shown(tls_rig, "a.test") == pair.certificate
        client.send(up(TEXT, b"still"))
        assert upstream.frame().payload == b"still"
        upstream.send(frame(TEXT, b"here"))
        assert client.frame().payload == b"here"
    publish(tls_rig)
    assert shown(tls_rig, "a.test") == DEFAULT.certificate


def test_certificate_that_goes_within_a_handshake_leaves_that_whole(tls_rig: Rig) -> None:
    """The hello is in and the name chosen; then the tables of then go."""
    publish(tls_rig, certificate(1, A, "a.test"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing, server_hostname="a.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    line = tls_rig.connect(port=tls_rig.tls_port)
    line.send(outgoing.read())
    line.fill()
    publish(tls_rig)
    del tls_rig.tables[:-1]
    for _ in range(5):
        shown(tls_rig, None)
        tls_rig.engine.sweep()

    def done() -> bool:
        incoming.write(line.data)
        line.data = b""
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            line.fill()
            return False
        return True

    until(done)
    tls.write(request(b"/"))
    line.send(outgoing.read())
    text = b""
    while b"426" not in text:
        line.fill()
        incoming.write(line.data)
        line.data = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            text += tls.read(65536)


def test_unchanged_certificate_keeps_its_context(tls_rig: Rig) -> None:
    publish(tls_rig, certificate(1, A, "a.test"))
    first = tls_rig.tables[-1].snis
    publish(tls_rig, certificate(1, A, "a.test", "c.test"), certificate(2, B, "b.test"))
    second = tls_rig.tables[-1].snis
    assert first is not None and second is not None
    assert second.find("a.test") is first.find("a.test") is second.find("c.test")


def test_broken_certificate_of_a_listener_is_refused_and_the_old_ones_stay(tls_rig: Rig) -> None:
    publish(tls_rig, certificate(1, A, "a.test"))
    with pytest.raises(CompileError, match="does not belong to certificate of a server"):
        publish(tls_rig, certificate(1, Pair(A.certificate, B.private), "a.test"))
    assert shown(tls_rig, "a.test") == A.certificate


# --- session tickets ------------------------------------------------------------------------------


def keys_of(*lines: bytes) -> TicketKeys:
    return TicketKeys([ticket_key(line.decode()) for line in lines])


def ticket(rig: Rig, context: ssl.SSLContext, name: str = "a.test") -> ssl.SSLSession:
    """The session of a connection that has got its ticket: with 1.3 it comes with the answer."""
    with connected(rig, name, context) as sock:
        sock.sendall(request(b"/no"))
        assert sock.recv(100).startswith(b"HTTP/1.1 ")
        session = sock.session
    assert session is not None and session.has_ticket
    return session


def resumed(rig: Rig, context: ssl.SSLContext, session: ssl.SSLSession) -> bool:
    with connected(rig, "a.test", context, session) as sock:
        sock.sendall(request(b"/no"))
        assert sock.recv(100).startswith(b"HTTP/1.1 ")
        return bool(sock.session_reused)


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
def test_ticket_is_good_on_every_worker_after_a_restart_and_elsewhere(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    line, context = Fernet.generate_key(), client_context(version)
    with rig_of(2, tmp_path, tickets=keys_of(line)) as first:
        publish(first, certificate(1, A, "a.test"))
        sessions = [ticket(first, context) for _ in range(20)]
        assert all(resumed(first, context, session) for session in sessions)
        assert all(first.engine.sessions_by_worker()) or sum(first.engine.counters()["handshakes"])
    with rig_of(1, tmp_path, tickets=keys_of(line)) as second:
        publish(second, certificate(1, B, "a.test"))
        assert resumed(second, context, sessions[0])


@VERSIONS
def test_ticket_of_an_older_key_is_good_and_made_anew(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    old, new, context = Fernet.generate_key(), Fernet.generate_key(), client_context(version)
    with rig_of(1, tmp_path, tickets=keys_of(old)) as rig:
        publish(rig)
        session = ticket(rig, context)
    with rig_of(1, tmp_path, tickets=keys_of(new, old)) as rig:
        publish(rig)
        with connected(rig, "a.test", context, session) as sock:
            sock.sendall(request(b"/no"))
            assert sock.recv(100).startswith(b"HTTP/1.1 ")
            assert sock.session_reused
            renewed = sock.session
    with rig_of(1, tmp_path, tickets=keys_of(new)) as rig:
        publish(rig)
        assert renewed is not None and resumed(rig, context, renewed)
        assert not resumed(rig, context, session)


@VERSIONS
def test_ticket_of_a_strange_key_means_a_whole_handshake(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    context = client_context(version)
    with rig_of(1, tmp_path, tickets=keys_of(Fernet.generate_key())) as rig:
        publish(rig)
        session = ticket(rig, context)
    with rig_of(1, tmp_path, tickets=keys_of(Fernet.generate_key())) as rig:
        publish(rig)
        assert not resumed(rig, context, session)


def test_ticket_keys_are_of_a_size_and_number() -> None:
    for keys in ([], [b"short"], [bytes(80)] * 17, [bytes(80), bytes(81)]):
        with pytest.raises(ValueError, match="ticket keys"):
            TicketKeys(keys)


# --- S73 ------------------------------------------------------------------------------------------


def test_s73_tls_handshake_that_is_not_finished_is_cut_after_10_s(tmp_path: Path) -> None:
    """Nothing sent, half a hello, and a hello without what follows: all at once."""
    with rig_of(1, tmp_path) as rig:
        outgoing = ssl.MemoryBIO()
        tls = client_context().wrap_bio(ssl.MemoryBIO(), outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        began = time.monotonic()
        lines = [rig.client(sent, port=rig.tls_port) for sent in (hello[:1], hello[:50], hello)]
        dripping = rig.client(hello[:2], port=rig.tls_port)
        at = 2

        def cut() -> bool:
            nonlocal at
            if dripping.silent(0.5):
                with contextlib.suppress(OSError):
                    dripping.send(hello[at : at + 1])
                at += 1
                return False
            return True

        until(cut, 20)
        assert dripping.rest() == b""
        for line in lines:
            line.sock.settimeout(3)
            line.rest()
        assert 9 < time.monotonic() - began < 13
        until(lambda: rig.count("connections") == 0)


SSL_R_NO_RENEGOTIATION = 339


class LibSSL:
    """A client by OpenSSL's own functions: Python has no name for a renegotiation."""

    def __init__(self, sock: socket.socket) -> None:
        path = ctypes.util.find_library("ssl")
        assert path is not None
        lib: Any = ctypes.CDLL(path)
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
            getattr(lib, name).restype = ctypes.c_void_p
        lib.ERR_peek_last_error.restype = ctypes.c_ulong
        self.lib = lib
        self.ctx = ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_client_method())))
        lib.SSL_CTX_ctrl(self.ctx, 124, ctypes.c_long(0x0303), None)  # TLS 1.2 at the most
        self.ssl = ctypes.c_void_p(lib.SSL_new(self.ctx))
        lib.SSL_set_fd(self.ssl, sock.fileno())

    def call(self, name: str, *arguments: Any) -> int:
        found: int = getattr(self.lib, name)(self.ssl, *arguments)
        return found

    def reason(self) -> int:
        """Why the last call failed, of OpenSSL's SSL_R_ codes; 0 where none did."""
        code: int = self.lib.ERR_peek_last_error()
        return code & 0x7FFFFF

    def end(self) -> None:
        self.lib.SSL_free(self.ssl)
        self.lib.SSL_CTX_free(self.ctx)
        # The queue is the thread's: what stayed there would be the next error of Python's own ssl.
        self.lib.ERR_clear_error()


def test_s73_renegotiation_is_refused(tls_rig: Rig) -> None:
    publish(tls_rig)
    with socket.create_connection(("127.0.0.1", tls_rig.tls_port), 10) as sock:
        sock.settimeout(None)
        client = LibSSL(sock)
        try:
            assert client.call("SSL_connect") == 1
            sent = request(b"/no")
            assert client.call("SSL_write", sent, len(sent)) == len(sent)
            into = ctypes.create_string_buffer(4096)
            assert client.call("SSL_read", into, 4096) > 0
            assert client.call("SSL_renegotiate") == 1
            assert client.call("SSL_do_handshake") <= 0  # the alert no_renegotiation
            assert client.reason() == SSL_R_NO_RENEGOTIATION
        finally:
            client.end()
        assert client.reason() == 0
    tls_rig.idle()
