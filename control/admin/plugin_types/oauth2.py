"""The plugin `oauth2`: tokens for WebSockets and HTTP.  spec/oauth2.md §2.

A config field stands here only when it works.
"""

import re
from collections.abc import Mapping
from typing import Any

from control.admin.errors import Fields
from control.admin.plugin_types.base import PluginType
from control.admin.schema import Field

_GRANTS = (
    "enable_authorization_code",
    "enable_implicit_grant",
    "enable_client_credentials",
    "enable_password_grant",
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")


def _flag(description: str) -> Field:
    return Field(type="boolean", required=True, default=False, description=description)


def _check_header_name(name: str) -> str | None:
    return None if _HEADER_NAME.fullmatch(name) else f"bad header name '{name}'"


CONFIG = {
    "scopes": Field(
        type="array",
        elements=Field(type="string"),
        description="The scopes a client may ask for; none is known when null.",
    ),
    "mandatory_scope": _flag("A client has to ask for at least one scope."),
    "provision_key": Field(
        type="string",
        required=True,
        auto=True,
        encrypted=True,
        description="What the back end that authenticates users proves itself with.",
    ),
    "token_expiration": Field(
        type="number",
        required=True,
        default=7200,
        description="Seconds an access token is good for; 0: for ever, without refresh token.",
    ),
    "enable_authorization_code": _flag("The authorization code grant (RFC 6749 §4.1)."),
    "enable_implicit_grant": _flag("The implicit grant (RFC 6749 §4.2)."),
    "enable_client_credentials": _flag("The client credentials grant (RFC 6749 §4.4)."),
    "enable_password_grant": _flag("The password grant (RFC 6749 §4.3)."),
    "hide_credentials": _flag("The token is taken out before the request goes upstream."),
    "accept_http_if_already_terminated": _flag(
        "Plain HTTP is accepted from a trusted peer that says it ended TLS."
    ),
    "anonymous": Field(
        type="string",
        description="A consumer's id or username that stands in where authentication fails.",
    ),
    "global_credentials": _flag("Tokens are good at every plugin that has this set."),
    "auth_header_name": Field(
        type="string",
        required=True,
        default="authorization",
        check=_check_header_name,
        description="The header that carries the token, and Basic client authentication.",
    ),
    "refresh_token_ttl": Field(
        type="number",
        required=True,
        default=1209600,
        between=(0, 100000000),
        description="Seconds until a refresh token is deleted; 0: never.",
    ),
    "reuse_refresh_token": _flag("A refresh keeps the refresh token."),
    "pkce": Field(
        type="string",
        default="lax",
        one_of=("none", "lax", "strict"),
        description="Who has to use PKCE (RFC 7636): nobody, public clients, everybody.",
    ),
    "realm": Field(type="string", description="Named in WWW-Authenticate."),
    "persistent_refresh_token": Field(
        type="boolean", default=False, description="Accepted for Kong's sake; without effect."
    ),
}


def _check(config: Mapping[str, Any]) -> Fields | str | None:
    if not any(config[name] for name in _GRANTS):
        return f"at least one of these fields must be true: {', '.join(_GRANTS)}"
    if config["mandatory_scope"] and config["scopes"] is None:
        return {"scopes": "required field missing"}
    if config["token_expiration"] < 0:
        return {"token_expiration": "value must not be negative"}
    return None


def _compile(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a data plane needs to authenticate; the rest is the token endpoint's."""
    return {
        "global_credentials": config["global_credentials"],
        "hide_credentials": config["hide_credentials"],
        "auth_header_name": config["auth_header_name"].lower(),
        "realm": config["realm"],
        "anonymous": config["anonymous"],
    }


PLUGIN = PluginType(
    name="oauth2",
    title="OAuth2Plugin",
    version="3.9.1",
    priority=1400,
    protocols=("grpc", "grpcs", "http", "https", "ws", "wss"),
    config=CONFIG,
    check=_check,
    compile=_compile,
    consumer_scope=False,
)
