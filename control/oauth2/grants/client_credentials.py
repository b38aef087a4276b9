"""RFC 6749 §4.4, client credentials: a token for the client itself.  spec/oauth2.md §5.3."""

from __future__ import annotations

from control.oauth2 import scopes
from control.oauth2.errors import (
    InvalidAuthenticatedUserid,
    InvalidProvisionKey,
    UnauthorizedClient,
)
from control.oauth2.issuing import Grant, Issuing, Made
from control.oauth2.params import is_set, is_text
from control.oauth2.token_request import TokenRequest


def make(request: TokenRequest, issuing: Issuing) -> Made:
    """A token without a refresh token, not stored yet.

    Raises:
        InvalidProvisionKey: a user was named by someone who is not the authorization backend.
        InvalidClient: there is no such client.
        InvalidScope: §5.6.
        InvalidTarget: RFC 8707.
        InvalidAuthenticatedUserid: not a string (Kong answers 500 there).
        UnauthorizedClient: strict, and the client is public (S34).
    """
    config, params = request.config, request.params
    user_id = params.get("authenticated_userid")
    user_id = user_id if is_set(user_id) else None
    if user_id is not None and not config.knows_provision_key(params.get("provision_key")):
        raise InvalidProvisionKey
    client = request.client
    if config.strict and client.client_type == "public":
        raise UnauthorizedClient("Public clients cannot use client_credentials")
    scope = scopes.granted(params.get("scope"), config.scopes, mandatory=config.mandatory_scope)
    if user_id is not None and not is_text(user_id):
        raise InvalidAuthenticatedUserid("authenticated_userid must be a string")
    if user_id is not None and scopes.too_long(user_id):
        raise InvalidAuthenticatedUserid("authenticated_userid is too long")
    audience = issuing.audience(request)
    granted = Grant(client=client, scope=scope, user_id=user_id, audience=audience)
    return issuing.make(request, granted)
