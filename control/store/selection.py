"""Which instance of a plugin runs on a route.  spec/routing-and-proxy.md §10; pure."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar


class Scope(NamedTuple):
    route_id: str | None
    service_id: str | None


class Instance(Protocol):
    """What is read of a plugin's row."""

    @property
    def name(self) -> str: ...
    @property
    def service_id(self) -> str | None: ...
    @property
    def route_id(self) -> str | None: ...
    @property
    def consumer_id(self) -> str | None: ...
    @property
    def protocols(self) -> list[str]: ...
    @property
    def enabled(self) -> bool: ...


_I = TypeVar("_I", bound=Instance)

_FAMILIES = (frozenset({"http", "https"}), frozenset({"ws", "wss"}))


def instances(plugins: Iterable[_I], name: str) -> dict[Scope, _I]:
    """The enabled instances of one plugin by scope; one for a consumer alone never runs."""
    return {
        Scope(row.route_id, row.service_id): row
        for row in plugins
        if row.name == name and row.enabled and row.consumer_id is None
    }


def scopes(route_id: str, service_id: str | None) -> list[Scope]:
    """Where an instance for this route may be, the most specific scope first."""
    if service_id is None:
        return [Scope(route_id, None), Scope(None, None)]
    return [
        Scope(route_id, service_id),
        Scope(route_id, None),
        Scope(None, service_id),
        Scope(None, None),
    ]


def select(
    found: Mapping[Scope, _I], route_id: str, service_id: str | None, protocols: Sequence[str]
) -> _I | None:
    """The most specific instance that speaks the route's family of protocols."""
    if not found:
        return None
    wanted = families(tuple(protocols))
    for scope in scopes(route_id, service_id):
        plugin = found.get(scope)
        if plugin is not None and not families(tuple(plugin.protocols)).isdisjoint(wanted):
            return plugin
    return None


@lru_cache(maxsize=1024)
def families(protocols: tuple[str, ...]) -> frozenset[frozenset[str]]:
    """The families of protocols among these that data planes carry."""
    return frozenset(family for family in _FAMILIES if not family.isdisjoint(protocols))
