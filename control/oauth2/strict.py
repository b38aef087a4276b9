"""What `oauth_profile: strict` refuses before anything is looked up: S27, S28.

RFC 6749 §2.3, §3.2. Kong lets all of this pass, and `oauth_profile: kong` with it.
"""

from __future__ import annotations

from control.oauth2.client_auth import basic_client_id
from control.oauth2.errors import InvalidRequest, OAuthError
from control.oauth2.params import Sent, is_set

# What must not stand in a URL, where it gets into logs and histories. RFC 9700 §4.3.
BODY_ONLY = frozenset(
    (
        "access_token",
        "authenticated_userid",
        "client_assertion",
        "client_assertion_type",
        "client_id",
        "client_secret",
        "code",
        "code_verifier",
        "grant_type",
        "password",
        "provision_key",
        "redirect_uri",
        "refresh_token",
        "resource",
        "scope",
        "state",
        "token",
        "token_type_hint",
        "username",
    )
)
NEEDED = {"authorization_code": "code", "refresh_token": "refresh_token"}  # by grant_type
MAY_REPEAT = frozenset(("resource",))  # RFC 8707 §2


def request_error(sent: Sent, header: str | None) -> OAuthError | None:
    """What is wrong with how a request to a client's endpoint was put, `header` its credentials."""
    if BODY_ONLY & sent.in_query:
        return InvalidRequest("Parameters must be in the request body")
    return repetition_error(sent) or _two_authentications(sent, header)


def missing_error(sent: Sent) -> OAuthError | None:
    """A token request that does not say what it wants, or for what.  RFC 6749 §4.1.3, §6."""
    grant_type = sent.get("grant_type")
    if not is_set(grant_type) or grant_type == "":
        return InvalidRequest("grant_type is missing")
    name = NEEDED.get(grant_type) if isinstance(grant_type, str) else None
    missing = name is not None and not (is_set(sent.get(name)) and sent.get(name) != "")
    return InvalidRequest(f"{name} is missing") if missing else None


def repetition_error(sent: Sent) -> OAuthError | None:
    repeated = sent.repeated - MAY_REPEAT
    return InvalidRequest("A parameter is repeated") if repeated else None


def _two_authentications(sent: Sent, header: str | None) -> OAuthError | None:
    """More than one way of authentication; a `client_id` that says the same is none."""
    basic = None if header is None else basic_client_id(header)
    ways = [basic is not None, is_set(sent.get("client_secret"))]
    ways.append(is_set(sent.get("client_assertion")))
    other = is_set(sent.get("client_id")) and basic not in (None, sent.get("client_id"))
    if sum(ways) > 1 or other:
        return InvalidRequest("Use one method of client authentication")
    return None
