"""What the answers of the contract look like, so that a test compares each one whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.gateway.oauth2.upstreams import Seen

JSON_TYPE = "application/json; charset=utf-8"
REDIRECT_URI = "http://google.test/kong"


@dataclass(frozen=True)
class Answer:
    """A whole response."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        """The one value of this header; None without the header."""
        values = self.all(name)
        assert len(values) < 2, (name, values)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def seen(self) -> Seen:
        """What the HTTP upstream saw of the request that this answers."""
        assert self.status == 200, (self.status, self.body)
        told = self.json
        fields = [(name, value) for name, value in told.pop("fields")]
        return Seen(fields=fields, **told)


# --- what answers have to be ---------------------------------------------------------------------


def issued(answer: Answer) -> dict[str, Any]:
    """The body of a token answer, its form checked.  §3.2, §5.2."""
    assert answer.status == 200, (answer.status, answer.body)
    not_cached(answer)
    body: dict[str, Any] = answer.json
    known = {"access_token", "token_type", "expires_in", "refresh_token", "state"}
    assert {"access_token", "token_type"} <= body.keys() <= known, body
    assert body["token_type"] == "bearer"
    assert_random(body["access_token"])
    return body


def assert_random(value: str) -> None:
    """32 characters of `[A-Za-z0-9]`."""
    assert len(value) == 32 and value.isascii() and value.isalnum(), value


def not_cached(answer: Answer) -> None:
    """What every answer of the token and authorize endpoints has, 405 apart.  §3.2."""
    assert answer["Content-Type"] == JSON_TYPE
    assert answer["Cache-Control"] == "no-store"
    assert answer["Pragma"] == "no-cache"


def refused(
    answer: Answer,
    error: str,
    text: str,
    *,
    status: int = 400,
    challenge: str | None = None,
    **more: Any,
) -> None:
    """An error of the token or authorize endpoint in its plain form, whole."""
    expected = {"error": error, "error_description": text, **more}
    assert (answer.status, answer.json) == (status, expected)
    not_cached(answer)
    assert answer["WWW-Authenticate"] == challenge


BASIC_CHALLENGE = 'Basic realm="OAuth2.0"'
INVALID_CLIENT = ("invalid_client", "Invalid client authentication")
INVALID_CODE = ("invalid_request", "Invalid code")
INVALID_REFRESH = ("invalid_request", "Invalid refresh_token")
INVALID_GRANT_TYPE = ("unsupported_grant_type", "Invalid grant_type")
INVALID_PROVISION_KEY = ("invalid_provision_key", "Invalid provision_key")
INVALID_RESPONSE_TYPE = ("unsupported_response_type", "Invalid response_type")
MISSING_USER = ("invalid_authenticated_userid", "Missing authenticated_userid parameter")
INVALID_REDIRECT = (
    "invalid_request",
    "Invalid redirect_uri that does not match with any redirect_uri created with the application",
)
HTTPS_ONLY = ("access_denied", "You must use HTTPS")

MISSING = ("invalid_request", "The access token is missing")
INVALID = ("invalid_token", "The access token is invalid or has expired")
GLOBAL = (
    "invalid_token",
    "The access token is global, but the current plugin is configured without 'global_credentials'",
)


def unauthorized(answer: Answer, kind: tuple[str, str], realm: str | None = None) -> None:
    """A 401 of the authenticating side, whole.  §6.2."""
    error, text = kind
    assert (answer.status, answer.json) == (401, {"error": error, "error_description": text})
    named = f'realm="{realm}"' if realm else None
    if kind == MISSING:
        challenge = f"Bearer {named}" if named else "Bearer"
    else:
        about = [f'error="{INVALID[0]}"', f'error_description="{INVALID[1]}"']
        challenge = "Bearer " + ", ".join([named, *about] if named else about)
    assert answer["WWW-Authenticate"] == challenge
    assert answer["Content-Type"] == JSON_TYPE
    assert answer["Cache-Control"] is None


# --- the authorize endpoint ----------------------------------------------------------------------


def redirect(answer: Answer, status: int = 200) -> str:
    """The one member of an authorize answer whose redirect target is known."""
    assert answer.status == status, (answer.status, answer.body)
    assert list(answer.json) == ["redirect_uri"], answer.json
    not_cached(answer)
    assert answer["Location"] is None
    return str(answer.json["redirect_uri"])


def query_of(uri: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))


def fragment_of(uri: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(uri).fragment, keep_blank_values=True))


def refused_by_redirect(
    answer: Answer, error: str, text: str, *, to: str = REDIRECT_URI, state: str | None = None
) -> None:
    """An error of the authorize endpoint in a redirect target, whole."""
    uri = redirect(answer, 400)
    assert uri.startswith(f"{to}?"), uri
    expected = {"error": error, "error_description": text}
    assert query_of(uri) == expected | ({"state": state} if state is not None else {})
    assert "#" not in uri
