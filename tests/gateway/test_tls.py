"""TLS through both planes: certificates by server name, tickets, an upstream over it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.harness import Gateway, eventually
from tests.pki import Pair, make

AUTHORITY = make(authority=True)
UPSTREAM = make("127.0.0.1", signed_by=AUTHORITY)
CLIENT = make("gateway", signed_by=AUTHORITY)


@contextmanager
def secure_echo(folder: Path) -> Iterator[int]:
    """The port of an upstream over TLS that asks for a certificate and sends messages back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*UPSTREAM.files(folder))
    context.load_verify_locations(cadata=AUTHORITY.cert)
    context.verify_mode = ssl.CERT_REQUIRED

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def made(gateway: Gateway, path: str, body: dict[str, object]) -> str:
    answer = gateway.admin.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def shown(gateway: Gateway, name: str) -> x509.Certificate:
    """The certificate that the gateway shows to a client which asks for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", gateway.ports.tls), 10)
    with context.wrap_socket(raw, server_hostname=name) as sock:
        der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_certificates_and_a_secure_upstream_are_set_by_the_admin_api(
    gateway: Gateway, tmp_path: Path
) -> None:
    mine, later = make("mine.test"), make("mine.test")
    with secure_echo(tmp_path) as port:
        client = made(gateway, "/certificates", {"cert": CLIENT.cert, "key": CLIENT.key})
        trusted = made(gateway, "/ca_certificates", {"cert": AUTHORITY.cert})
        service = {
            "name": "secure",
            "url": f"wss://127.0.0.1:{port}/",
            "client_certificate": {"id": client},
            "ca_certificates": [trusted],
        }
        made(gateway, "/services", service)
        route = {"paths": ["/"], "protocols": ["ws", "wss"]}
        made(gateway, "/services/secure/routes", route)
        pair = {"cert": mine.cert, "key": mine.key, "snis": ["mine.test", "*.mine.test"]}
        certificate = made(gateway, "/certificates", pair)
        eventually(lambda: shown(gateway, "mine.test") == mine.certificate)
        assert shown(gateway, "deep.mine.test") == mine.certificate
        assert shown(gateway, "other.test") != mine.certificate

        context = ssl.create_default_context(cadata=mine.cert)
        with connect(
            f"wss://127.0.0.1:{gateway.ports.tls}/",
            ssl=context,
            server_hostname="mine.test",
            proxy=None,
        ) as session:
            session.send("hello")
            assert session.recv(10) == "hello"
            answer = gateway.admin.patch(
                f"/certificates/{certificate}", json={"cert": later.cert, "key": later.key}
            )
            assert answer.status_code == 200, answer.text
            eventually(lambda: shown(gateway, "mine.test") == later.certificate)
            session.send("still")
            assert session.recv(10) == "still"

        # Without the authority it is one of nobody.
        answer = gateway.admin.patch("/services/secure", json={"ca_certificates": None})
        assert answer.status_code == 200, answer.text

        def refused() -> bool:
            try:
                with gateway.websocket("/"):
                    return False
            except InvalidStatus as error:
                return bool(error.response.status_code == 502)

        eventually(refused)


def test_ticket_is_good_after_a_restart(new_gateway: Callable[..., Gateway]) -> None:
    gateway = new_gateway(WORKERS="2")
    process = gateway.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def reused(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        raw = socket.create_connection(("127.0.0.1", gateway.ports.tls), 10)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 ")
            return bool(sock.session_reused), sock.session

    first, session = reused(None)
    assert not first
    assert reused(session)[0]
    assert "kTLS: not used" in process.output()
    process.stop()
    gateway.start()
    assert reused(session)[0]


@pytest.mark.parametrize("pair", [Pair(UPSTREAM.certificate, CLIENT.private)])
def test_pair_that_is_none_is_refused_before_it_is_stored(gateway: Gateway, pair: Pair) -> None:
    answer = gateway.admin.post("/certificates", json={"cert": pair.cert, "key": pair.key})
    assert answer.status_code == 400
    assert answer.json()["fields"] == {"@entity": ["certificate does not match key"]}
