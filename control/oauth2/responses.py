"""The responses of the OAuth endpoints: bodies, status and headers.  spec/oauth2.md §3, S30."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue
from starlette.responses import Response

from control.oauth2.context import TokenContext
from control.oauth2.dispatch import KONG, METHODS, Endpoint
from control.oauth2.errors import OAuthError
from control.oauth2.issuing import Issued

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
_JSON_TYPE = "application/json; charset=utf-8"
_ISSUED_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in {**NO_STORE, **_NO_SNIFFING, "Content-Type": _JSON_TYPE}.items()
]
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_NAMES: dict[Endpoint, str] = {
    "authorize": "authorization",
    "revoke": "revocation",
    "introspect": "introspection",
    "jwks": "key set",
    "server_metadata": "metadata",
    "resource_metadata": "metadata",
}
_UNSAFE = re.compile(r"[^\x20-\x7e]")


class TokenAnswer(BaseModel):
    """RFC 6749 §5.1.  `expires_in` and `refresh_token` are absent where tokens never expire."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int | None = Field(default=None, description="seconds")
    refresh_token: str | None = Field(
        default=None, description="not of client_credentials and implicit"
    )
    scope: str | None = Field(
        default=None, description="with oauth_profile strict, where it is not what was asked for"
    )
    state: JsonValue = Field(default=None, description="as it was sent")


class AuthorizeAnswer(BaseModel):
    """Where the user is to be sent: with a code or token, or with an error."""

    redirect_uri: str


class OAuthErrorBody(BaseModel):
    """RFC 6749 §5.2."""

    error: str
    error_description: str | None = None
    state: JsonValue = Field(default=None, description="as it was sent")


class Message(BaseModel):
    """An answer of the gateway rather than of the endpoint."""

    message: str
    request_id: str | None = None


class _Plain(Response):
    """JSON whose headers are ready: what starlette does to headers costs half of an answer."""

    media_type = _JSON_TYPE

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code, self.background, self.body = status, None, body
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]


def issued(issued: Issued, state: object, *, scope: str | None = None) -> Response:
    """What a client gets.  `scope`: where it has to be told."""
    body: dict[str, Any] = {"access_token": issued.access_token, "token_type": "bearer"}
    if issued.expires_in:
        body["expires_in"] = issued.expires_in
    if issued.refresh_token is not None:
        body["refresh_token"] = issued.refresh_token
    if scope is not None:
        body["scope"] = scope
    if state is not None:
        body["state"] = state
    return _Plain(200, _to_json(body).encode(), _ISSUED_HEADERS)


def refused(error: OAuthError, state: object) -> Response:
    headers = dict(NO_STORE)
    if error.challenge:
        headers["WWW-Authenticate"] = error.challenge
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    body = {"error": error.code, "error_description": error.description, "state": state}
    return respond(error.status, body, headers)


def invalid_method(method: str, endpoint: Endpoint, realm: str | None) -> Response:
    """405, in the form of an authentication error; without cache headers where Kong has none."""
    name = _NAMES.get(endpoint, endpoint)
    text = f"The HTTP method {method} is invalid for the {name} endpoint"
    params = {"error": "invalid_method", "error_description": text}
    challenge = ", ".join(
        f"{key}={_quoted(value)}" for key, value in ({"realm": realm} | params).items() if value
    )
    allowed = "GET, HEAD" if METHODS[endpoint] == "GET" else METHODS[endpoint]
    headers = {"WWW-Authenticate": f"Bearer {challenge}", "Allow": allowed}
    return respond(405, params, headers if endpoint in KONG else headers | NO_STORE)


def error(status: int, code: str, description: str) -> Response:
    return respond(status, {"error": code, "error_description": description}, NO_STORE)


def unauthorized(code: str, description: str, realm: str | None, *, named: bool = True) -> Response:
    """401 as a resource answers it.  spec/oauth2.md §6.2; RFC 6750 §3.

    Unless `named` the challenge has no error: the client showed no token.
    """
    params = {"realm": realm}
    if named:
        params |= {"error": code, "error_description": description}
    words = ", ".join(f"{key}={_quoted(value)}" for key, value in params.items() if value)
    body = {"error": code, "error_description": description}
    return respond(401, body, NO_STORE | {"WWW-Authenticate": f"Bearer {words}".rstrip()})


def message(status: int, text: str, request_id: str | None = None) -> Response:
    return respond(status, {"message": text, "request_id": request_id}, NO_STORE)


def no_route(context: TokenContext | None) -> Response:
    """404 of the gateway: no route, or what the request was routed by is there no more."""
    request_id = context.request_id if context else None
    return message(404, "no Route matched with those values", request_id)


def unavailable() -> Response:
    """503: the store cannot be reached now."""
    body = {"error": "temporarily_unavailable"}
    return respond(503, body, NO_STORE | {"Retry-After": "1"})


def respond(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """JSON without the members that have no value."""
    text = _to_json({k: v for k, v in body.items() if v is not None})
    return Response(
        text,
        status,
        {**headers, **_NO_SNIFFING},
        media_type=_JSON_TYPE,
    )


def _quoted(value: str) -> str:
    """A quoted-string of RFC 9110 §5.6.4 that cannot end its header line (S57)."""
    safe = _UNSAFE.sub("?", value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{safe}"'
