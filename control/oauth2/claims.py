"""What an access token says, before it has a form."""

from __future__ import annotations

from dataclasses import dataclass


# Not frozen: one is made for each request, and a frozen one costs three times as much to make.
@dataclass(slots=True, kw_only=True)
class Claims:
    """What one access token says.  `id`: of its row; of a JWT the `jti`."""

    id: str
    client_id: str
    credential_id: str
    service_id: str | None
    scope: str | None
    user_id: str | None
    audience: tuple[str, ...]
    issued_at: float  # seconds since 1970; of a JWT whole ones
    expires_in: int  # seconds; 0 = never
