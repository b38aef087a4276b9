"""The plugin `oauth2`: tokens for WebSockets and HTTP.  spec/oauth2.md §2, §14."""

import re
from collections.abc import Mapping
from typing import Any

from control.admin.errors import Fields
from control.admin.plugin_types.base import PluginType
from control.admin.schema import Field
from control.store import signing_keys
from control.store.session import WriteSession

_GRANTS = (
    "enable_authorization_code",
    "enable_implicit_grant",
    "enable_client_credentials",
    "enable_password_grant",
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_ISSUER = re.compile(r"https://[A-Za-z0-9._-]+(?::[1-9][0-9]{0,4})?(?:/[!$-.0-;=@-Z_a-z~]*)*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!$-;=?-Z_a-z~]+")
_TEXT_CHARS_MAX = 1024  # of an issuer or audience

CARRIERS = ("header", "query", "subprotocol", "ticket", "cookie")
SESSION_AGE_SECONDS_MAX = 30 * 86400
REFRESH_GRACE_SECONDS_MAX = 60
EXPIRATION_SECONDS_MAX = 10_000_000_000  # far below what a JWT's `exp` and a row can hold


def _flag(description: str) -> Field:
    return Field(type="boolean", required=True, default=False, description=description)


def _check_header_name(name: str) -> str | None:
    return None if _HEADER_NAME.fullmatch(name) else f"bad header name '{name}'"


def _check_issuer(issuer: str) -> str | None:
    if len(issuer) <= _TEXT_CHARS_MAX and _ISSUER.fullmatch(issuer):
        return None
    return "must be a URL of https without query and fragment, as https://auth.example.com"


def _check_audience(audience: str) -> str | None:
    if len(audience) <= _TEXT_CHARS_MAX and _URI.fullmatch(audience):
        return None
    return "must be an absolute URI without fragment, as https://api.example.com"


def _choice(default: str, one_of: tuple[str, ...], description: str) -> Field:
    return Field(
        type="string", required=True, default=default, one_of=one_of, description=description
    )


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
    "oauth_profile": _choice(
        "kong", ("kong", "strict"), "`kong`: Kong's answers to the letter; `strict`: RFC 9700."
    ),
    "token_format": _choice(
        "opaque",
        ("opaque", "jwt"),
        "`jwt`: access tokens are JWTs (RFC 9068), which data planes verify by themselves.",
    ),
    "signing_alg": _choice("ES256", ("ES256", "RS256", "EdDSA"), "What JWTs are signed with."),
    "issuer": Field(
        type="string",
        check=_check_issuer,
        description="The name of this authorization server: `iss` of its JWTs. Needed for "
        "`token_format: jwt`, metadata and client assertions.",
    ),
    "audience": Field(
        type="string",
        check=_check_audience,
        description="What is protected here: `aud` of its JWTs. Null: the issuer.",
    ),
    "session_expiry": _choice(
        "close",
        ("close", "ignore"),
        "`close`: a WebSocket ends when its token expires or is revoked; `ignore`: as Kong, never.",
    ),
    "session_follow": _choice(
        "token",
        ("token", "credential", "none"),
        "Whose renewal moves the deadline of a WebSocket: the refresh of its token, also a newer "
        "token of the same client and user, or nothing.",
    ),
    "session_max_age": Field(
        type="integer",
        required=True,
        default=0,
        between=(0, SESSION_AGE_SECONDS_MAX),
        description="Seconds a WebSocket may live, renewed or not; 0: any.",
    ),
    "token_carriers": Field(
        type="set",
        required=True,
        default=["header", "query"],
        elements=Field(type="string", one_of=CARRIERS),
        len_min=1,
        description="Where a token may be. What is not header or query never goes upstream; "
        "`cookie` needs `cookie_name`, and the plugin `websocket-session` with `allowed_origins` "
        "on the same routes: without it no cookie is taken.",
    ),
    "subprotocol_prefix": Field(
        type="string",
        check=_check_header_name,
        description="A subprotocol that begins so carries the token behind it.",
    ),
    "cookie_name": Field(
        type="string",
        check=_check_header_name,
        description="The cookie that carries the token; only from the `allowed_origins` of "
        "`websocket-session`.",
    ),
    "endpoints": _choice(
        "kong",
        ("kong", "all"),
        "`all`: revoke, introspect, jwks, ticket, sessions beside token and authorize. A route "
        "without a service always answers all.",
    ),
    "refresh_grace": Field(
        type="integer",
        required=True,
        default=0,
        between=(0, REFRESH_GRACE_SECONDS_MAX),
        description="Strict: seconds for which a rotated refresh token gives the same answer.",
    ),
}


def _check(config: Mapping[str, Any]) -> Fields | str | None:
    if not any(config[name] for name in _GRANTS):
        return f"at least one of these fields must be true: {', '.join(_GRANTS)}"
    if config["mandatory_scope"] and config["scopes"] is None:
        return {"scopes": "required field missing"}
    if config["token_expiration"] < 0:
        return {"token_expiration": "value must not be negative"}
    if config["token_expiration"] > EXPIRATION_SECONDS_MAX:
        return {"token_expiration": f"value must not be above {EXPIRATION_SECONDS_MAX}"}
    return _strict_errors(config) | _carrier_errors(config) | _jwt_errors(config) or None


def _strict_errors(config: Mapping[str, Any]) -> Fields:
    """RFC 9700 §2.1.2, §2.4: these grants must not be used (S33)."""
    if config["oauth_profile"] != "strict":
        return {}
    banned = ("enable_implicit_grant", "enable_password_grant")
    return {name: "not allowed with oauth_profile 'strict'" for name in banned if config[name]}


def _carrier_errors(config: Mapping[str, Any]) -> Fields:
    errors: Fields = {}
    carriers = config["token_carriers"]
    if "cookie" in carriers and not config["cookie_name"]:
        errors["cookie_name"] = "required with the token carrier 'cookie'"
    if config["subprotocol_prefix"] and "subprotocol" not in carriers:
        errors["subprotocol_prefix"] = "needs the token carrier 'subprotocol'"
    return errors


def _jwt_errors(config: Mapping[str, Any]) -> Fields:
    if config["token_format"] != "jwt":
        return {}
    errors: Fields = {}
    if not config["issuer"]:
        errors["issuer"] = "required with token_format 'jwt'"
    if config["token_expiration"] == 0:
        errors["token_expiration"] = "must be above 0 with token_format 'jwt'"
    return errors


def _resource_metadata(config: Mapping[str, Any]) -> str | None:
    """Where this resource describes itself: RFC 9728 §3.1; None when it has no issuer."""
    resource = config["audience"] or config["issuer"]
    if not config["issuer"] or not resource.startswith("https://"):
        return None
    host, slash, path = resource.removeprefix("https://").partition("/")
    path = (slash + path).rstrip("/")
    return f"https://{host}/.well-known/oauth-protected-resource{path}"


def _compile(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a data plane needs to authenticate; the rest is the issuer's."""
    return {
        "jwt": config["token_format"] == "jwt",
        "issuer": config["issuer"],
        "audience": config["audience"],
        "resource_metadata": _resource_metadata(config),
        "session_expiry": config["session_expiry"],
        "session_follow": config["session_follow"],
        "session_max_age_ms": config["session_max_age"] * 1000,
        "carriers": config["token_carriers"],
        "subprotocol_prefix": config["subprotocol_prefix"],
        "cookie_name": config["cookie_name"],
        "endpoints": config["endpoints"],
        "global_credentials": config["global_credentials"],
        "hide_credentials": config["hide_credentials"],
        "auth_header_name": config["auth_header_name"].lower(),
        "realm": config["realm"],
        "anonymous": config["anonymous"],
    }


def _written(session: WriteSession, config: Mapping[str, Any]) -> None:
    """The snapshot that carries an instance which signs carries the key too."""
    if config["token_format"] == "jwt":
        signing_keys.ensure(session, config["signing_alg"])
        signing_keys.keep_for(session, config["token_expiration"])


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
    written=_written,
)
