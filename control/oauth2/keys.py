"""The issuer's keys at work: what signs, what verifies, and when they are rotated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import structlog
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session

from control.store import signing_keys
from control.store.session import Store, WriteSession
from control.store.tables import SigningKey
from dataplane import jws

CHECK_SECONDS = 60.0  # how late a rotation, or the end of a key, may be noticed
DAY_SECONDS = 86400.0

log = structlog.get_logger("control")


class Keys:
    """Key objects of one process, each read once: reading an RSA key costs 60 ms."""

    def __init__(self) -> None:
        self._signing: dict[str, jws.SigningKey] = {}
        self._verifying: dict[str, jws.VerifyKey] = {}

    def signing(self, session: WriteSession, alg: str, now: float) -> jws.SigningKey:
        """The key that signs now, made in this transaction if there is none."""
        kid = signing_keys.current_kid(session, alg, now)
        if kid is None:
            signing_keys.ensure(session, alg, now)
            session.flush()
            kid = signing_keys.current_kid(session, alg, now)
        assert kid is not None
        if kid not in self._signing:
            row = session.get_one(SigningKey, kid)
            _bound(self._signing)
            self._signing[kid] = jws.SigningKey(kid, alg, row.private_pem)
        return self._signing[kid]

    def verifying(self, session: Session, now: float) -> Mapping[str, jws.VerifyKey]:
        """What every key that is still good verifies with, by kid."""
        found = {}
        for row in signing_keys.published(session, now):
            if row.kid not in self._verifying:
                _bound(self._verifying)
                self._verifying[row.kid] = jws.VerifyKey(row.kid, row.alg, row.public_jwk)
            found[row.kid] = self._verifying[row.kid]
        return found


def _bound(held: dict[str, jws.SigningKey] | dict[str, jws.VerifyKey]) -> None:
    """Before one more: those of keys that ended are forgotten with all the others."""
    if len(held) >= len(signing_keys.ALGORITHMS) * signing_keys.KEYS_MAX:
        held.clear()


class Keeper:
    """Rotates keys in time and deletes those that verify nothing any more."""

    def __init__(self, store: Store, rotation_days: float, publish_seconds: float) -> None:
        """`rotation_days` 0: keys are rotated by hand alone."""
        self._store = store
        self._rotation_seconds = rotation_days * DAY_SECONDS
        self._publish_seconds = publish_seconds

    async def run_for_ever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.tend)
            except DatabaseError as error:  # the next turn tries again
                log.error("keys.not_tended", why=str(error.orig))
            await asyncio.sleep(CHECK_SECONDS)

    def tend(self, now: float | None = None) -> None:
        """Do what is due; nothing is written when nothing is."""
        moment = time.time() if now is None else now
        with self._store.reading() as session:
            due = self._due(session, moment)
            gone = len(signing_keys.all_keys(session)) - len(
                signing_keys.published(session, moment)
            )
        if not (due or gone):
            return
        with self._store.writing() as writing:
            signing_keys.drop_gone(writing, moment)
            for alg in self._due(writing, moment):
                self._rotate(writing, alg, moment)

    def _due(self, session: Session, now: float) -> list[str]:
        if not self._rotation_seconds:
            return []
        return signing_keys.due(session, self._rotation_seconds, now)

    def _rotate(self, session: WriteSession, alg: str, now: float) -> None:
        try:
            key = signing_keys.rotate(session, alg, self._publish_seconds, now)
            log.info("keys.rotated", alg=alg, kid=key.kid, active_at=key.active_at)
        except signing_keys.TooManyKeys:
            log.warning("keys.not_rotated", alg=alg, why="as many keys as there may be verify")
