"""The authorization backend: it proves itself with the provision key and names the user."""

from __future__ import annotations

from control.oauth2.config import OAuth2Config
from control.oauth2.errors import InvalidAuthenticatedUserid, InvalidProvisionKey
from control.oauth2.params import Params, is_text
from control.oauth2.scopes import too_long


def authenticated_user(config: OAuth2Config, params: Params) -> str:
    """The user whom the backend authenticated.  spec/oauth2.md §5.1, §5.4.

    Raises:
        InvalidProvisionKey: somebody else sent this.
        InvalidAuthenticatedUserid: no user, or one that no data plane could name.
    """
    if not config.knows_provision_key(params.get("provision_key")):
        raise InvalidProvisionKey
    user_id = params.get("authenticated_userid")
    if not is_text(user_id) or not user_id.strip():
        raise InvalidAuthenticatedUserid("Missing authenticated_userid parameter")
    if too_long(user_id):
        raise InvalidAuthenticatedUserid("authenticated_userid is too long")
    return user_id
