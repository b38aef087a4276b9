"""A Kong's clients go on here with the ids, secrets and tokens that they have."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.gateway import howto
from tests.harness import Gateway, eventually, free_ports
from tests.kong import FakeKong

SECRET = "the-secret-that-Kong-hashed"
ACCESS, REFRESH = "0123456789abcdefghijklmnopqrstuv", "refresh-0123456789abcdefghijklmn"


def id_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def ref(name: str) -> dict[str, str]:
    return {"id": id_of(name)}


def entity(_name: str, **fields: Any) -> dict[str, Any]:
    times = {"created_at": 1_600_000_000, "updated_at": 1_600_000_000}
    return {"id": id_of(_name), **times, "tags": None, "ws_id": id_of("workspace"), **fields}


def hashed(secret: str) -> str:
    """As Kong stores a secret with `hash_secret`."""
    salt = b"salt-of-16-bytes"
    derived = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, 10_000, 32)
    parts = (base64.b64encode(part).decode().rstrip("=") for part in (salt, derived))
    return "$pbkdf2-sha512$i=10000,l=32$" + "$".join(parts)


def kong_of(echo_url: str) -> dict[str, list[dict[str, Any]]]:
    """The how-to as a Kong holds it, with a token in use, and a route behind key-auth."""
    echo = urlsplit(echo_url)
    plugin = {
        "name": "oauth2", "instance_name": None, "consumer": None, "consumer_group": None,
        "enabled": True, "protocols": ["http", "https", "ws", "wss"], "service": None,
        "route": None, "config": howto.OAUTH2 | {"token_expiration": 7200, "pkce": "lax"},
    }  # fmt: skip
    return {
        "services": [
            entity("ws", name="ws-service", protocol="ws", host=echo.hostname, port=echo.port,
                   path="/", tls_sans=None),
        ],
        "routes": [
            entity("ws-route", name="ws-route", protocols=["ws", "wss"], paths=[howto.PATH],
                   service=ref("ws")),
            entity("token-route", name="token-route", protocols=["https"], methods=["POST"],
                   paths=["/token-route"], service=None),
            entity("guarded", name="guarded", protocols=["ws"], paths=["/guarded"],
                   service=ref("ws")),
        ],
        "plugins": [
            entity("p1", **plugin | {"service": ref("ws")}),
            entity("p2", **plugin | {"route": ref("token-route")}),
            entity("p3", **plugin | {"name": "key-auth", "route": ref("guarded"), "config": {}}),
        ],
        "consumers": [entity("alex", username="alex", custom_id="a-1")],
        "oauth2_credentials": [
            entity("app", name="app", client_id="app-of-kong", client_secret=hashed(SECRET),
                   hash_secret=True, redirect_uris=["https://app.example/"],
                   client_type="confidential", consumer=ref("alex")),
        ],
        "oauth2_tokens": [
            {"id": id_of("token"), "created_at": int(time.time()) - 60, "expires_in": 7200,
             "token_type": "bearer", "access_token": ACCESS, "refresh_token": REFRESH,
             "authenticated_userid": "user-7", "scope": "email profile", "credential": ref("app"),
             "service": None, "ttl": 1209000, "ws_id": id_of("workspace")},
        ],
        "keyauth_credentials": [entity("key", key="k", consumer=ref("alex"))],
    }  # fmt: skip


@pytest.fixture
def gateway(new_gateway: Callable[..., Gateway]) -> Gateway:
    made = new_gateway()
    made.start()
    return made


def test_client_of_kong_goes_on_with_what_it_has(gateway: Gateway, echo_url: str) -> None:
    with FakeKong(kong_of(echo_url), token="letmein", page=2) as kong:
        done = gateway.run("import", "kong", "--admin-url", kong.url, KONG_ADMIN_TOKEN="letmein")
    assert done.returncode == 0, done.stderr
    assert "plugins: the plugin key-auth is not there: 1" in done.stdout
    assert "routes: is guarded by key-auth, which is not there: 1 (guarded)" in done.stdout
    trail = gateway.admin.get("/narthex/audit?size=1000").text
    records = json.loads(trail)["data"]
    kinds = ("services", "routes", "routes", "consumers", "plugins", "plugins",
             "oauth2_credentials", "oauth2_tokens")  # fmt: skip
    assert sorted(record["type"] for record in records) == sorted(kinds)
    assert [r["after"] for r in records if r["type"] == "oauth2_tokens"] == [{"imported": 1}]
    assert len({record["request_id"] for record in records}) == 1
    for secret in (ACCESS, REFRESH, hashed(SECRET), howto.OAUTH2["provision_key"]):
        assert secret not in trail
    gateway.wait_carried()
    # The token: never seen by a data plane, and without the check characters of ours.
    made = howto.HowTo(gateway, "app-of-kong", SECRET)
    made.echoes(ACCESS)
    assert made.status_of("0123456789abcdefghijklmnopqrstuX") == 401
    refused = made.refusal(None)
    assert refused is not None and refused.status_code == 401
    # The secret, which Kong hashed.
    made.echoes(made.token())
    wrong = howto.HowTo(gateway, "app-of-kong", "wrong").ask_token()
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_client")
    # The refresh token, once; the session of the old token becomes the new one's.
    with gateway.websocket(howto.PATH, ACCESS) as held:
        ask = {"grant_type": "refresh_token", "refresh_token": REFRESH}
        answer = made.ask_token(**ask)
        assert answer.status_code == 200, answer.text
        held.send("still here")
        assert held.recv(timeout=10) == "still here"
        made.echoes(answer.json()["access_token"])
        assert made.ask_token(**ask).status_code == 400
        eventually(lambda: made.status_of(ACCESS) == 401)


def test_imported_token_is_known_after_a_restart_and_ends_when_deleted(
    gateway: Gateway, echo_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "kong.yaml"
    file.write_text(yaml.safe_dump({"_format_version": "3.0"} | kong_of(echo_url)))
    done = gateway.run("import", "kong", "--file", str(file))
    assert done.returncode == 0, done.stderr
    made = howto.HowTo(gateway, "app-of-kong", SECRET)
    eventually(lambda: made.status_of(ACCESS) == 101)
    gateway.processes[0].stop()
    gateway.start()
    made.echoes(ACCESS)
    assert gateway.admin.delete(f"/oauth2_tokens/{id_of('token')}").status_code == 204
    eventually(lambda: made.status_of(ACCESS) == 401)
    again = gateway.run("import", "kong", "--file", str(file))
    assert "was refreshed or revoked here: 1" in again.stdout
    assert made.status_of(ACCESS) == 401


def test_command_says_so_when_no_control_plane_runs(
    new_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    file = tmp_path / "kong.json"
    file.write_text(json.dumps({"_format_version": "3.0"}))
    gateway = new_gateway(ADMIN_LISTEN=f"127.0.0.1:{free_ports(1)[0]}")
    done = gateway.run("import", "kong", "--file", str(file))
    assert done.returncode == 1 and "no answer: Connection refused" in done.stderr
