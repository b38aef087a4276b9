"""OAuth endpoints want HTTPS.  spec/oauth2.md §4, S29."""

from __future__ import annotations

from collections.abc import Sequence

from control.oauth2.context import TokenContext
from control.oauth2.errors import AccessDenied

_MISSING = "You must use HTTPS"


def require_https(
    context: TokenContext, *, accept_terminated: bool, forwarded_proto: Sequence[str]
) -> None:
    """Pass when the client's connection was TLS, by our own eyes or a trusted proxy's word.

    `forwarded_proto` are the values of X-Forwarded-Proto, one a header line. Trust is judged on
    the socket's peer alone: anybody can write the header.

    Raises:
        AccessDenied: none of this holds.
    """
    if context.tls:
        return
    if not (accept_terminated and context.peer_trusted and forwarded_proto):
        raise AccessDenied(_MISSING)
    if len(forwarded_proto) > 1 or "," in forwarded_proto[0]:
        raise AccessDenied("Only one X-Forwarded-Proto header allowed")
    if forwarded_proto[0].strip().lower() != "https":
        raise AccessDenied(_MISSING)
