"""Which scope a token gets.  spec/oauth2.md §5.6."""

from __future__ import annotations

from collections.abc import Sequence

from control.oauth2.errors import InvalidScope


def granted(asked: object, allowed: Sequence[str] | None, *, mandatory: bool) -> str | None:
    """The scope to store, words joined by one space; None for none.

    `asked` is the parameter as it came, None when it was not sent; `allowed` is the plugin's list.

    Raises:
        InvalidScope: missing though mandatory, not a string, or a word that is not allowed.
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
    return " ".join(words) or None
