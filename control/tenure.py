"""One control plane at a time serves a database that several can reach; the others wait.

The hold on the database is the store's (`Store.hold`). Here is who waits for it, and what happens
when it is lost: with the database gone it is asked for again and again, while writes and reads get
503; when another control plane has it, this process ends, and waits once it is started again.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from sqlalchemy.exc import DBAPIError

from control.store import Store
from control.store.faults import Unavailable

WAIT_SECONDS = 0.5  # between two looks at whether it is our turn
WATCH_SECONDS = 1.0  # between two looks at whether it still is

log = structlog.get_logger("control")


def wait_for_turn(store: Store) -> None:
    """Return once this process is the one that serves the database; one line says that it waits.

    Raises:
        StoreError: the database cannot be reached at the first try; later it is tried again.
    """
    if _holds_at_first(store):
        return
    log.warning(
        "database.waiting",
        why="another control plane serves this database; this one takes over when that one ends",
    )
    while not _holds(store):
        time.sleep(WAIT_SECONDS)
    log.info("database.taken_over")


def _holds_at_first(store: Store) -> bool:
    try:
        return store.hold()
    except DBAPIError as error:
        raise store.unusable(error) from None


def _holds(store: Store) -> bool:
    try:
        return store.hold()
    except DBAPIError:
        return False


async def keep_turn(store: Store) -> None:
    """Return when another control plane has taken the database over; never where none could."""
    if not store.shared:
        await asyncio.Event().wait()
    lost = False
    while True:
        try:
            if not await asyncio.to_thread(store.hold):
                break
            if lost:
                log.info("database.back")
            lost = False
        except Unavailable:  # a long write of this process: what it writes with, it still holds
            pass
        except DBAPIError as error:
            if not lost:
                log.error("database.lost", why=str(error.orig))
            lost = True
        await asyncio.sleep(WATCH_SECONDS)
    log.error(
        "database.taken",
        why="another control plane took the database over while this one had lost it; this one "
        "ends, and will wait for its turn when it is started again",
    )
