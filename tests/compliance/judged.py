"""The gateway that the OAuth judges talk to: both planes as processes, TLS under a CA made here.

Each instance is an issuer of its own at https://localhost:PORT/NAME, with a WebSocket route at
/NAME/ws. Clients get everything they need to know as one JSON document (`about`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from jose.utils import base64url_encode

from tests.harness import Gateway, RecordingUpstream, running_gateway
from tests.pki import make, new_key

REDIRECT_URI = "https://app.example/callback"
SCOPES = ["email", "profile"]
PROVISION_KEY = "the-back-end-knows-this"
STRICT_LEAVES_OUT = ("enable_implicit_grant", "enable_password_grant")


@dataclass(frozen=True)
class Instance:
    name: str
    profile: str  # kong, strict
    token_format: str  # opaque, jwt


INSTANCES = (
    Instance("kong", "kong", "opaque"),
    Instance("strict", "strict", "opaque"),
    Instance("kong-jwt", "kong", "jwt"),
    Instance("strict-jwt", "strict", "jwt"),
)


class Judged:
    """A configured gateway; `post` creates more entities."""

    def __init__(self, gateway: Gateway, ca: Path, upstream: RecordingUpstream) -> None:
        self.gateway, self.ca, self.upstream = gateway, ca, upstream
        self.base = f"https://localhost:{gateway.ports.tls}"
        self.plain = f"http://localhost:{gateway.ports.proxy}"
        self.post("/services", {"name": "echo", "url": upstream.url})
        self.post("/consumers", {"username": "app"})

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.gateway.admin.post(path, json=body)
        assert answer.status_code == 201, f"POST {path}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    def client(self, name: str, **fields: Any) -> dict[str, Any]:
        """A credential, with its secret as it was given or made."""
        body = {"name": name, "redirect_uris": [REDIRECT_URI], **fields}
        return self.post("/consumers/app/oauth2", body)

    def instance(self, one: Instance, service: str = "echo", **config: Any) -> dict[str, Any]:
        """Routes and plugins of an issuer; what a client of it must know."""
        issuer = f"{self.base}/{one.name}"
        grants = {
            "enable_authorization_code": True,
            "enable_client_credentials": True,
            "enable_implicit_grant": True,
            "enable_password_grant": True,
        }
        if one.profile == "strict":
            grants = {name: on for name, on in grants.items() if name not in STRICT_LEAVES_OUT}
        settings = {
            "oauth_profile": one.profile,
            "token_format": one.token_format,
            "issuer": issuer,
            "scopes": SCOPES,
            "provision_key": PROVISION_KEY,
            "global_credentials": True,
            **grants,
            **config,
        }
        socket = {
            "name": f"{one.name}-ws",
            "paths": [f"/{one.name}/ws"],
            "protocols": ["ws", "wss"],
        }
        tokens = {"name": one.name, "paths": [f"/{one.name}"], "protocols": ["https"]}
        self.post(f"/services/{service}/routes", socket)
        self.post("/routes", tokens)
        for route in (socket, tokens):
            self.post(f"/routes/{route['name']}/plugins", {"name": "oauth2", "config": settings})
        return {
            "name": one.name,
            "profile": one.profile,
            "token_format": one.token_format,
            "issuer": issuer,
            "websocket": f"wss://localhost:{self.gateway.ports.tls}/{one.name}/ws",
        }

    def about(self, instances: list[dict[str, Any]]) -> dict[str, Any]:
        """What a script of real clients is handed."""
        private, public = signing_jwk()
        confidential = self.client("confidential")
        hashed = {"client_secret": "a secret with spaces, & signs", "hash_secret": True}
        return {
            "ca": str(self.ca),
            "scopes": SCOPES,
            "redirect_uri": REDIRECT_URI,
            "provision_key": PROVISION_KEY,
            "instances": instances,
            "confidential": {n: confidential[n] for n in ("client_id", "client_secret")},
            "hashed": {
                "client_id": self.client("hashed", **hashed)["client_id"],
                "client_secret": hashed["client_secret"],
            },
            "public": {"client_id": self.client("public", client_type="public")["client_id"]},
            "keyed": {
                "client_id": self.client("keyed", client_secret=json.dumps(public))["client_id"],
                "jwk": private,
            },
        }


def signing_jwk() -> tuple[dict[str, str], dict[str, str]]:
    """A client's ES256 key pair, private and public, as JWKs."""
    key = new_key()
    assert isinstance(key, EllipticCurvePrivateKey)
    numbers = key.private_numbers()
    point = numbers.public_numbers
    public = {"kty": "EC", "crv": "P-256", "kid": "client-key", "alg": "ES256", "use": "sig"}
    public |= {"x": _b64(point.x), "y": _b64(point.y)}
    return public | {"d": _b64(numbers.private_value)}, public


def _b64(number: int) -> str:
    text: str = base64url_encode(number.to_bytes(32, "big")).decode()
    return text


@contextlib.contextmanager
def judged_gateway(folder: Path, **settings: str) -> Iterator[Judged]:
    """A running gateway with an echo behind it; ended, and quiet, when the block ends."""
    authority = make(authority=True)
    cert, key = make("localhost", "127.0.0.1", signed_by=authority).files(folder)
    ca = folder / "ca.pem"
    ca.write_text(authority.cert)
    own = {"TLS_CERT": str(cert), "TLS_KEY": str(key), **settings}
    with RecordingUpstream() as upstream, quiet_gateway(folder, own) as gateway:
        gateway.start()
        yield Judged(gateway, ca, upstream)


@contextlib.contextmanager
def quiet_gateway(folder: Path, settings: dict[str, str]) -> Iterator[Gateway]:
    """What the gateway logged is shown after an error alone."""
    with Path("/dev/null").open("w") as nowhere, contextlib.ExitStack() as stack:
        try:
            with running_gateway(folder, **settings) as gateway:
                yield gateway
                stack.enter_context(contextlib.redirect_stdout(nowhere))
        finally:
            stack.close()
