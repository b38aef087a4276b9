"""TLS to upstreams: what is verified, what is said to them, and what a failure looks like."""

from __future__ import annotations

import contextlib
import ssl
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from control.admin.pem import check_pair
from dataplane import wire
from dataplane.compile import CompileError, compile_snapshot
from tests.dataplane.engine_kit import (
    BINARY,
    MASK,
    TEXT,
    Line,
    Rig,
    close,
    frame,
    handshake,
    request,
    route,
    service,
    switching,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import box_of, new_names, uid
from tests.dataplane.test_slow_peers import black_hole
from tests.pki import Pair, make

AUTHORITY = make(authority=True)
STRANGER = make(authority=True)
GOOD = make("127.0.0.1", "up.test", signed_by=AUTHORITY)
CA, CLIENT = uid(31), uid(32)
INVALID = "An invalid response was received from the upstream server"


def served(pair: Pair, folder: Path) -> ssl.SSLContext:
    """How an upstream with this certificate speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.files(folder))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class Secured:
    """The rig's upstream behind TLS: handshakes run in a thread, as the engine's do in its own."""

    def __init__(self, rig: Rig, context: ssl.SSLContext) -> None:
        self.rig = rig
        self.context = context
        self.names: list[str | None] = []
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)

    def accept(self) -> Line:
        """The next connection, once its TLS stands."""
        raw = self.rig.upstream.sock.accept()[0]
        raw.settimeout(10)
        line = Line(self.context.wrap_socket(raw, server_side=True))
        self.rig.upstream.lines.append(line)
        return line

    def either(self) -> Line:
        """The first connection whose TLS stands; the engine may end some before that."""
        while True:
            with contextlib.suppress(OSError):
                return self.accept()

    def refused(self) -> None:
        """A connection whose handshake the engine ends."""
        raw = self.rig.upstream.sock.accept()[0]
        raw.settimeout(10)
        with contextlib.closing(raw), contextlib.suppress(OSError):
            assert self.context.wrap_socket(raw, server_side=True).recv(1) == b""

    def while_refused(self) -> threading.Thread:
        thread = threading.Thread(target=self.refused)
        thread.start()
        return thread


def use(rig: Rig, *parts: Any, route_fields: dict[str, Any] | None = None, **fields: Any) -> None:
    """A route to the rig's upstream over wss; AUTHORITY is trusted unless told otherwise."""
    given = {"protocol": "wss", "ca_certificates": [CA], **fields}
    rig.publish(
        service(rig.upstream.port, **given),
        route(**{"paths": ["/"], "oauth2": None, **(route_fields or {})}),
        wire.CaCertificate(CA, AUTHORITY.cert),
        *parts,
    )


def session(rig: Rig, upstream: Secured, *fields: bytes) -> tuple[Line, Line]:
    client = rig.client(handshake(b"/", *fields))
    line = upstream.accept()
    line.head()
    line.send(switching())
    assert client.head().status == 101
    return client, line


def refusal(rig: Rig, upstream: Secured) -> str:
    """Why a handshake was answered with 502."""
    thread = upstream.while_refused()
    client = rig.client(handshake())
    head, body = client.answer()
    thread.join(10)
    assert (head.status, INVALID in body.decode()) == (502, True)
    why: str = rig.record("refused")["why"]
    return why


# --- what stands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_runs_over_tls_to_a_verified_upstream(
    rig: Rig, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    context = served(GOOD, tmp_path)
    context.minimum_version = context.maximum_version = version
    upstream = Secured(rig, context)
    use(rig)
    client, line = session(rig, upstream)
    assert line.sock.selected_alpn_protocol() == "http/1.1"  # type: ignore[attr-defined]
    for size in (0, 5, 16385, 70000):
        client.send(up(BINARY, b"x" * size))
        assert line.frame().payload == b"x" * size
        line.send(frame(BINARY, b"y" * size))
        assert client.frame().payload == b"y" * size
    client.send(close(1000, mask=MASK))
    assert line.frame().code == 1000
    line.send(close(1000))
    assert client.frame().code == 1000
    assert client.rest() == b"" == line.rest()


def test_frames_behind_the_upstreams_101_arrive(rig: Rig, tmp_path: Path) -> None:
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig)
    client = rig.client(handshake() + up(TEXT, b"early"))
    line = upstream.accept()
    head = line.head()
    assert head.get("Host") == f"127.0.0.1:{rig.upstream.port}"
    line.send(switching(), frame(TEXT, b"at once"), frame(BINARY, b"z" * 40000))
    assert client.head().status == 101
    assert [len(f.payload) for f in client.frames(2)] == [7, 40000]
    assert line.frame().payload == b"early"


def test_server_name_is_the_upstreams_host(rig: Rig, tmp_path: Path) -> None:
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig, host="Up.Test.")
    rig.names.set_addresses("up.test.", [("127.0.0.1", False)])
    session(rig, upstream)
    assert upstream.names == ["Up.Test"]


def test_server_name_is_the_requests_host_when_that_is_preserved(rig: Rig, tmp_path: Path) -> None:
    upstream = Secured(rig, served(make("gateway.test", signed_by=AUTHORITY), tmp_path))
    use(rig, route_fields={"preserve_host": True})
    session(rig, upstream)
    assert upstream.names == ["gateway.test"]


def test_address_is_checked_and_never_a_server_name(rig: Rig, tmp_path: Path) -> None:
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig)
    session(rig, upstream)
    assert upstream.names == [None]


def test_verification_is_off_when_told_so(rig: Rig, tmp_path: Path) -> None:
    expired = make("elsewhere.test", signed_by=STRANGER, days=(-9, -1))
    upstream = Secured(rig, served(expired, tmp_path))
    use(rig, tls_verify=False)
    session(rig, upstream)


def test_authority_of_the_system_is_trusted_without_others(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(STRANGER.cert + AUTHORITY.cert)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig, ca_certificates=None)
    session(rig, upstream)


@pytest.mark.parametrize("key", ["ec", "rsa", "weak"])  # what the Admin API takes
def test_client_certificate_is_shown_to_an_upstream_that_asks(
    key: str, rig: Rig, tmp_path: Path
) -> None:
    mine = make("gateway", signed_by=AUTHORITY, key=key)
    assert check_pair(mine.cert, mine.key, "certificate") is None
    context = served(GOOD, tmp_path)
    context.set_ciphers("DEFAULT@SECLEVEL=1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=AUTHORITY.cert)
    upstream = Secured(rig, context)
    use(rig, wire.Certificate(CLIENT, mine.cert, mine.key), client_certificate=CLIENT)
    _, line = session(rig, upstream)
    shown = line.sock.getpeercert()["subject"]  # type: ignore[attr-defined]
    assert shown == ((("commonName", "gateway"),),)


def test_upstream_that_asks_for_a_certificate_and_gets_none_is_a_502(
    rig: Rig, tmp_path: Path
) -> None:
    context = served(GOOD, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells a client after its handshake
    context.verify_mode = ssl.CERT_REQUIRED
    upstream = Secured(rig, context)
    use(rig)
    assert refusal(rig, upstream) == "upstream's TLS failed"


# --- S83 ------------------------------------------------------------------------------------------

BAD = {
    "expired": (
        make("127.0.0.1", signed_by=AUTHORITY, days=(-9, -1)),
        "upstream's certificate has expired",
    ),
    "not-yet": (
        make("127.0.0.1", signed_by=AUTHORITY, days=(1, 9)),
        "upstream's certificate is not valid yet",
    ),
    "self-signed": (make("127.0.0.1"), "upstream's certificate is self-signed"),
    "wrong-name": (
        make("other.test", "127.0.0.2", signed_by=AUTHORITY),
        "upstream's certificate is for another name",
    ),
    "wrong-ca": (
        make("127.0.0.1", signed_by=STRANGER),
        "upstream's certificate is of an unknown CA",
    ),
}


@pytest.mark.parametrize("kind", ["wss", "https"])
@pytest.mark.parametrize("verify", [None, True])
@pytest.mark.parametrize("case", BAD)
def test_s83_upstream_with_a_bad_certificate_is_a_502(
    rig: Rig, tmp_path: Path, case: str, verify: bool | None, kind: str
) -> None:
    pair, why = BAD[case]
    upstream = Secured(rig, served(pair, tmp_path))
    fields = {"protocols": ["http", "https"]} if kind == "https" else None
    use(rig, protocol=kind, tls_verify=verify, route_fields=fields)
    assert refusal(rig, upstream) == why


@pytest.mark.parametrize("verify", [None, True])
def test_s83_authority_of_nobody_is_refused_by_the_systems_store(
    rig: Rig, tmp_path: Path, verify: bool | None
) -> None:
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig, ca_certificates=None, tls_verify=verify)
    assert refusal(rig, upstream) == "upstream's certificate is of an unknown CA"


def test_s83_list_of_authorities_that_are_all_gone_trusts_nobody(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(AUTHORITY.cert)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig, ca_certificates=[])
    assert refusal(rig, upstream) == "upstream's certificate is of an unknown CA"


def test_s83_name_of_the_host_is_checked(rig: Rig, tmp_path: Path) -> None:
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig, host="another.test")
    rig.names.set_addresses("another.test", [("127.0.0.1", False)])
    assert refusal(rig, upstream) == "upstream's certificate is for another name"


def test_chain_longer_than_the_depth_is_refused(rig: Rig, tmp_path: Path) -> None:
    between = make("between", signed_by=AUTHORITY, authority=True)
    pair = make("127.0.0.1", signed_by=between)
    chained = Pair(pair.certificate, pair.private, between.cert)
    upstream = Secured(rig, served(chained, tmp_path))
    use(rig, tls_verify_depth=1)
    session(rig, upstream)
    use(rig, tls_verify_depth=0)
    said = refusal(rig, upstream)
    assert said == "upstream's certificate chain is longer than tls_verify_depth"


# --- failures of the connection -------------------------------------------------------------------


def test_upstream_without_tls_is_a_502(rig: Rig) -> None:
    use(rig)
    client = rig.client(handshake())
    rig.upstream.accept().send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert client.answer()[0].status == 502
    assert rig.record("refused")["why"] == "upstream's TLS failed"


def test_upstream_that_refuses_late_is_tried_again_and_its_tls_not_blamed() -> None:
    """Its backlog is full; when a place might come free it has gone, and the kernel hears a RST."""
    with new_rig(1) as rig:
        with black_hole() as hole:
            rig.publish(
                service(hole, protocol="wss", tls_verify=False, retries=2, read_timeout_ms=9000),
                route(paths=["/"], oauth2=None),
            )
            client = rig.client(handshake())
            until(lambda: rig.users() == 1)
        assert client.answer()[0].status == 502
        assert rig.record("refused")["why"] == "upstream refused or ended the connection"


def test_upstream_that_ends_within_the_handshake_is_a_502(rig: Rig) -> None:
    use(rig)
    client = rig.client(handshake())
    rig.upstream.accept().reset()
    assert client.answer()[0].status == 502


def test_upstream_that_says_nothing_in_the_handshake_is_a_504(rig: Rig) -> None:
    use(rig, connect_timeout_ms=200)
    client = rig.client(handshake())
    line = rig.upstream.accept()
    assert client.answer()[0].status == 504
    assert line.rest()[:1] == b"\x16"  # its hello


def test_client_that_leaves_within_the_upstreams_handshake_leaves_nothing(rig: Rig) -> None:
    use(rig)
    client = rig.client(handshake())
    line = rig.upstream.accept()
    client.reset()
    line.rest()


# --- contexts -------------------------------------------------------------------------------------


def context_of(rig: Rig) -> Any:
    return next(iter(rig.tables[-1].boxes.values())).tls


def test_context_is_shared_and_kept_while_its_content_is_the_same(rig: Rig) -> None:
    use(rig)
    first = context_of(rig)
    use(rig, connect_timeout_ms=1234)
    assert context_of(rig) is first
    use(rig, tls_verify=True)
    assert context_of(rig) is first
    use(rig, tls_verify_depth=3)
    assert context_of(rig) is not first


def test_session_outlives_the_context_it_was_made_with(rig: Rig, tmp_path: Path) -> None:
    upstream = Secured(rig, served(GOOD, tmp_path))
    use(rig)
    client, line = session(rig, upstream)
    context = weakref.ref(context_of(rig))
    use(rig, tls_verify=False)
    del rig.tables[:-1]
    client.send(up(TEXT, b"still"))
    assert line.frame().payload == b"still"
    assert context() is not None  # the session holds its policy, and that its context
    line.close()
    client.close()

    def gone() -> bool:
        rig.names.sweep()
        rig.engine.sweep()
        return context() is None

    until(gone)


def test_certificate_that_cannot_be_used_is_refused_by_the_compiler(rig: Rig) -> None:
    junk = "-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n"
    mine, other = make("a"), make("b")
    for certificate, said in (
        (wire.Certificate(CLIENT, junk, mine.key), "certificate of the client cannot be used"),
        (wire.Certificate(CLIENT, mine.cert, "junk"), "key of the client cannot be used"),
        (wire.Certificate(CLIENT, mine.cert, other.key), "does not belong"),
    ):
        with pytest.raises(CompileError, match=said):
            use(rig, certificate, client_certificate=CLIENT)
    with pytest.raises(CompileError, match="names a CA certificate that is not there"):
        use(rig, ca_certificates=[uid(77)])
    with pytest.raises(CompileError, match="names a client certificate that is not there"):
        use(rig, client_certificate=uid(77))


# --- targets of an upstream -----------------------------------------------------------------------


def target_route(
    rig: Rig, protocol: str = "wss", protocols: Sequence[str] = ("ws", "wss"), **fields: Any
) -> None:
    """As `use`, by two targets at the rig's upstream, which differ in their names."""
    ports = [wire.Target(name, rig.upstream.port) for name in ("up.test", "other.test")]
    use(
        rig,
        wire.Upstream(uid(40), "balanced", ports, **fields),
        route_fields={"protocols": list(protocols)},
        host="balanced",
        protocol=protocol,
    )
    for name in ("up.test", "other.test"):
        rig.names.set_addresses(name, [("127.0.0.1", False)])


def test_server_name_is_the_targets(rig: Rig, tmp_path: Path) -> None:
    both = make("up.test", "other.test", signed_by=AUTHORITY)
    upstream = Secured(rig, served(both, tmp_path))
    target_route(rig)
    for _ in range(2):
        session(rig, upstream)
    assert set(upstream.names) <= {"up.test", "other.test"}
    assert len(upstream.names) == 2


def test_s83_target_whose_name_is_not_in_its_certificate_is_left_for_the_next(
    rig: Rig, tmp_path: Path
) -> None:
    upstream = Secured(rig, served(make("other.test", signed_by=AUTHORITY), tmp_path))
    target_route(rig)
    for _ in range(3):
        client = rig.client(handshake())
        line = upstream.either()
        assert line.head().get("Host") == f"other.test:{rig.upstream.port}"
        line.send(switching())
        assert client.head().status == 101


def test_server_name_is_the_upstreams_host_header(rig: Rig, tmp_path: Path) -> None:
    upstream = Secured(rig, served(make("named.test", signed_by=AUTHORITY), tmp_path))
    target_route(rig, host_header="named.test:1")
    session(rig, upstream)
    assert upstream.names == ["named.test"]


def test_kept_connection_serves_the_target_that_it_was_made_for(tmp_path: Path) -> None:
    with new_rig(1) as rig:
        both = make("up.test", "other.test", signed_by=AUTHORITY)
        upstream = Secured(rig, served(both, tmp_path))
        target_route(rig, protocol="https", protocols=["https", "http"])
        client = rig.client()
        lines: list[Line] = []
        for number in range(6):
            client.send(request())
            if number < 2:
                lines.append(upstream.accept())
            host = lines[number % 2].head().get("Host")
            assert host == f"{upstream.names[number % 2]}:{rig.upstream.port}"
            lines[number % 2].send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert client.answer()[0].status == 200
        assert upstream.names == ["up.test", "other.test"]


@pytest.mark.parametrize("own", [False, True])
def test_client_certificate_is_the_upstreams_where_the_service_has_none(
    rig: Rig, tmp_path: Path, own: bool
) -> None:
    mine, lent = make("mine.test", signed_by=AUTHORITY), make("lent.test", signed_by=AUTHORITY)
    context = served(GOOD, tmp_path)
    (tmp_path / "ca.pem").write_text(AUTHORITY.cert)
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    upstream = Secured(rig, context)
    targets = [wire.Target("127.0.0.1", rig.upstream.port)]
    use(
        rig,
        wire.Upstream(uid(40), "balanced", targets, client_certificate=CLIENT),
        wire.Certificate(CLIENT, lent.cert, lent.key),
        wire.Certificate(uid(33), mine.cert, mine.key),
        host="balanced",
        client_certificate=uid(33) if own else None,
    )
    _, line = session(rig, upstream)
    shown = line.sock.getpeercert()["subjectAltName"]  # type: ignore[attr-defined]
    assert shown == (("DNS", "mine.test" if own else "lent.test"),)


def test_edit_of_the_upstreams_certificate_is_none_of_the_service() -> None:
    def compiled(pair: Pair) -> Any:
        snapshot = wire.Snapshot(
            b"e" * 16,
            1,
            b"k" * 32,
            [service(1, host="balanced", protocol="wss")],
            [route(id=uid(1), oauth2=None)],
            certificates=[wire.Certificate(CLIENT, pair.cert, pair.key)],
            upstreams=[wire.Upstream(uid(40), "balanced", client_certificate=CLIENT)],
        )
        return box_of(compile_snapshot(snapshot, None, new_names()[0]))

    first, second = compiled(make("a.test")), compiled(make("b.test"))
    assert first.content != second.content
    assert first.content[: first.own] == second.content[: second.own]
