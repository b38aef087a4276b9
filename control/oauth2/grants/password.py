"""RFC 6749 §4.3, password: the backend says whose password was right.  spec/oauth2.md §5.4.

`username` and `password` are not looked at here: the backend has done that.
"""

from __future__ import annotations

import uuid

from control.oauth2 import scopes
from control.oauth2.backend import authenticated_user
from control.oauth2.issuing import Grant, Issued, Issuing
from control.oauth2.token_request import TokenRequest


def grant(request: TokenRequest, issuing: Issuing) -> Issued:
    """A token and a refresh token for the user whom the backend names.

    Raises:
        InvalidProvisionKey, InvalidAuthenticatedUserid: not the backend, or no user.
        InvalidScope: §5.6.
        InvalidTarget: RFC 8707.
    """
    config, params = request.config, request.params
    user_id = authenticated_user(config, params)
    scope = scopes.granted(params.get("scope"), config.scopes, mandatory=config.mandatory_scope)
    granted = Grant(
        client=request.client,
        scope=scope,
        user_id=user_id,
        refreshable=True,
        family_id=str(uuid.uuid4()),
        audience=issuing.audience(request),
    )
    made = issuing.make(request, granted)
    with issuing.store.writing() as session:
        issuing.insert(session, made)
    return made.issued
