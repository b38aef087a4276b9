"""RFC 6749 §4.2, implicit: a token straight from the authorize endpoint.  spec/oauth2.md §5.1."""

from __future__ import annotations

from control.oauth2.issuing import Grant, Issued, Issuing
from control.oauth2.token_request import TokenRequest


def grant(request: TokenRequest, issuing: Issuing, user_id: str, scope: str | None) -> Issued:
    """A token without a refresh token.  The backend has been authenticated, the client has not."""
    audience = issuing.audience(request)
    granted = Grant(client=request.client, scope=scope, user_id=user_id, audience=audience)
    made = issuing.make(request, granted)
    with issuing.store.writing() as session:
        issuing.insert(session, made)
    return made.issued
