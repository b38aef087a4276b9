"""Plugin instances and clients as they were read last: most token requests read nothing.

What was read holds until a commit changes the configuration. Secrets are here in clear, as they
are in the memory of any process that checks them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlmodel import Session

from control.oauth2.config import OAuth2Config
from control.oauth2.requests import StoreThreads
from control.store import queries
from control.store.changes import Change
from control.store.session import Store
from control.store.tables import OAuth2Credential

KNOWN_MAX = 4096  # instances, and again clients; the oldest go first

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Instance:
    """An enabled plugin instance, and the key that checks tokens."""

    config: OAuth2Config
    check_key: bytes = field(repr=False)


class Known:
    """What the endpoints look up, for one store.  Used from the event loop."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads
        self._generation = 0  # of the configuration, counted by us
        self._instances: _Held[Instance] = _Held()
        self._clients: _Held[OAuth2Credential] = _Held()
        store.subscribe(self._changed)

    def _changed(self, change: Change) -> None:
        if change.version is not None:
            self._generation += 1

    async def instance(self, plugin_id: str) -> Instance | None:
        """The plugin instance; None when it is gone or disabled."""
        return await self._find(self._instances, plugin_id, _instance)

    async def client(self, client_id: str) -> OAuth2Credential | None:
        """The client with this id, not to be changed."""
        return await self._find(self._clients, client_id, queries.credential_by_client_id)

    def forget_client(self, client_id: str) -> None:
        """Its row was changed, though nothing that makes a new configuration."""
        self._clients.rows.pop(client_id, None)

    async def _find(
        self, held: _Held[T], key: str, read: Callable[[Session, str], T | None]
    ) -> T | None:
        generation = self._generation
        known = held.at(generation).get(key)
        if known is not None:
            return known

        def look_up() -> T | None:
            with self._store.reading() as session:
                return read(session, key)

        found = await self._threads.run(look_up)
        # What was read may be of before a change that was noticed since.
        if found is not None and generation == self._generation:
            rows = held.at(generation)
            while len(rows) >= KNOWN_MAX:
                del rows[next(iter(rows))]
            rows[key] = found
        return found


class _Held(Generic[T]):
    """Rows by key, of one generation of the configuration."""

    def __init__(self) -> None:
        self.rows: dict[str, T] = {}
        self._generation = 0

    def at(self, generation: int) -> dict[str, T]:
        """The rows of this generation; those of another are forgotten."""
        if self._generation != generation:
            self.rows, self._generation = {}, generation
        return self.rows


def _instance(session: Session, plugin_id: str) -> Instance | None:
    plugin = queries.plugin_by_id(session, plugin_id)
    if plugin is None or not plugin.enabled:
        return None
    return Instance(OAuth2Config.of(plugin), queries.cluster_state(session).check_key)
