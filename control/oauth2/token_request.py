"""A request to the token endpoint whose client has been authenticated: what the grants work on."""

from __future__ import annotations

from dataclasses import dataclass, field

from control.oauth2.config import OAuth2Config
from control.oauth2.context import TokenContext
from control.oauth2.errors import InvalidClient
from control.oauth2.params import Params
from control.store.tables import OAuth2Credential


# Not frozen: one is made for each request, and a frozen one costs three times as much to make.
@dataclass(slots=True)
class TokenRequest:
    """Where it was met, what it says, and who sent it."""

    config: OAuth2Config
    context: TokenContext
    params: Params = field(repr=False)
    check_key: bytes = field(repr=False)
    found: OAuth2Credential | None = field(repr=False)

    @property
    def client(self) -> OAuth2Credential:
        """Who sent it.  Raises InvalidClient: nobody has that id."""
        if self.found is None:
            raise InvalidClient
        return self.found
