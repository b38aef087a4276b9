"""The two servers as a request sees them: endpoints, clients, codes and tokens."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from tests.compliance import needs
from tests.compliance.judged import PROVISION_KEY, REDIRECT_URI, Judged
from tests.harness import Process, eventually, free_ports

VERIFIER = "a-verifier-of-at-least-43-characters-as-rfc-7636-wants"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:-1]
SCOPE = "email"


@dataclass(frozen=True)
class Client:
    client_id: str
    client_secret: str = field(default="", repr=False)

    @property
    def basic(self) -> dict[str, str]:
        """The header of RFC 6749 §2.3.1."""
        return basic(self.client_id, self.client_secret)

    @property
    def body(self) -> dict[str, str]:
        found = {"client_id": self.client_id, "client_secret": self.client_secret}
        return {name: value for name, value in found.items() if value}


def basic(client_id: str, secret: str) -> dict[str, str]:
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


class Server(ABC):
    """One authorization server.  `by_basic` and `by_body` are registered to come that way."""

    def __init__(self, name: str, paths: dict[str, str], base: str, ca: Path) -> None:
        self.name, self.paths = name, paths
        self._http = httpx.Client(base_url=base, verify=str(ca), timeout=20, trust_env=False)
        self.by_basic: Client
        self.by_body: Client
        self.public: Client
        self.other: Client

    def close(self) -> None:
        self._http.close()

    @abstractmethod
    def code(self, client: Client, challenge: str | None = CHALLENGE) -> str:
        """A fresh authorization code for REDIRECT_URI, of the user alice."""

    def send(
        self,
        endpoint: str,
        data: Any = None,
        headers: dict[str, str] | None = None,
        method: str = "POST",
        **more: Any,
    ) -> httpx.Response:
        """A request to an endpoint; `data` is a form, and a list repeats its parameters."""
        if isinstance(data, list):
            more["content"] = _form(data)
            headers = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
            data = None
        return self._http.request(
            method, self.paths[endpoint], data=data, headers=headers or {}, **more
        )

    def redeem(self, client: Client, code: str | None = None, **more: str) -> httpx.Response:
        """The token request of a code that was asked for with VERIFIER."""
        params = {
            "grant_type": "authorization_code",
            "code": self.code(client) if code is None else code,
            "redirect_uri": REDIRECT_URI,
            "code_verifier": VERIFIER,
        } | more
        auth = client.basic if client is self.by_basic or client is self.other else {}
        body = params if auth else params | client.body
        return self.send("token", {name: v for name, v in body.items() if v}, auth)

    def tokens(self, client: Client) -> dict[str, Any]:
        """An access and a refresh token, just issued."""
        answer = self.redeem(client)
        assert answer.status_code == 200, f"{self.name}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    def refresh(self, client: Client, token: str, **more: str) -> httpx.Response:
        params = {"grant_type": "refresh_token", "refresh_token": token} | more
        return self.send("token", params, client.basic)

    def introspect(self, token: str, client: Client | None = None, **more: str) -> httpx.Response:
        params = {"token": token, **more}
        return self.send("introspect", params, (client or self.by_basic).basic)

    def revoke(self, token: str, client: Client | None = None, **more: str) -> httpx.Response:
        params = {"token": token, **more}
        return self.send("revoke", params, (client or self.by_basic).basic)


def _form(pairs: list[tuple[str, str]]) -> bytes:
    return "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs).encode()


class Ours(Server):
    """One instance of the gateway."""

    def __init__(self, judged: Judged, instance: dict[str, Any]) -> None:
        at = f"/{instance['name']}/oauth2"
        paths = {one: f"{at}/{one}" for one in ("token", "introspect", "revoke", "jwks")}
        paths["metadata"] = f"/.well-known/oauth-authorization-server/{instance['name']}"
        super().__init__(instance["profile"], paths, judged.base, judged.ca)
        self._authorize = f"{at}/authorize"
        self.by_basic, self.by_body, self.other = (
            self._client(judged, name) for name in ("basic", "body", "other")
        )
        self.public = self._client(judged, "public", client_type="public")

    def _client(self, judged: Judged, name: str, **fields: Any) -> Client:
        made = judged.client(f"{self.name} {name}", **fields)
        return Client(made["client_id"], "" if fields else made["client_secret"])

    def code(self, client: Client, challenge: str | None = CHALLENGE) -> str:
        params = {
            "provision_key": PROVISION_KEY,
            "authenticated_userid": "alice",
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": REDIRECT_URI,
            "scope": SCOPE,
        }
        if challenge:
            params |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        answer = self._http.post(self._authorize, data=params)
        assert answer.status_code == 200, f"{self.name}: {answer.status_code} {answer.text}"
        return dict(parse_qsl(urlsplit(answer.json()["redirect_uri"]).query))["code"]


class OidcProvider(Server):
    """node-oidc-provider, with the same clients."""

    def __init__(self, port: int, control: int, ca: Path) -> None:
        paths = {
            "token": "/token",
            "introspect": "/token/introspection",
            "revoke": "/token/revocation",
            "jwks": "/jwks",
            "metadata": "/.well-known/oauth-authorization-server",
        }
        super().__init__("oidc-provider", paths, f"https://localhost:{port}", ca)
        self._control = f"http://127.0.0.1:{control}/"
        self.by_basic, self.by_body, self.other = (
            Client(f"{name}-client-of-oidc-provider", f"secret-of-{name}-with-32-characters")
            for name in ("basic", "body", "other")
        )
        self.public = Client("public-client-of-oidc-provider")

    def clients(self) -> list[dict[str, Any]]:
        """As its configuration has them."""
        methods = {
            self.by_basic: "client_secret_basic",
            self.by_body: "client_secret_post",
            self.other: "client_secret_basic",
            self.public: "none",
        }
        grants = ["authorization_code", "refresh_token"]
        return [
            {
                **client.body,
                "token_endpoint_auth_method": method,
                "grant_types": [*grants, "client_credentials"] if client.client_secret else grants,
                "redirect_uris": [REDIRECT_URI],
                "response_types": ["code"],
                "scope": "openid offline_access email profile",
            }
            for client, method in methods.items()
        ]

    def code(self, client: Client, challenge: str | None = CHALLENGE) -> str:
        asked = {"client_id": client.client_id, "redirect_uri": REDIRECT_URI, "scope": SCOPE}
        answer = self._http.post(self._control, json=asked | {"challenge": challenge})
        assert answer.status_code == 200, f"{self.name}: {answer.text}"
        return answer.text


@contextlib.contextmanager
def oidc_provider(folder: Path, ca: Path, cert: Path, key: Path) -> Iterator[OidcProvider]:
    """It as a process, installed first if need be.

    Raises:
        Absent: Node or the package could not be had.
    """
    home = needs.npm("oidc_provider")
    node = needs.node().node
    port, control = free_ports(2)
    server = OidcProvider(port, control, ca)
    config = {"port": port, "control": control, "cert": str(cert), "key": str(key)}
    config["clients"] = server.clients()
    (folder / "oidc.json").write_text(json.dumps(config))
    words = [node, str(home / "server.mjs"), str(folder / "oidc.json")]
    process = Process(words, {"PATH": str(Path(node).parent)}, folder / "oidc.log")

    def answers() -> bool:
        process.check_running()
        return server.send("jwks", method="GET").status_code == 200

    try:
        eventually(answers, 30.0, "node-oidc-provider")
        yield server
    finally:
        server.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.stop()
