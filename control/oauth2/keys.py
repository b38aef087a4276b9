"""The issuer's keys at work: what signs, what verifies, and when they are rotated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

import structlog
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session

from control.store import queries, signing_keys
from control.store.changes import Change
from control.store.session import Store, WriteSession
from control.store.tables import SigningKey
from dataplane import jws

CHECK_SECONDS = 60.0  # how late a rotation, or the end of a key, may be noticed
DAY_SECONDS = 86400.0

log = structlog.get_logger("control")


class Signing(NamedTuple):
    """What signs now, at which version of the configuration."""

    key: jws.SigningKey
    version: int


class _Read(NamedTuple):
    """What was read at one generation of the configuration."""

    generation: int
    version: int
    keys: list[SigningKey]


class Keys:
    """The keys of one store, read again after a change of the configuration.

    Key objects are made once: reading an RSA key costs 60 ms. From any thread, but not inside of a
    transaction that writes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._generation = 0  # of the configuration, counted by us
        self._read = _Read(-1, 0, [])
        self._signing: dict[str, jws.SigningKey] = {}
        self._verifying: dict[str, jws.VerifyKey] = {}
        store.subscribe(self._changed)

    def _changed(self, change: Change) -> None:
        if change.version is not None:
            self._generation += 1

    def signing(self, alg: str, now: float) -> Signing:
        """What signs now with this algorithm; a new key if there is none."""
        read = self._current()
        row = signing_keys.current(read.keys, alg, now)
        if row is None:
            with self._store.writing() as session:
                signing_keys.ensure(session, alg, now)
            read = self._current()
            row = signing_keys.current(read.keys, alg, now)
        assert row is not None
        key = self._signing.get(row.kid)
        if key is None:
            with self._store.reading() as session:
                pem = session.get_one(SigningKey, row.kid).private_pem
            _bound(self._signing)
            key = self._signing[row.kid] = jws.SigningKey(row.kid, alg, pem)
        return Signing(key, read.version)

    def verifying(self, now: float) -> Mapping[str, jws.VerifyKey]:
        """What every key that is still good verifies with, by kid."""
        found = {}
        for row in self._current().keys:
            if row.gone_at is not None and row.gone_at <= now:
                continue
            key = self._verifying.get(row.kid)
            if key is None:
                _bound(self._verifying)
                key = self._verifying[row.kid] = jws.VerifyKey(row.kid, row.alg, row.public_jwk)
            found[row.kid] = key
        return found

    def _current(self) -> _Read:
        generation = self._generation
        if self._read.generation != generation:
            with self._store.reading() as session:
                version = queries.cluster_state(session).config_version
                self._read = _Read(generation, version, signing_keys.all_keys(session))
        return self._read


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
