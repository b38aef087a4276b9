"""What a peer in TRUSTED_IPS may say of the client it speaks for.  routing-and-proxy.md §4, §7."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.dataplane.engine_kit import Head, Rig, handshake, request, route, service, switching
from tests.dataplane.engine_kit import rig as new_rig

LOOPBACK = (bytes(10) + b"\xff\xff\x7f\x00\x00\x00", 104)
ELSEWHERE = (bytes(10) + b"\xff\xff\x0a\x00\x00\x00", 104)


@pytest.fixture
def trusting() -> Iterator[Rig]:
    with new_rig(1, trusted=[LOOPBACK]) as made:
        yield made


def forwarded(rig: Rig, *fields: bytes) -> Head:
    """The handshake that the upstream sees; it is answered, and the session left open."""
    client = rig.client(handshake(b"/", *fields))
    upstream = rig.upstream.accept()
    head = upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    return head


@pytest.mark.parametrize(
    ("said", "real", "chain"),
    [
        ((b"X-Real-IP: 192.0.2.7",), "192.0.2.7", "192.0.2.7"),
        ((b"X-Real-IP: 2001:db8::7",), "2001:db8::7", "2001:db8::7"),
        ((b"X-Real-IP: 192.0.2.7", b"X-Forwarded-For: 10.9.9.9"), "192.0.2.7",
         "10.9.9.9, 127.0.0.1"),
        ((b"X-Real-IP: nobody",), "127.0.0.1", "127.0.0.1"),
        ((b"X-Real-IP: 192.0.2.7 ,1",), "127.0.0.1", "127.0.0.1"),
        ((b"X-Real-IP: " + b"1" * 60,), "127.0.0.1", "127.0.0.1"),
        ((b"X-Real-IP:",), "127.0.0.1", "127.0.0.1"),
        ((), "127.0.0.1", "127.0.0.1"),
    ],
)  # fmt: skip
def test_trusted_peer_names_the_client(
    trusting: Rig, said: tuple[bytes, ...], real: str, chain: str
) -> None:
    trusting.open_route()
    head = forwarded(trusting, *said)
    assert (head.get("X-Real-IP"), head.get("X-Forwarded-For")) == (real, chain)


def test_address_named_by_a_stranger_changes_nothing() -> None:
    with new_rig(1, trusted=[ELSEWHERE]) as rig:
        rig.open_route()
        head = forwarded(rig, b"X-Real-IP: 192.0.2.7", b"X-Forwarded-For: 10.9.9.9")
        assert head.get("X-Real-IP") == "127.0.0.1"
        assert head.get("X-Forwarded-For") == "10.9.9.9, 127.0.0.1"


def test_address_holds_for_its_request_and_not_for_the_next(trusting: Rig) -> None:
    trusting.open_route(paths=["/known"])
    client = trusting.client(
        handshake(b"/a", b"X-Real-IP: 192.0.2.7"), handshake(b"/b"),
        handshake(b"/c", b"X-Real-IP: 2001:db8::7"), b"broken\r\n\r\n",
    )  # fmt: skip
    seen = []
    for _ in range(4):
        client.answer()
        seen.append(trusting.record("refused")["client"])
    assert seen == ["192.0.2.7", client.local, "[2001:db8::7]", client.local]


def test_trust_is_of_the_socket_and_not_of_the_address_it_names(trusting: Rig) -> None:
    """What realip says is never what trust is judged by, on this request or the next (S29)."""
    trusting.publish(
        service(trusting.upstream.port), route(protocols=["wss"], paths=["/"], oauth2=None)
    )
    fields = (b"X-Real-IP: 192.0.2.7", b"X-Forwarded-Proto: https")
    head = forwarded(trusting, *fields)
    assert (head.get("X-Real-IP"), head.get("X-Forwarded-Proto")) == ("192.0.2.7", "https")


def test_token_request_tells_the_issuer_the_named_address(trusting: Rig) -> None:
    trusting.guarded_route(protocols=["http", "https"])
    client = trusting.client(
        request(b"/oauth2/token", b"Content-Length: 0", b"X-Real-IP: 192.0.2.7", method=b"POST")
    )
    kind, ref, asked = trusting.question()
    assert (kind, asked["client_ip"], asked["peer_trusted"]) == ("request", "192.0.2.7", True)
    trusting.engine.answer_request(ref, 200, [], b"{}")
    assert client.answer()[0].status == 200


def test_redirect_to_tls_goes_to_the_host_that_the_trusted_peer_was_asked_for() -> None:
    for trusted, host in ((LOOPBACK, "public.test"), (ELSEWHERE, "gateway.test")):
        with new_rig(1, trusted=[trusted]) as rig:
            rig.publish(
                service(rig.upstream.port),
                route(protocols=["wss"], paths=["/"], oauth2=None, https_redirect_status_code=308),
            )
            head, body = rig.client(handshake(b"/x?y", b"X-Forwarded-Host: public.test")).answer()
            assert (head.status, head.get("Location")) == (308, f"https://{host}/x?y")
            assert body == b""


def test_session_of_a_named_client_is_recorded_under_that_name(trusting: Rig) -> None:
    trusting.open_route()
    client, upstream = trusting.session(b"X-Real-IP: 192.0.2.7")
    client.close()
    upstream.close()
    record = trusting.record("ended")
    assert record["client"] == "192.0.2.7"
    assert json.dumps(record)
