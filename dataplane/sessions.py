"""What holds for the sessions of a route, from its plugins `websocket-size-limit` and
`websocket-session`.  spec/routing-and-proxy.md §11, §12.3-12.6.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dataplane import wire
from dataplane._policies import CHANGES, SESSION_DEFAULTS

if TYPE_CHECKING:
    from dataplane._policies import Session

UINT32_MAX = 2**32 - 1
ORIGINS_BYTES_MAX = 65536
_ORIGIN = re.compile(r"[!-)+-~]+|https?://\*[!-)+-~]+")  # the star at one place, if at all
NO_LIMIT = UINT32_MAX  # payload bytes of a message that nobody limits


def session_rules(
    route: wire.Route,
    service: wire.Service | None,
    limit: wire.SizeLimit | None,
    rules: wire.SessionRules | None,
) -> Session:
    """The rules as `PolicyBox` takes them.

    A route of http or https is opaque (§11): without a plugin no message is too large, nobody is
    pinged, and its service's timeouts hold for the tunnel as they do for HTTP.

    Raises:
        ValueError: a value is out of its bounds.
    """
    session = SESSION_DEFAULTS
    if not {"ws", "wss"} & set(route.protocols):
        idle, stall = session[4:6] if service is None else _timeouts(service)
        session = (NO_LIMIT, NO_LIMIT, 0, 0, idle, stall, *session[6:])
    if limit is not None:
        session = (limit.client_max_payload, limit.upstream_max_payload, *session[2:])
    if rules is not None:
        session = (
            *session[:2],
            rules.ping_interval_ms,
            rules.ping_timeout_ms,
            rules.idle_timeout_ms,
            rules.stall_timeout_ms,
            rules.buffered_max,
            _change(rules.on_edit),
            _change(rules.on_delete),
        )
    _check(session)
    return session


def session_flags(rules: wire.SessionRules | None) -> dict[str, bool]:
    """Which flags of a policy the rules set.

    Raises:
        ValueError: `deflate` is neither pass nor refuse, or `on_auth_failure` none of three.
    """
    if rules is None:
        return {}
    if rules.deflate not in ("pass", "refuse"):
        raise ValueError(f"{rules.deflate[:40]!r} is not pass or refuse")
    if rules.on_auth_failure not in ("http", "close", "auto"):
        raise ValueError(f"{rules.on_auth_failure[:40]!r} is not http, close or auto")
    return {
        "validate_utf8": rules.validate_utf8,
        "refuse_deflate": rules.deflate == "refuse",
        "refuse_close": rules.on_auth_failure == "close",
        "refuse_auto": rules.on_auth_failure == "auto",
    }


def follow_flags(oauth2: wire.OAuth2) -> dict[str, bool]:
    """How the sessions of a route follow the grant.  spec/oauth2.md §2, §14.

    Raises:
        ValueError: a setting is none that we know, or out of its bounds.
    """
    if oauth2.session_expiry not in ("close", "ignore"):
        raise ValueError(f"{oauth2.session_expiry[:40]!r} is not close or ignore")
    if oauth2.session_follow not in ("token", "credential", "none"):
        raise ValueError(f"{oauth2.session_follow[:40]!r} is not token, credential or none")
    if not 0 <= oauth2.session_max_age_ms <= UINT32_MAX:
        raise ValueError(f"session_max_age_ms {oauth2.session_max_age_ms} is out of range")
    return {
        "ignore_expiry": oauth2.session_expiry == "ignore",
        "follow_credential": oauth2.session_follow == "credential",
        "follow_none": oauth2.session_follow == "none",
    }


def allowed_origins(rules: wire.SessionRules | None) -> bytes:
    """The origins that a handshake may come from, each ended by LF; empty: any.

    Raises:
        ValueError: one is no origin, or they are too long in all.
    """
    origins = [] if rules is None else rules.allowed_origins
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin[:100]!r} is not an origin")
    text = "".join(f"{origin}\n" for origin in origins).encode()
    if len(text) > ORIGINS_BYTES_MAX:
        raise ValueError(f"the allowed origins are longer than {ORIGINS_BYTES_MAX} bytes")
    return text


def _timeouts(service: wire.Service) -> tuple[int, int]:
    return service.read_timeout_ms, service.write_timeout_ms


def _change(name: str) -> int:
    if name not in CHANGES:
        raise ValueError(f"{name[:40]!r} is not keep, drain or close")
    return CHANGES[name]


def _check(session: Session) -> None:
    largest_up, largest_down, ping, pong, idle, stall, buffered, _, _ = session
    if not (1 <= largest_up <= UINT32_MAX and 1 <= largest_down <= UINT32_MAX):
        raise ValueError(f"message limits {largest_up}, {largest_down} are out of range")
    if not all(0 <= time <= UINT32_MAX for time in (ping, pong, idle)):
        raise ValueError(f"session times {ping}, {pong}, {idle} ms are out of range")
    if not (1 <= stall <= UINT32_MAX and 1 <= buffered <= UINT32_MAX):
        raise ValueError(f"write timeout {stall} ms or buffer {buffered} is out of range")
