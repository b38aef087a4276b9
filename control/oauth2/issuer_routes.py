"""Route and plugin of a request that did not come through a data plane: by path alone.

Metadata is found by the Host and path of its issuer or resource, as data planes do.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from control.store import queries, selection
from control.store.changes import Change
from control.store.issuers import Place, issuers
from control.store.queries import ConfigRows, RouteRow
from control.store.session import Store


class IssuerRoute(NamedTuple):
    route_id: str
    plugin_id: str
    service_id: str | None
    takes_gets: bool = True


class _Index(NamedTuple):
    """What was read at one generation of the configuration."""

    generation: int
    routes: dict[str, IssuerRoute]  # by path
    lengths: list[int]  # that paths have, longest first: a request's path is cut at no other
    issuers: dict[Place, str]  # plugin id


class IssuerRoutes:
    """Longest path prefix to route and plugin, read again after a change of the configuration."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # one reads, the others wait for what it read
        self._generation = 0  # of the configuration, counted by us
        self._index = _Index(-1, {}, [], {})
        store.subscribe(self._forget)

    def _forget(self, change: Change) -> None:
        if change.version is not None:
            self._generation += 1

    def find(self, path: str) -> IssuerRoute | None:
        """The route whose path is the longest beginning of `path`."""
        index = self._current()
        for length in index.lengths:
            found = index.routes.get(path[:length]) if length <= len(path) else None
            if found is not None:
                return found
        return None

    def describing(self, place: Place) -> str | None:
        """The plugin instance whose metadata is asked for there."""
        return self._current().issuers.get(place)

    def _current(self) -> _Index:
        if self._index.generation != self._generation:
            with self._lock:
                generation = self._generation
                if self._index.generation != generation:
                    rows = self._read()
                    routes = index_of(rows)
                    lengths = sorted({len(path) for path in routes}, reverse=True)
                    self._index = _Index(generation, routes, lengths, issuers(rows))
        return self._index

    def _read(self) -> ConfigRows:
        with self._store.reading() as session:
            return queries.config_rows(session)


def index_of(rows: ConfigRows) -> dict[str, IssuerRoute]:
    """Path to route; where two routes share a path, the older one has it."""
    disabled = {service.id for service in rows.services if not service.enabled}
    plugins = selection.instances(rows.plugins, "oauth2")
    index: dict[str, IssuerRoute] = {}
    for route in sorted(rows.routes, key=lambda route: (route.created_at, route.id)):
        plugin = selection.select(plugins, route.id, route.service_id, route.protocols)
        if plugin is None or not _takes_posts(route) or route.service_id in disabled:
            continue
        for path in route.paths or [""]:
            gets = "GET" in (route.methods or ["GET"])
            index.setdefault(path, IssuerRoute(route.id, plugin.id, route.service_id, gets))
    return index


def _takes_posts(route: RouteRow) -> bool:
    return bool({"http", "https"} & set(route.protocols)) and "POST" in (route.methods or ["POST"])
