"""RFC 6749 §4.4, client credentials: a token for the client itself.  spec/oauth2.md §5.3."""

from __future__ import annotations

from dataclasses import dataclass

from control.oauth2 import scopes
from control.oauth2.config import OAuth2Config
from control.oauth2.errors import (
    InvalidAuthenticatedUserid,
    InvalidClient,
    InvalidProvisionKey,
)
from control.oauth2.params import Params, is_set, is_text
from control.store.tables import OAuth2Credential


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is to say; `token_endpoint` makes and stores it."""

    credential_id: str
    scope: str | None
    user_id: str | None


def grant(config: OAuth2Config, params: Params, client: OAuth2Credential | None) -> Grant:
    """What this request is granted.  The client has been authenticated.

    Raises:
        InvalidProvisionKey: a user was named by someone who is not the authorization backend.
        InvalidClient: there is no such client.
        InvalidScope: §5.6.
        InvalidAuthenticatedUserid: not a string (Kong answers 500 there).
    """
    user_id = params.get("authenticated_userid")
    user_id = user_id if is_set(user_id) else None
    if user_id is not None and not config.knows_provision_key(params.get("provision_key")):
        raise InvalidProvisionKey
    if client is None:
        raise InvalidClient
    scope = scopes.granted(params.get("scope"), config.scopes, mandatory=config.mandatory_scope)
    if user_id is not None and not is_text(user_id):
        raise InvalidAuthenticatedUserid("authenticated_userid must be a string")
    return Grant(client.id, scope, user_id)
