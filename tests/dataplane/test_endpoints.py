"""What a data plane hands to the issuer: endpoints, preflights, metadata.  oauth2.md §3, §14."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane import wire
from dataplane._endpoints import endpoint
from dataplane.compile import CompileError
from dataplane.prepared import challenges, metadata_places
from tests.dataplane.engine_kit import (
    PLUGIN,
    ROUTE,
    SERVICE,
    UPGRADE,
    Rig,
    plugin,
    request,
    route,
    service,
)
from tests.dataplane.snapshots import uid

NONE, KONG, OURS = range(3)
OTHER_PLUGIN = uid(33)
PREFLIGHT = (
    b"Origin: https://shop.example",
    b"Access-Control-Request-Method: POST",
    b"Access-Control-Request-Headers: authorization",
)
REPLY = [(b"Content-Type", b"application/json")]


@pytest.mark.parametrize("name", ["token", "authorize"])
@pytest.mark.parametrize("before", ["", "/x", "/x/oauth2", "/x/y/oauth2/token"])
@pytest.mark.parametrize("after", ["", "/"])
def test_kongs_endpoints_are_told_by_the_end_of_a_path(name: str, before: str, after: str) -> None:
    assert endpoint(f"{before}/oauth2/{name}{after}".encode()) == KONG


@pytest.mark.parametrize("name", ["revoke", "introspect", "jwks", "ticket", "sessions"])
def test_our_endpoints_are_told_likewise(name: str) -> None:
    assert endpoint(f"/x/oauth2/{name}/".encode()) == OURS


@pytest.mark.parametrize("path", [b"/oauth2/token", b"/oauth2/sessions", b"/oauth2/jwks"])
def test_cut_or_changed_path_is_no_endpoint(path: bytes) -> None:
    for cut in range(len(path)):
        assert endpoint(path[:cut]) == NONE
        assert endpoint(path[:cut] + b"!" + path[cut + 1 :]) == NONE


ODD_PATHS = [b"", b"/", b"/oauth2", b"/oauth2/", b"oauth2/token", b"/oauth2/token//"]
ODD_PATHS += [b"/oauth2/tokens", b"/oauth2/token/x", b"/OAuth2/token", b"/xoauth2/token"]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_path_is_no_endpoint(path: bytes) -> None:
    assert endpoint(path) == NONE


# --- endpoints ------------------------------------------------------------------------------------


def serve(rig: Rig, *parts: Any, protocols: tuple[str, ...] = ("http", "https"), **of: Any) -> None:
    fields = {"paths": ["/auth"], "protocols": list(protocols), **of}
    rig.publish(service(rig.upstream.port, protocol="http"), route(**fields), *parts)


def asked(rig: Rig) -> dict[str, Any]:
    kind, ref, fields = rig.question()
    assert kind == "request"
    rig.engine.answer_request(ref, 200, REPLY, b"{}")
    return dict(fields)


@pytest.mark.parametrize("method", [b"POST", b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
@pytest.mark.parametrize("name", [b"revoke", b"introspect", b"jwks", b"ticket", b"sessions"])
def test_all_endpoints_are_the_issuers_on_a_route_without_a_service(
    rig: Rig, name: bytes, method: bytes
) -> None:
    serve(rig, plugin(), service=None)
    path = b"/auth/oauth2/" + name
    client = rig.client(request(path + b"?a=1", b"Content-Length: 3", method=method) + b"x=y")
    for _ in range(2):
        fields = asked(rig)
        assert fields["path"] == path.decode() and fields["method"] == method.decode()
        assert (fields["plugin"], fields["route"], fields["service"]) == (PLUGIN, ROUTE, None)
        assert (fields["query"], fields["body"]) == (b"a=1", b"x=y")
        head, body = client.answer(body=method != b"HEAD")
        assert (head.status, head.get("Connection")) == (200, "keep-alive")
        assert body == (b"{}" if method != b"HEAD" else b"")
        client.send(request(path + b"?a=1", b"Content-Length: 3", method=method), b"x=y")
    asked(rig)


def test_endpoints_of_a_route_with_a_service_are_kongs_two(rig: Rig) -> None:
    serve(rig, plugin())
    client = rig.client(request(b"/auth/oauth2/ticket", method=b"POST"))
    assert client.message()[0].status == 401  # as any request of the service
    client.send(request(b"/auth/oauth2/token", method=b"POST"))
    assert asked(rig)["service"] == SERVICE


def test_endpoints_all_adds_ours_to_a_route_with_a_service(rig: Rig) -> None:
    serve(rig, plugin(endpoints="all"))
    rig.client(request(b"/auth/oauth2/ticket", method=b"POST"))
    assert asked(rig)["service"] == SERVICE
    assert rig.upstream.untouched()


def test_endpoints_are_not_there_without_the_plugin(rig: Rig) -> None:
    serve(rig, oauth2=None)
    client = rig.client(request(b"/auth/oauth2/ticket", method=b"POST"))
    upstream = rig.upstream.accept()
    assert upstream.head().target == "/oauth2/ticket"
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert client.message()[0].status == 200


def test_ws_route_has_no_endpoints(rig: Rig) -> None:
    serve(rig, plugin(endpoints="all"), protocols=("ws", "wss"))
    client = rig.client(request(b"/auth/oauth2/sessions", *UPGRADE))
    assert client.message()[0].status == 401


@pytest.mark.parametrize("status", [204, 304])
def test_answer_without_content_has_no_length(rig: Rig, status: int) -> None:
    """RFC 9110 §8.6: a preflight is answered with 204, metadata with 304."""
    serve(rig, plugin(), service=None)
    client = rig.client(request(b"/auth/oauth2/jwks", method=b"OPTIONS"))
    rig.engine.answer_request(rig.question()[1], status, [(b"Vary", b"Origin")], b"")
    head = client.head()
    assert (head.status, head.all("Content-Length"), head.get("Vary")) == (status, [], "Origin")
    client.send(request(b"/auth/oauth2/jwks"))
    asked(rig)
    assert client.message()[1] == b"{}"


# --- preflights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"token", b"ticket", b"sessions", b"revoke"])
def test_preflight_reaches_a_route_that_takes_only_post(rig: Rig, name: bytes) -> None:
    """oauth2.md §14, Ticket."""
    serve(rig, plugin(), service=None, methods=["POST"])
    rig.client(request(b"/auth/oauth2/" + name, *PREFLIGHT, method=b"OPTIONS"))
    fields = asked(rig)
    assert (fields["method"], fields["route"]) == ("OPTIONS", ROUTE)


def test_preflight_belongs_to_the_route_of_what_follows(rig: Rig) -> None:
    everything = route(id=uid(77), paths=["/"], protocols=["http"], oauth2=None)
    serve(rig, plugin(), everything, service=None, methods=["POST"])
    rig.client(request(b"/auth/oauth2/ticket", *PREFLIGHT, method=b"OPTIONS"))
    assert asked(rig)["route"] == ROUTE


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (b"/auth/oauth2/ticket", PREFLIGHT[1:]),
        (b"/auth/oauth2/ticket", PREFLIGHT[:1]),
        (b"/auth/oauth2/ticket", (PREFLIGHT[0], b"Access-Control-Request-Method: GET")),
        (b"/auth/oauth2/tickets", PREFLIGHT),
        (b"/auth", PREFLIGHT),
    ],
)
def test_other_options_are_routed_by_their_method(
    rig: Rig, path: bytes, fields: tuple[bytes, ...]
) -> None:
    serve(rig, plugin(), service=None, methods=["POST"])
    client = rig.client(request(path, *fields, method=b"OPTIONS"))
    assert client.message()[0].status == 404


def test_preflight_of_an_endpoint_that_is_not_answered_is_a_404(rig: Rig) -> None:
    serve(rig, plugin(), methods=["POST"])
    client = rig.client(request(b"/auth/oauth2/ticket", *PREFLIGHT, method=b"OPTIONS"))
    assert client.message()[0].status == 404


# --- metadata -------------------------------------------------------------------------------------

ISSUERS = (
    wire.Issuer(PLUGIN, "auth.example", "/shop"),
    wire.Issuer(OTHER_PLUGIN, "api.example", "", resource=True),
    wire.Issuer(OTHER_PLUGIN, "auth.example", "/shop"),  # the first has it
)
PLACES = [
    (b"auth.example", b"/.well-known/oauth-authorization-server/shop", PLUGIN),
    (b"auth.example", b"/.well-known/openid-configuration/shop", PLUGIN),
    (b"auth.example", b"/shop/.well-known/openid-configuration", PLUGIN),
    (b"api.example", b"/.well-known/oauth-protected-resource", OTHER_PLUGIN),
]


@pytest.mark.parametrize(("host", "path", "instance"), PLACES)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_metadata_is_the_issuers_without_a_route(
    rig: Rig, host: bytes, path: bytes, instance: bytes, method: bytes
) -> None:
    rig.publish(*ISSUERS)
    client = rig.client(request(path, b"Host: " + host.upper() + b":8443", method=method))
    fields = asked(rig)
    assert (fields["plugin"], fields["path"]) == (instance, path.decode())
    assert (fields["route"], fields["service"]) == (bytes(16), None)
    head, body = client.answer(body=method == b"GET")
    assert (head.status, body) == (200, b"{}" if method == b"GET" else b"")
    client.send(request(b"/elsewhere"))
    assert client.message()[0].status == 404
    assert rig.users() == 0


def test_metadata_goes_before_the_routes(rig: Rig) -> None:
    everything = route(paths=["/"], protocols=["http", "https"])
    rig.publish(service(rig.upstream.port, protocol="http"), everything, plugin(), *ISSUERS)
    rig.client(request(PLACES[0][1], b"Host: auth.example"))
    assert asked(rig)["route"] == bytes(16)


@pytest.mark.parametrize(
    ("fields", "path", "method"),
    [
        ((b"Host: auth.example.test",), PLACES[0][1], b"GET"),
        ((b"Host: api.example",), PLACES[0][1], b"GET"),
        ((b"Host: auth.example",), PLACES[0][1] + b"/", b"GET"),
        ((b"Host: auth.example",), PLACES[0][1][:-1], b"GET"),
        ((b"Host: auth.example",), b"/.well-known/oauth-protected-resource/shop", b"GET"),
        ((b"Host: auth.example",), PLACES[0][1], b"POST"),
        ((b"Host: auth.example", *UPGRADE), PLACES[0][1], b"GET"),
    ],
)
def test_what_is_no_place_of_metadata_is_routed(
    rig: Rig, fields: tuple[bytes, ...], path: bytes, method: bytes
) -> None:
    rig.publish(*ISSUERS)
    assert rig.client(request(path, *fields, method=method)).message()[0].status == 404


def test_metadata_is_found_among_a_thousand_whose_hashes_collide(rig: Rig) -> None:
    issuers = [wire.Issuer(uid(n), f"host{n % 7}.example", f"/{n}") for n in range(1000)]
    found = metadata_places(issuers)
    tables = rig.publish(*issuers)
    assert len(found) == 3000
    for (host, path), instance in found.items():
        assert tables.document(host, path) == instance
    assert tables.document(b"host1.example", b"/.well-known/openid-configuration/0") is None


def test_metadata_path_that_is_none_is_refused(rig: Rig) -> None:
    with pytest.raises(CompileError):
        rig.publish(wire.Issuer(PLUGIN, "auth.example", "/a%00"))


# --- challenges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("realm", "metadata", "missing"),
    [
        (None, None, b"Bearer"),
        ("shop", None, b'Bearer realm="shop"'),
        (None, "https://a.example/m", b'Bearer resource_metadata="https://a.example/m"'),
        ("s", "https://a/m", b'Bearer realm="s", resource_metadata="https://a/m"'),
    ],
)
def test_challenge_names_the_metadata_of_the_resource(
    realm: str | None, metadata: str | None, missing: bytes
) -> None:
    """RFC 9728 §5.1, behind Kong's parameters."""
    without_token, invalid = challenges(realm, metadata)
    assert without_token == missing
    error = b'error="invalid_token", '
    error += b'error_description="The access token is invalid or has expired"'
    first = b"" if realm is None else b'realm="%s", ' % realm.encode()
    last = b"" if metadata is None else b', resource_metadata="%s"' % metadata.encode()
    assert invalid == b"Bearer " + first + error + last


def test_both_refusals_carry_their_challenge(rig: Rig) -> None:
    serve(rig, plugin(resource_metadata="https://a.example/m"))
    client = rig.client(request(b"/auth"))
    head = client.message()[0]
    assert head.get("WWW-Authenticate") == 'Bearer resource_metadata="https://a.example/m"'
    client.send(request(b"/auth", b"Authorization: Bearer junk"))
    said = client.message()[0].get("WWW-Authenticate") or ""
    assert said.endswith(', resource_metadata="https://a.example/m"')
