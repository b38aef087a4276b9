"""What an instance says of itself: RFC 8414 as an authorization server, RFC 9728 as a resource.

The issuer's URL is the base of its endpoints: `<issuer>/oauth2/token`. They are reached by a route
whose path is the issuer's, on the issuer's host. Only what works is listed.
"""

from __future__ import annotations

from typing import Any

from control.oauth2.config import OAuth2Config
from dataplane import jws

_BEARER = ("header", "query")  # of the carriers, what RFC 6750 has a name for


def of_server(config: OAuth2Config, *, all_endpoints: bool) -> dict[str, Any]:
    """The metadata of an authorization server that has an issuer.

    `all_endpoints`: the others than token and authorize answer there too.
    """
    assert config.issuer is not None
    base = f"{config.issuer.rstrip('/')}/oauth2"
    methods = _auth_methods(config)
    found: dict[str, Any] = {
        "issuer": config.issuer,
        "token_endpoint": f"{base}/token",
        "token_endpoint_auth_methods_supported": [*methods, *_public(config)],
        "token_endpoint_auth_signing_alg_values_supported": list(jws.ALGORITHMS),
        "grant_types_supported": _grant_types(config),
        "response_types_supported": _response_types(config),
    }
    if found["response_types_supported"]:
        found["authorization_endpoint"] = f"{base}/authorize"
        found["response_modes_supported"] = _response_modes(config)
    if config.enable_authorization_code:
        found["code_challenge_methods_supported"] = ["S256"]
    if config.scopes:
        found["scopes_supported"] = list(config.scopes)
    if all_endpoints:
        found["jwks_uri"] = f"{base}/jwks"
        for name, path, public in (
            ("revocation", "revoke", ["none"]),
            ("introspection", "introspect", []),
        ):
            found[f"{name}_endpoint"] = f"{base}/{path}"
            found[f"{name}_endpoint_auth_methods_supported"] = [*methods, *public]
            found[f"{name}_endpoint_auth_signing_alg_values_supported"] = list(jws.ALGORITHMS)
    return found


def of_resource(config: OAuth2Config) -> dict[str, Any]:
    """The metadata of a protected resource.

    Without `jwks_uri`: that would be keys of the resource (§2), and it signs nothing.
    """
    found: dict[str, Any] = {
        "resource": config.audience or config.issuer,
        "authorization_servers": [config.issuer],
        "bearer_methods_supported": _bearer_methods(config),
    }
    if config.scopes:
        found["scopes_supported"] = list(config.scopes)
    return found


def _standard_header(config: OAuth2Config) -> bool:
    return config.auth_header_name.lower() == "authorization"


def _auth_methods(config: OAuth2Config) -> list[str]:
    basic = ["client_secret_basic"] if _standard_header(config) else []
    return [*basic, "client_secret_post", "private_key_jwt"]


def _public(config: OAuth2Config) -> list[str]:
    """`none` where a public client can get a token."""
    own = config.enable_client_credentials and not config.strict
    users = config.enable_authorization_code or config.enable_password_grant
    return ["none"] if own or users else []


def _grant_types(config: OAuth2Config) -> list[str]:
    users = config.enable_authorization_code or config.enable_password_grant
    flags = {
        "authorization_code": config.enable_authorization_code,
        "implicit": config.enable_implicit_grant,
        "client_credentials": config.enable_client_credentials,
        "password": config.enable_password_grant,
        "refresh_token": users and config.token_expiration > 0,
    }
    return [name for name, on in flags.items() if on]


def _response_types(config: OAuth2Config) -> list[str]:
    flags = {"code": config.enable_authorization_code, "token": config.enable_implicit_grant}
    return [name for name, on in flags.items() if on]


def _response_modes(config: OAuth2Config) -> list[str]:
    flags = {"query": config.enable_authorization_code, "fragment": config.enable_implicit_grant}
    return [name for name, on in flags.items() if on]


def _bearer_methods(config: OAuth2Config) -> list[str]:
    return [
        name
        for name in _BEARER
        if name in config.carriers and (name != "header" or _standard_header(config))
    ]
