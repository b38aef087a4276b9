"""https services: exchanges over TLS, and which connection a kept one may stand in for."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import Line, request, route, service, until
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import uid
from tests.dataplane.test_upstream_tls import (
    AUTHORITY,
    CA,
    GOOD,
    STRANGER,
    Secured,
    served,
    use,
)
from tests.pki import make

BIG = bytes(range(256)) * 4096
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HTTP: dict[str, Any] = {"protocols": ["http", "https"]}


def exchange(client: Line, upstream: Line, target: bytes = b"/") -> None:
    assert upstream.head().target == target.decode()
    upstream.send(OK)
    assert client.message()[1] == b"ok"


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    return served(GOOD, tmp_path)


def test_exchanges_over_tls_share_a_kept_connection(context: ssl.SSLContext) -> None:
    with new_rig(1) as rig:
        secured = Secured(rig, context)
        use(rig, route_fields=HTTP, protocol="https")
        client = rig.client(request(b"/one"))
        upstream = secured.accept()
        exchange(client, upstream, b"/one")
        client.send(request(b"/two"))
        exchange(client, upstream, b"/two")
        other = rig.client(request(b"/three"))
        exchange(other, upstream, b"/three")
        assert rig.count("upstream_reused") == 2
        sending = threading.Thread(
            target=lambda: client.send(
                request(b"/", b"Content-Length: %d" % len(BIG), method=b"POST"), BIG
            )
        )
        sending.start()
        upstream.head()
        assert upstream.exactly(len(BIG)) == BIG
        sending.join()
        answering = threading.Thread(
            target=lambda: upstream.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG), BIG
            )
        )
        answering.start()
        assert client.message()[1] == BIG
        answering.join()


def test_connection_to_an_address_in_brackets_is_kept(context: ssl.SSLContext) -> None:
    with new_rig(1) as rig:
        secured = Secured(rig, context)
        use(rig, route_fields=HTTP, protocol="https", host="[127.0.0.1]")
        client = rig.client(request(b"/one"))
        upstream = secured.accept()
        exchange(client, upstream, b"/one")
        client.send(request(b"/two"))
        until(lambda: rig.count("upstream_reused") == 1)
        exchange(client, upstream, b"/two")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_head_of_more_than_one_record_is_delivered(
    context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    context.maximum_version = version
    large = [b"X-Large-%d: " % number + b"x" * 7000 for number in range(4)]
    with new_rig(1) as rig:
        secured = Secured(rig, context)
        use(rig, route_fields=HTTP, protocol="https")
        client = rig.client(request(b"/one", *large))
        upstream = secured.accept()
        exchange(client, upstream, b"/one")
        client.send(request(b"/two", *large))
        exchange(client, upstream, b"/two")
        assert rig.count("upstream_reused") == 1


def test_kept_connection_that_ended_is_replaced(context: ssl.SSLContext) -> None:
    with new_rig(1) as rig:
        secured = Secured(rig, context)
        use(rig, route_fields=HTTP, protocol="https")
        client = rig.client(request())
        upstream = secured.accept()
        exchange(client, upstream)
        upstream.close()
        until(lambda: rig.count("connections") == 1)
        client.send(request(b"/again"))
        exchange(client, secured.accept(), b"/again")


def test_kept_connection_is_for_the_name_that_was_checked_alone(context: ssl.SSLContext) -> None:
    """Two names of one address, trusted alike: each has connections of its own."""
    with new_rig(1) as rig:
        secured = Secured(rig, context)
        secure: dict[str, Any] = {"protocol": "https", "ca_certificates": [CA]}
        kept: dict[str, Any] = {**HTTP, "oauth2": None, "strip_path": False}
        rig.publish(
            service(rig.upstream.port, **secure),
            service(rig.upstream.port, id=uid(41), host="up.test", **secure),
            service(rig.upstream.port, id=uid(43), protocol="http"),
            route(paths=["/"], oauth2=None, **HTTP),
            route(id=uid(42), paths=["/named"], service=uid(41), **kept),
            route(id=uid(44), paths=["/plain"], service=uid(43), **kept),
            wire.CaCertificate(CA, AUTHORITY.cert),
        )
        rig.names.set_addresses("up.test", [("127.0.0.1", False)])
        client = rig.client(request())
        first = secured.accept()
        exchange(client, first)
        client.send(request(b"/named"))
        second = secured.accept()
        exchange(client, second, b"/named")
        client.send(request(b"/plain"))
        exchange(client, rig.upstream.accept(), b"/plain")
        client.send(request())
        exchange(client, first)
        client.send(request(b"/named"))
        exchange(client, second, b"/named")
        assert secured.names == [None, "up.test"]


def test_kept_connection_is_for_the_address_that_was_checked_alone(
    context: ssl.SSLContext,
) -> None:
    """Two upstreams ask one target for different addresses, and its certificate has one of them."""
    with new_rig(1) as rig:
        secured = Secured(rig, context)
        secure: dict[str, Any] = {"protocol": "https", "ca_certificates": [CA]}
        target = wire.Target("127.0.0.1", rig.upstream.port)
        rig.publish(
            service(1, host="good", **secure),
            service(1, id=uid(41), host="bad", **secure),
            route(paths=["/"], oauth2=None, **HTTP),
            route(id=uid(42), paths=["/bad"], service=uid(41), oauth2=None, **HTTP),
            wire.Upstream(uid(90), "good", [target], host_header="127.0.0.1"),
            wire.Upstream(uid(91), "bad", [target], host_header="127.0.0.2"),
            wire.CaCertificate(CA, AUTHORITY.cert),
        )
        client = rig.client(request())
        first = secured.accept()
        exchange(client, first)
        thread = secured.while_refused()
        client.send(request(b"/bad"))
        assert client.answer()[0].status == 502
        thread.join(10)
        client.send(request())
        exchange(client, first)
        assert rig.count("upstream_reused") == 1


def test_next_target_is_asked_for_by_its_own_name(context: ssl.SSLContext, tmp_path: Path) -> None:
    """The first one's certificate is a stranger's: the next gets its own server name and Host."""
    strange = served(make("a.test", signed_by=STRANGER), tmp_path)
    with new_rig(1) as rig, new_rig(1) as other:
        secured, refused = Secured(rig, context), Secured(other, strange)
        targets = [("a.test", other.upstream.port), ("up.test", rig.upstream.port)]
        rig.publish(
            service(1, host="up", protocol="https", ca_certificates=[CA], retries=1),
            route(paths=["/"], oauth2=None, **HTTP),
            wire.Upstream(uid(90), "up", [wire.Target(*target) for target in targets]),
            wire.CaCertificate(CA, AUTHORITY.cert),
        )
        for name, _ in targets:
            rig.names.set_addresses(name, [("127.0.0.1", False)])
        thread = refused.while_refused()
        client = rig.client(request())
        upstream = secured.accept()
        assert upstream.head().get("Host") == f"up.test:{rig.upstream.port}"
        upstream.send(OK)
        assert client.message()[1] == b"ok"
        thread.join(10)
        assert (refused.names, secured.names) == (["a.test"], ["up.test"])


def test_connection_whose_name_is_the_clients_is_not_kept(context: ssl.SSLContext) -> None:
    with new_rig(1) as rig:
        secured = Secured(rig, context)
        use(rig, route_fields={**HTTP, "preserve_host": True}, protocol="https")
        client = rig.client(request(b"/", b"Host: up.test"))
        upstream = secured.accept()
        exchange(client, upstream)
        assert upstream.rest() == b""
        assert secured.names == ["up.test"]
        client.send(request(b"/", b"Host: up.test"))
        exchange(client, secured.accept())
