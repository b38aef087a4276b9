"""Deletes expired rows while the control plane serves: a task of its own, off every request's path.

Records of the audit trail go likewise, by their age and their number.

A batch holds the writers' lock for some ten milliseconds, and between two of them is a pause in
which tokens are issued. One turn does a bounded amount of work; a backlog takes several.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from control.store import audit, expired
from control.store.audit import Retention
from control.store.session import Store

TURN_SECONDS = 60.0
BATCH_ROWS = 1000  # at most, in one transaction
BATCHES_MAX = 100  # in a turn, so that 1,600 rows a second go: more than are issued
PAUSE_SECONDS = 0.1  # between two batches

log = structlog.get_logger("control")


async def clean_for_ever(
    store: Store, retention: Retention, turn_seconds: float = TURN_SECONDS
) -> None:
    """A turn every `turn_seconds`, until cancelled.  What fails is tried again in the next."""
    while True:
        await asyncio.sleep(turn_seconds)
        try:
            await clean(store, retention)
        except Exception as error:  # a database out of reach, say: others tell of that
            log.warning("cleanup.failed", why=type(error).__name__)


async def clean(
    store: Store, retention: Retention, pause_seconds: float = PAUSE_SECONDS
) -> dict[str, int]:
    """One turn; how many rows of which kind went."""
    gone: dict[str, int] = {}
    left = BATCHES_MAX
    batches = {kind: partial(_batch, store, kind) for kind in expired.KINDS}
    batches["audit_records"] = partial(_audit_batch, store, retention)
    for kind, batch in batches.items():
        while left and (count := await asyncio.to_thread(batch)):
            gone[kind] = gone.get(kind, 0) + count
            left -= 1
            if count < BATCH_ROWS:
                break
            await asyncio.sleep(pause_seconds)
    if gone:
        log.debug("cleanup.deleted", **gone)
    return gone


def _batch(store: Store, kind: str) -> int:
    with store.reading() as reader:
        if not expired.has_expired(reader, kind):
            return 0
    with store.writing() as session:
        return expired.delete_expired(session, kind, BATCH_ROWS)


def _audit_batch(store: Store, retention: Retention) -> int:
    with store.reading() as reader:
        up_to = audit.overdue(reader, retention, BATCH_ROWS)
    if not up_to:
        return 0
    with store.writing() as session:
        return audit.forget(session, up_to)
