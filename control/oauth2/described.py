"""What openapi.json says of the OAuth endpoints that FastAPI cannot find out.

They read their bodies by themselves, leniently: as a form, as JSON, as multipart. The document has
the first two, each as a model of its own, so that generated clients send the one that is meant.
"""

from __future__ import annotations

from typing import Any

from control.oauth2.assertions import TYPE as ASSERTION_TYPE
from control.oauth2.responses import Message, OAuthErrorBody
from control.oauth2.token_endpoint import GRANT_TYPES

Json = dict[str, Any]

_TEXT = {"type": "string"}
_SECRET = {"type": "string", "format": "password"}
_SCOPE = {"type": "string", "description": "words separated by spaces"}
_STATE = {"description": "comes back as it was sent"}
_REDIRECT_URI = {
    "type": "string",
    "description": "one of the client's; with oauth_profile strict that of the authorize request",
}
_USER = {
    "type": "string",
    "description": "needs provision_key: only the authorization backend names users",
}
_RESOURCE = {
    "type": "array",
    "items": _TEXT,
    "description": "what the token is to be for, RFC 8707; in a form the name is repeated",
}
_CLIENT = {
    "client_id": _TEXT,
    "client_secret": _SECRET,
    "client_assertion_type": {"type": "string", "enum": [ASSERTION_TYPE]},
    "client_assertion": _SECRET | {"description": "a JWT in place of a secret, RFC 7523"},
}
_BODIES: Json = {
    "Token": {
        "type": "object",
        "required": ["grant_type"],
        "properties": {
            "grant_type": {"type": "string", "enum": list(GRANT_TYPES)},
            **_CLIENT,
            "scope": _SCOPE,
            "resource": _RESOURCE,
            "code": _SECRET | {"description": "of authorization_code"},
            "code_verifier": _SECRET | {"description": "of authorization_code (RFC 7636)"},
            "redirect_uri": _REDIRECT_URI,
            "refresh_token": _SECRET | {"description": "of refresh_token"},
            "authenticated_userid": _USER,
            "provision_key": _SECRET,
            "state": _STATE,
        },
    },
    "Authorize": {
        "type": "object",
        "required": ["provision_key", "authenticated_userid", "response_type", "client_id"],
        "properties": {
            "provision_key": _SECRET,
            "authenticated_userid": _TEXT,
            "response_type": {"type": "string", "enum": ["code", "token"]},
            "client_id": _TEXT,
            "redirect_uri": {"type": "string", "description": "one of the client's"},
            "scope": _SCOPE,
            "resource": _RESOURCE,
            "code_challenge": _TEXT | {"description": "RFC 7636"},
            "code_challenge_method": {"type": "string", "enum": ["S256"]},
            "state": _STATE,
        },
    },
}
_TOKEN = {
    "type": "object",
    "required": ["token"],
    "properties": {"token": _SECRET, "token_type_hint": _TEXT, **_CLIENT},
}
_BODIES |= {"Revoke": _TOKEN, "Introspect": _TOKEN}
_BODIES |= {
    name: {"type": "object", "required": [parameter], "properties": {parameter: _TEXT | about}}
    for name, parameter, about in (
        ("Sessions", "token", {"description": "whose sessions are meant"}),
        ("Ticket", "uri", {"description": "of the WebSocket: wss://host/path"}),
    )
}
_KINDS = ("Form", "Json")
MODELS: Json = {f"{name}{kind}": body for name, body in _BODIES.items() for kind in _KINDS}
_GATEWAY = {"default": "localhost:8443", "description": "a data plane's TLS port"}
_ROUTE = {"default": "token-route", "description": "path of a route with the plugin oauth2"}
SERVERS: list[Json] = [
    {"url": "https://{gateway}/{route}", "variables": {"gateway": _GATEWAY, "route": _ROUTE}}
]
ROOT_SERVERS: list[Json] = [{"url": "https://{gateway}", "variables": {"gateway": _GATEWAY}}]
UNKNOWN_CLIENT: dict[str, Any] = {
    "model": OAuthErrorBody,
    "description": "Wrong secret in the Basic header; "
    "with oauth_profile strict any client that cannot be told",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": OAuthErrorBody, "description": "Refused"},
    404: {"model": Message, "description": "No such route"},
    405: {"model": OAuthErrorBody, "description": "Not a POST"},
    413: {"model": Message, "description": "Over 64 KiB"},
    429: {"model": OAuthErrorBody, "description": "Too many wrong secrets: Retry-After"},
    500: {"model": Message, "description": "Our fault, or a route without a service"},
    503: {"model": OAuthErrorBody, "description": "Try again after Retry-After"},
}


def by_client(name: str, *, basic: bool = True) -> Json:
    """The rest of an operation whose body names the client, or which a Basic header may."""
    return _documented(name, [{}, {"client": []}] if basic else [{}])


def by_bearer(name: str) -> Json:
    """The rest of an operation that a client calls with its access token."""
    return _documented(name, [{"token": []}])


def _documented(name: str, security: list[dict[str, list[str]]]) -> Json:
    content = {
        kind: {"schema": {"$ref": f"#/components/schemas/{name}{suffix}"}}
        for kind, suffix in (
            ("application/x-www-form-urlencoded", "Form"),
            ("application/json", "Json"),
        )
    }
    body = {"required": True, "content": content}
    return {"requestBody": body, "security": security, "servers": SERVERS}


_ACCESS, _REFRESH = "Vt4nXy0aKq7ZbR1mWc8eHs2LgJp5uDfT", "pL9cQ2sYw6EkTn8iXv3oGd5Bz7RhMj1a"
_CLIENT_ID, _SECRET_TEXT = "xJ3vDq8sNfa0QmTz", "9hWmK2xVb7RcYpLe"
_ASKED: Json = {  # by a client, as form and as JSON
    "Token": {
        "grant_type": "client_credentials",
        "client_id": _CLIENT_ID,
        "client_secret": _SECRET_TEXT,
        "scope": "email",
    },
    "Authorize": {
        "provision_key": "mB6zQe1rTn9yUk3w",
        "authenticated_userid": "alex",
        "response_type": "code",
        "client_id": _CLIENT_ID,
        "scope": "email",
        "state": "7f3a",
    },
    "Revoke": {"token": _ACCESS, "client_id": _CLIENT_ID, "client_secret": _SECRET_TEXT},
    "Introspect": {"token": _ACCESS, "client_id": _CLIENT_ID, "client_secret": _SECRET_TEXT},
    "Sessions": {"token": _ACCESS},
    "Ticket": {"uri": "wss://localhost:8443/anything"},
}
_ISSUER = "https://localhost:8443/token-route"
EXAMPLES: Json = {
    **{f"{name}{kind}": body for name, body in _ASKED.items() for kind in _KINDS},
    "TokenAnswer": {"access_token": _ACCESS, "token_type": "bearer", "expires_in": 7200},
    "AuthorizeAnswer": {
        "redirect_uri": f"http://localhost:8000/anything?code={_REFRESH}&state=7f3a"
    },
    "Revoked": {},
    "Introspection": {
        "active": True,
        "scope": "email",
        "client_id": _CLIENT_ID,
        "token_type": "bearer",
        "exp": 1767232800,
        "iat": 1767225600,
        "sub": _CLIENT_ID,
    },
    "SessionsAnswer": {"sessions": 1},
    "TicketAnswer": {"ticket": _REFRESH, "expires_in": 30},
    "KeySet": {
        "keys": [
            {
                "kty": "EC",
                "crv": "P-256",
                "kid": "h6Wf0v3yQm2N",
                "use": "sig",
                "alg": "ES256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            }
        ]
    },
    "ServerMetadata": {
        "issuer": _ISSUER,
        "token_endpoint": f"{_ISSUER}/oauth2/token",
        "jwks_uri": f"{_ISSUER}/oauth2/jwks",
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
    },
    "ResourceMetadata": {
        "resource": _ISSUER,
        "authorization_servers": [_ISSUER],
        "bearer_methods_supported": ["header"],
    },
    "OAuthErrorBody": {
        "error": "invalid_request",
        "error_description": "Invalid client authentication",
    },
    "Message": {"message": "no Route matched with those values"},
}
