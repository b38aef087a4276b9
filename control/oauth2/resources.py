"""Resource indicators: a token for the resources that a client names.  RFC 8707.

A client may name what the instance that it asks protects (its `audience`, its `issuer`) and, where
that one has `global_credentials`, what other such instances protect. A code or refresh token gives
tokens for what it was granted for, or for less; what a refresh leaves out stays out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlmodel import Session

from control.oauth2.config import OAuth2Config
from control.oauth2.errors import InvalidTarget
from control.oauth2.params import Params, is_set
from control.store import queries
from dataplane import jws

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s#]+")  # absolute, without fragment
_CHARS_MAX = 1024


def asked(params: Params) -> tuple[str, ...]:
    """The resources that a request names, each once; none when it names none.

    Raises:
        InvalidTarget: not absolute URIs without fragment, or too many.
    """
    value = params.get("resource")
    if not is_set(value):
        return ()
    named = value if isinstance(value, list) else [value]
    if not 1 <= len(named) <= jws.AUDIENCES_MAX:
        raise InvalidTarget
    for uri in named:
        if not isinstance(uri, str) or len(uri) > _CHARS_MAX or _URI.fullmatch(uri) is None:
            raise InvalidTarget
    return tuple(dict.fromkeys(named))


def granted(
    session: Session, config: OAuth2Config, params: Params, before: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The audience of a new code or token; empty for whoever takes it.

    `before`: of the code or token that it comes of, which it cannot exceed.

    Raises:
        InvalidTarget: a resource that this client cannot have a token for here.
    """
    named = asked(params)
    if not named:
        return tuple(before or ())
    known = set(before) if before else _known(session, config)
    if not known.issuperset(named):
        raise InvalidTarget
    return named


def _known(session: Session, config: OAuth2Config) -> set[str]:
    own = {name for name in (config.audience, config.issuer) if name is not None}
    return own | queries.global_audiences(session) if config.global_credentials else own
