"""The keys that sign JWTs: made, rotated, ended.

A key is published, in the key set and in every snapshot, from when it is made. It signs from
`active_at` until the next key of its algorithm does (`retired_at`); what it signed is good until
the last such token has expired (`gone_at`). So nobody who asks for the key set as often as it says
meets a key that he could not know.
"""

import time
from collections.abc import Iterable

from sqlalchemy import func
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from control.store.session import WriteSession
from control.store.tables import OAuth2Token, Plugin, SigningKey
from dataplane import jws

ALGORITHMS = jws.ALGORITHMS
KEYS_MAX = 16  # of one algorithm; more is a rotation faster than tokens expire
LEEWAY_SECONDS = 60  # for clocks of others: how much longer than its tokens a key verifies


class TooManyKeys(Exception):
    """KEYS_MAX keys of one algorithm still verify."""


def all_keys(session: Session, alg: str | None = None) -> list[SigningKey]:
    """Every key, or those of one algorithm, the oldest first; without their private halves."""
    order = col(SigningKey.active_at), col(SigningKey.kid)
    public = defer(col(SigningKey.private_pem))  # type: ignore[arg-type]
    statement = select(SigningKey).options(public).order_by(*order)
    return list(session.exec(statement if alg is None else statement.where(SigningKey.alg == alg)))


def published(session: Session, now: float) -> list[SigningKey]:
    """The keys that verify, and those that will."""
    return [key for key in all_keys(session) if key.gone_at is None or key.gone_at > now]


def current(keys: Iterable[SigningKey], alg: str, now: float) -> SigningKey | None:
    """Which of these signs now."""
    signing = [
        key
        for key in keys
        if key.alg == alg
        and key.active_at <= now
        and (key.retired_at is None or key.retired_at > now)
    ]
    return max(signing, key=lambda key: key.active_at, default=None)


def ensure(session: WriteSession, alg: str, now: float | None = None) -> None:
    """A key of this algorithm that signs at once, unless there is one that does or will."""
    if not any(key.retired_at is None for key in all_keys(session, alg)):
        moment = time.time() if now is None else now
        _make(session, alg, moment, active_at=moment)


def keep_for(session: WriteSession, seconds: float, now: float | None = None) -> None:
    """Tokens may live so long from now on: keys that still sign verify long enough after it."""
    moment = time.time() if now is None else now
    for key in all_keys(session):
        if key.retired_at is None or key.retired_at <= moment:
            continue
        needed = key.retired_at + seconds + LEEWAY_SECONDS
        if key.gone_at is None or key.gone_at < needed:
            key.gone_at = needed
            session.add(key)
            session.note_config()


def rotate(session: WriteSession, alg: str, publish_seconds: float, now: float) -> SigningKey:
    """The next key of an algorithm, to sign once it was published for `publish_seconds`.

    One that waits already is the next one still.

    Raises:
        TooManyKeys: so many verify that another one has to wait.
    """
    keys = [key for key in all_keys(session, alg) if key.gone_at is None or key.gone_at > now]
    waiting = next((key for key in keys if key.active_at > now), None)
    if waiting is not None:
        return waiting
    if len(keys) >= KEYS_MAX:
        raise TooManyKeys(alg)
    active_at = now + publish_seconds if keys else now
    for key in keys:
        if key.retired_at is None:
            key.retired_at = active_at
            key.gone_at = _last_expiry(session, active_at) + LEEWAY_SECONDS
            session.add(key)
    return _make(session, alg, now, active_at)


def remove(session: WriteSession, kid: str, now: float) -> bool:
    """End a key at once, and with it all that it signed; False when there is none such.

    Another takes its place at once: the next one, else the one before, else a new one where
    an instance signs with its algorithm.
    """
    key = session.get(SigningKey, kid)
    if key is None:
        return False
    session.delete(key)
    session.flush()
    session.note_config()
    left = all_keys(session, key.alg)
    if current(left, key.alg, now) is None:
        waiting = next((k for k in left if k.active_at > now), None)
        if waiting is not None:
            waiting.active_at = now
            session.add(waiting)
        elif key.alg in in_use(session):
            ensure(session, key.alg, now)
    elif key.active_at > now:  # it never signed: the one before it signs on
        for before in left:
            if before.retired_at is not None and before.retired_at > now:
                before.retired_at = before.gone_at = None
                session.add(before)
    return True


def drop_gone(session: WriteSession, now: float) -> int:
    """Delete the keys that verify nothing any more; how many those were."""
    gone = [key for key in all_keys(session) if key.gone_at is not None and key.gone_at <= now]
    for key in gone:
        session.delete(key)
    if gone:
        session.note_config()
    return len(gone)


def due(session: Session, rotation_seconds: float, now: float) -> list[str]:
    """The algorithms in use whose newest key has signed for `rotation_seconds`."""
    newest = {key.alg: key.active_at for key in all_keys(session)}
    return [
        alg for alg in in_use(session) if alg in newest and newest[alg] + rotation_seconds <= now
    ]


def in_use(session: Session) -> list[str]:
    """The algorithms that instances sign with, sorted."""
    return sorted({alg for alg, _ in _signing_instances(session)})


def _signing_instances(session: Session) -> Iterable[tuple[str, float]]:
    """Algorithm and seconds that tokens live, of each instance that signs."""
    for id_, policy in session.exec(
        select(Plugin.id, Plugin.policy).where(Plugin.name == "oauth2")
    ):
        if policy.get("jwt"):
            config = session.get_one(Plugin, id_).config
            yield config.get("signing_alg") or "ES256", config.get("token_expiration", 7200)


def _last_expiry(session: Session, retired_at: float) -> float:
    """When the last token has expired that may be signed before `retired_at`.

    What was signed already counts too: an instance may have been changed since.
    """
    longest = max((seconds for _, seconds in _signing_instances(session)), default=0)
    signed = select(func.max(OAuth2Token.created_at + OAuth2Token.expires_in)).where(
        OAuth2Token.is_jwt
    )
    return max(retired_at + longest, session.exec(signed).one() or 0.0)


def _make(session: WriteSession, alg: str, now: float, active_at: float) -> SigningKey:
    made = jws.generate(alg)
    key = SigningKey(
        kid=made.public_jwk["kid"],
        alg=alg,
        private_pem=made.private_pem,
        public_jwk=made.public_jwk,
        created_at=now,
        active_at=active_at,
    )
    session.add(key)
    session.flush()
    session.note_config()
    return key
