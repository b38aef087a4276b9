"""The errors of the OAuth endpoints, one class per `error` code.  spec/oauth2.md §4-§5.

An error carries its description and status; `responses` makes the response of it.
"""

from __future__ import annotations

from typing import ClassVar


class OAuthError(Exception):
    """A refusal with an OAuth error code; 400 unless a challenge makes it 401."""

    code: ClassVar[str]
    status: int = 400
    challenge: str | None = None  # value of WWW-Authenticate
    retry_after: int | None = None  # seconds

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.description = description

    def told(self, *, strict: bool) -> OAuthError:
        """As a client hears of it: see InvalidClient."""
        return self


class AccessDenied(OAuthError):
    """Plain HTTP where HTTPS is required.  §4."""

    code = "access_denied"


class UnsupportedGrantType(OAuthError):
    code = "unsupported_grant_type"

    def __init__(self) -> None:
        super().__init__("Invalid grant_type")


class UnsupportedResponseType(OAuthError):
    code = "unsupported_response_type"

    def __init__(self) -> None:
        super().__init__("Invalid response_type")


class InvalidRequest(OAuthError):
    code = "invalid_request"


class InvalidGrant(OAuthError):
    """A code, refresh token or verifier that is not good."""

    code = "invalid_grant"


class UnauthorizedClient(OAuthError):
    """The client is who it says it is, and may not use this grant."""

    code = "unauthorized_client"


class InvalidClient(OAuthError):
    """Unknown client or wrong secret: one text, so that ids cannot be probed.

    `from_header` asks for the Basic challenge; §5.2 gives it only where it says so.
    """

    code = "invalid_client"

    def __init__(self, *, from_header: bool = False) -> None:
        super().__init__("Invalid client authentication")
        if from_header:
            self.status = 401
            self.challenge = 'Basic realm="OAuth2.0"'

    def told(self, *, strict: bool) -> OAuthError:
        """Strict: 401 and a challenge wherever the client could not be told (RFC 9110 §15.5.2)."""
        return InvalidClient(from_header=True) if strict else self


class InvalidProvisionKey(OAuthError):
    code = "invalid_provision_key"

    def __init__(self) -> None:
        super().__init__("Invalid provision_key")


class InvalidAuthenticatedUserid(OAuthError):
    code = "invalid_authenticated_userid"


class InvalidScope(OAuthError):
    code = "invalid_scope"


class TooManyFailures(OAuthError):
    """429: too many secrets of a client or from an address were wrong.  RFC 6585 §4, S24.

    RFC 6749 has no code for it; of those it has, this one means "later". `slow_down` belongs to
    the polling of device codes (RFC 8628).
    """

    code = "temporarily_unavailable"
    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many failed attempts, try again later")
        self.retry_after = retry_after


class Overloaded(OAuthError):
    """503: more secrets wait to be hashed than can be soon."""

    code = "temporarily_unavailable"
    status = 503
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("The server is busy, try again")


class InvalidTarget(OAuthError):
    """A resource that no token can be had for here.  RFC 8707 §2."""

    code = "invalid_target"

    def __init__(self) -> None:
        super().__init__("The resource is unknown or malformed")


class PayloadTooLarge(Exception):
    """The body is over the limit; it was not read to its end.  S31."""


class NoService(Exception):
    """A token bound to a service was to be issued on a route that has none.  §3: a 500."""
