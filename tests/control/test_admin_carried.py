"""What the Admin API takes every data plane takes: one value refused there holds up all others."""

from __future__ import annotations

from typing import Any

import pytest

from control.snapshot import build
from control.store import queries
from control.store.secrets import random_text
from dataplane._core import Reclaimer
from dataplane._policies import NameTable
from dataplane.compile import compile_snapshot
from tests.control.adminkit import Admin
from tests.pki import make

LONGEST, LONGEST_KEY = 4096, 2048  # bytes
TOO_LONG, TOO_LONG_KEY = (f"length must be at most {size}" for size in (LONGEST, LONGEST_KEY))
AUTHORITY = make(authority=True)
INDENTED = "".join(f"  {line}\n" for line in AUTHORITY.cert.splitlines())


def carried(admin: Admin) -> int:
    """The routes that a data plane makes of what is stored."""
    with admin.store.reading() as session:
        snapshot = build(queries.config_rows(session))
    return len(compile_snapshot(snapshot, None, NameTable(Reclaimer())).boxes)


def plugin(**config: Any) -> dict[str, Any]:
    return {"name": "oauth2", "config": {"enable_client_credentials": True, **config}}


@pytest.mark.parametrize(
    "fields",
    [
        {"paths": ["/" + "a" * (LONGEST - 1)]},
        {"paths": ["/" + "\u00e9" * (LONGEST // 2 - 1)]},
        {"headers": {"x": ["a" * LONGEST]}},
        {"hosts": ["a." * 126 + "a", "*." + "a." * 125 + "a", "a:00080"]},
    ],
)
def test_largest_matchers_are_carried(fields: dict[str, Any], admin: Admin) -> None:
    admin.route(**fields)
    assert carried(admin) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "/" + "a" * (LONGEST - 1)},
        {"path": "/" + "\u00e9" * 682},
        {"host": "a." * 126 + "a"},
        {"host": "[::1]"},
        {"host": "[127.0.0.1]"},
    ],
)
def test_largest_services_are_carried(fields: dict[str, Any], admin: Admin) -> None:
    service = admin.service(**fields)
    admin.route(service={"id": service["id"]}, paths=["/"])
    assert carried(admin) == 1


@pytest.mark.parametrize(
    "host_header",
    ["a." * 126 + "a", "a." * 126 + "a:65535", "::1", "[::1]", "[::1]:80", "10.0.0.1:00001"],
)
def test_largest_upstreams_are_carried(host_header: str, admin: Admin) -> None:
    admin.post("/upstreams", {"name": "up", "host_header": host_header})
    for target in ("a." * 126 + "a:65535", "::1"):
        admin.post("/upstreams/up/targets", {"target": target})
    service = admin.service(host="up", protocol="https")
    admin.route(service={"id": service["id"]}, paths=["/"])
    assert carried(admin) == 1


def test_largest_names_are_carried(admin: Admin) -> None:
    admin.route(paths=["/"])
    admin.post("/plugins", plugin(realm="r" * LONGEST, anonymous="n" * LONGEST))
    names = {name: random_text(LONGEST_KEY) for name in ("username", "custom_id")}
    who = admin.post("/consumers", {**names, "tags": [random_text(LONGEST_KEY)]})
    client = {"name": "n", "client_id": random_text(LONGEST_KEY)}
    admin.post(f"/consumers/{who['id']}/oauth2", client)
    assert carried(admin) == 1
    assert admin.get(f"/consumers/{names['username']}") == who


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/routes", {"paths": ["/" + "a" * LONGEST]}, {"paths": [TOO_LONG]}),
        ("/routes", {"headers": {"x": ["a" * (LONGEST + 1)]}}, {"headers": {"x": [TOO_LONG]}}),
        ("/services", {"host": "h", "path": "/" + "a" * LONGEST}, {"path": TOO_LONG}),
        ("/consumers", {"username": "\u00e9" * (LONGEST_KEY // 2 + 1)}, {"username": TOO_LONG_KEY}),
        ("/consumers", {"custom_id": "c" * (LONGEST_KEY + 1)}, {"custom_id": TOO_LONG_KEY}),
        ("/services", {"host": "h", "tags": ["t" * (LONGEST_KEY + 1)]}, {"tags": [TOO_LONG_KEY]}),
        ("/plugins", plugin(realm="r" * (LONGEST + 1)), {"config": {"realm": TOO_LONG}}),
        ("/plugins", plugin(anonymous="n" * (LONGEST + 1)), {"config": {"anonymous": TOO_LONG}}),
    ],
)
def test_longer_text_is_refused(
    path: str, body: dict[str, Any], fields: dict[str, Any], admin: Admin
) -> None:
    assert admin.fields(path, body) == fields


def test_token_may_be_as_long_as_a_data_plane_reads(admin: Admin) -> None:
    """S10."""
    made = admin.token(access_token="a" * 8192, scope="s" * LONGEST)
    assert made["access_token"] == "a" * 8192
    sent = {"credential": made["credential"], "expires_in": 60, "access_token": "a" * 8193}
    assert admin.fields("/oauth2_tokens", sent) == {"access_token": "length must be at most 8192"}


def test_longer_header_name_is_refused(admin: Admin) -> None:
    said = admin.fields("/plugins", plugin(auth_header_name="a" * 257))
    assert said == {"config": {"auth_header_name": f"bad header name '{'a' * 257}'"}}
    admin.route(paths=["/"])
    admin.post("/plugins", plugin(auth_header_name="a" * 256))
    assert carried(admin) == 1


def test_certificate_that_only_we_can_read_is_refused(admin: Admin) -> None:
    said = admin.fields("/ca_certificates", {"cert": INDENTED})
    assert said == {"cert": "invalid certificate: expected PEM"}
    made = admin.post("/ca_certificates", {"cert": "\u00e9\n" + AUTHORITY.cert})
    service = admin.service(protocol="wss", ca_certificates=[made["id"]])
    admin.route(service={"id": service["id"]}, protocols=["wss"], paths=["/"])
    assert carried(admin) == 1
