"""Which scope a token gets.  spec/oauth2.md §5.6."""

from __future__ import annotations

from collections.abc import Sequence

from control.oauth2.errors import InvalidScope

CLAIM_BYTES_MAX = 4096  # of a scope and of a user id, as a data plane puts them in a header


def granted(asked: object, allowed: Sequence[str] | None, *, mandatory: bool) -> str | None:
    """The scope to store, words joined by one space; None for none.

    `asked` is the parameter as it came, None when it was not sent; `allowed` is the plugin's list.

    Raises:
        InvalidScope: missing though mandatory, not a string, a word that is not allowed, or more
            than data planes take.
    """
    if asked is None:
        if mandatory:
            raise InvalidScope("You must specify a scope")
        return None
    if allowed is None:
        return None
    if not isinstance(asked, str):
        raise InvalidScope("scope must be a string")
    words = asked.split()
    for word in words:
        if word not in allowed:
            raise InvalidScope(f'"{word}" is an invalid scope')
    scope = " ".join(words)
    if too_long(scope):
        raise InvalidScope("scope is too long")
    return scope or None


def too_long(claim: str) -> bool:
    """Whether no data plane could hold a token that says this; control bytes become %XX there."""
    escapes = sum(char < " " or char == "\x7f" for char in claim)
    return len(claim.encode("utf-8", "surrogatepass")) + 2 * escapes > CLAIM_BYTES_MAX
