"""The revocation endpoint: a client ends its own tokens.  RFC 7009.

An access token takes its refresh token along (§2.1 leaves that open: they are one row here). A
refresh token, a rotated one too, ends all that came of its authorization (S39). A token that is
nobody's is revoked already, and that is 200; another client's token is refused, and stays.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from control.oauth2 import held_tokens
from control.oauth2.client_endpoint import ClientEndpoint
from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.errors import InvalidGrant
from control.store import grants, queries
from control.store.secrets import token_digest
from control.store.session import WriteSession
from control.store.tables import OAuth2Credential, OAuth2Token


class Revoked(BaseModel):
    """Nothing: the token is no good, whatever it was."""


class RevocationEndpoint(ClientEndpoint):
    def _respond(
        self, client: OAuth2Credential, config: OAuth2Config, context: TokenContext, token: str
    ) -> dict[str, Any]:
        self._revoke(client, token)
        return {}

    def _revoke(self, client: OAuth2Credential, token: str) -> None:
        """Committed, and on its way to the data planes."""
        with self._store.writing() as session:
            row = held_tokens.access_token(session, token, self._keys)
            if row is not None:
                _check_owner(row.credential_id, client)
                queries.delete_tokens(session, [row])
                return
            row = held_tokens.refresh_token(session, token)
            if row is not None:
                _check_owner(row.credential_id, client)
                _end(session, row)
                return
            spent = grants.spent_refresh(session, token_digest(token))
            if spent is not None:
                _check_owner(spent.credential_id, client)
                grants.end_family(session, spent.family_id)


def _check_owner(credential_id: str, client: OAuth2Credential) -> None:
    if credential_id != client.id:
        raise InvalidGrant("The token was issued to another client")


def _end(session: WriteSession, row: OAuth2Token) -> None:
    if row.family_id is None:
        queries.delete_tokens(session, [row])
    else:
        grants.end_family(session, row.family_id)
