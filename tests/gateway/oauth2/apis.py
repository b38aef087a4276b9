"""What tests of the contract talk to: clients, services behind OAuth 2.0, their endpoints."""

from __future__ import annotations

import base64
import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.gateway.oauth2.answers import Answer, issued, query_of, redirect
from tests.harness import eventually

if TYPE_CHECKING:
    from tests.gateway.oauth2.kit import Site

FORM_TYPE = "application/x-www-form-urlencoded"
PROVISION_KEY = "the-provision-key"
USER = "userid123"
OTHER_URI = "http://google.test/other"
SCOPES = ["email", "profile", "user.email"]

CONFIG: dict[str, Any] = {
    "scopes": SCOPES,
    "provision_key": PROVISION_KEY,
    "enable_authorization_code": True,
    "enable_implicit_grant": True,
    "enable_client_credentials": True,
    "enable_password_grant": True,
}
STRICT: dict[str, Any] = {
    "oauth_profile": "strict",
    "enable_implicit_grant": False,
    "enable_password_grant": False,
}
UPGRADE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]

_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    return f"{prefix}{next(_numbers)}x{random.getrandbits(32):08x}"


@dataclass(frozen=True)
class App:
    """A client: its row, its secret in clear, its consumer."""

    row: dict[str, Any]
    secret: str
    consumer: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.row["client_id"])

    @property
    def params(self) -> dict[str, str]:
        """Its credentials as parameters; a public client has no secret to send."""
        if self.row["client_type"] == "public":
            return {"client_id": self.id}
        return {"client_id": self.id, "client_secret": self.secret}

    def basic(self, secret: str | None = None) -> tuple[str, str]:
        """Its credentials as a header."""
        return basic(self.id, self.secret if secret is None else secret)


def basic(client_id: str, secret: str) -> tuple[str, str]:
    return ("Authorization", "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode())


def bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")


@dataclass(frozen=True)
class Api:
    """A service (or a bare route) with the plugin on it."""

    site: Site
    path: str
    config: dict[str, Any]
    service: dict[str, Any] | None
    route: dict[str, Any]
    plugin: dict[str, Any]

    # --- its endpoints -----------------------------------------------------------------------

    def token(self, form: Mapping[str, Any] | None = None, **more: Any) -> Answer:
        """POST to the token endpoint."""
        return self._post("token", form, more)

    def authorize(self, form: Mapping[str, Any] | None = None, **more: Any) -> Answer:
        """POST to the authorize endpoint."""
        return self._post("authorize", form, more)

    def endpoint(self, name: str, form: Mapping[str, Any] | None = None, **more: Any) -> Answer:
        """POST to another of its endpoints."""
        return self._post(name, form, more)

    def _post(self, name: str, form: Mapping[str, Any] | None, more: dict[str, Any]) -> Answer:
        query = more.pop("query", "")
        target = f"{self.path}/oauth2/{name}" + (f"?{query}" if query else "")
        return self.site.ask("POST", target, form=form, **more)

    # --- what most cases begin with -----------------------------------------------------------

    def client_credentials(self, app: App, **params: Any) -> Answer:
        return self.token({"grant_type": "client_credentials"} | app.params | params)

    def password(self, app: App, **params: Any) -> Answer:
        own = {"provision_key": PROVISION_KEY, "authenticated_userid": USER}
        return self.token({"grant_type": "password"} | app.params | own | params)

    def refresh(self, app: App, refresh_token: str, **params: Any) -> Answer:
        own = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return self.token(own | app.params | params)

    def redeem(self, app: App, code: str, **params: Any) -> Answer:
        own = {"grant_type": "authorization_code", "code": code}
        return self.token(own | app.params | params)

    def code(self, app: App, **params: Any) -> str:
        """A new authorization code."""
        return str(query_of(redirect(self.authorize(code_request(app) | params)))["code"])

    def pair(self, app: App, **params: Any) -> dict[str, Any]:
        """A new access token with a refresh token: by password, where that is enabled, or code."""
        if self.config.get("enable_password_grant"):
            return issued(self.password(app, **params))
        return issued(self.redeem(app, self.code(app, **params)))

    def access(self, app: App, **params: Any) -> str:
        """A new access token by client_credentials."""
        return str(issued(self.client_credentials(app, **params))["access_token"])

    # --- the service behind it ---------------------------------------------------------------

    def get(self, token: str | None = None, target: str = "/get", **more: Any) -> Answer:
        """A GET of the service, with a bearer token in the header."""
        headers = list(more.pop("headers", ()))
        if token is not None:
            headers.append(bearer(token))
        return self.site.ask("GET", self.path + target, headers=headers, tls=False, **more)

    def until(self, status: int, token: str, seconds: float = 10) -> Answer:
        """The answer once a request with this token has this status."""

        def answered() -> Answer:
            got = self.get(token)
            assert got.status == status, (got.status, got.body)
            return got

        return eventually(answered, seconds, f"{status} for a token")


@dataclass(frozen=True)
class Sockets:
    """A WebSocket service with the plugin on it, and `issuer`, where its tokens come from."""

    site: Site
    path: str
    issuer: Api
    service: dict[str, Any]
    route: dict[str, Any]
    plugin: dict[str, Any]

    def handshake(
        self, token: str | None = None, headers: Iterable[tuple[str, str]] = (), **more: Any
    ) -> Answer:
        target = self.path + more.pop("target", "")
        fields = [*headers, *([bearer(token)] if token is not None else [])]
        return self.site.handshake(target, fields, **more)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.site.gateway.ports.proxy}{self.path}"


def code_request(app: App, **params: Any) -> dict[str, Any]:
    """What a back end sends to have a code for USER."""
    return {
        "provision_key": PROVISION_KEY,
        "authenticated_userid": USER,
        "client_id": app.id,
        "response_type": "code",
        "scope": "email",
        **params,
    }


# --- PKCE ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pkce:
    verifier: str
    challenge: str


# RFC 7636, appendix B.
PKCE = Pkce(
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)
