"""Which instance answers for an issuer or a protected resource; pure.  RFC 8414 §3, RFC 9728 §3.

Several `oauth2` instances may share an issuer: the one on the token route and those on services.
The one whose endpoints a client reaches by the issuer's own URL describes it: it runs on a route
with the issuer's path. Without such a route it is one that runs on any route, else any; the lowest
id decides among equals.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from control.store import selection
from control.store.queries import ConfigRows, PluginRow, RouteRow


class Place(NamedTuple):
    """What a client asks for.  `path` has no final slash."""

    host: str  # lower case, no port
    path: str
    resource: bool  # a protected resource, else an authorization server


def place_of(url: str, *, resource: bool) -> Place:
    """Where the metadata of this issuer or resource, an https URL, is asked for."""
    parts = urlsplit(url)
    return Place((parts.hostname or "").lower(), parts.path.rstrip("/"), resource)


def places(policy: Mapping[str, Any]) -> list[Place]:
    """What one instance describes: nothing without an issuer."""
    issuer = policy.get("issuer")
    if not issuer:
        return []
    found = [place_of(issuer, resource=False)]
    if policy.get("resource_metadata"):
        found.append(place_of(policy.get("audience") or issuer, resource=True))
    return found


def issuers(rows: ConfigRows) -> dict[Place, str]:
    """Each place that is asked for, and the id of the instance that answers; places sorted."""
    instances = selection.instances(rows.plugins, "oauth2")
    claims = [(place, row) for row in instances.values() for place in places(row.config)]
    if not claims:
        return {}
    disabled = {service.id for service in rows.services if not service.enabled}
    runs_on = _routes_by_instance(
        instances, (row for row in rows.routes if row.service_id not in disabled)
    )
    best: dict[Place, tuple[int, str]] = {}
    for place, row in claims:
        rank = (_distance(place, runs_on.get(row.id, ())), row.id)
        best[place] = min(best.get(place, rank), rank)
    return {place: best[place][1] for place in sorted(best)}


def _routes_by_instance(
    instances: Mapping[selection.Scope, PluginRow], routes: Iterable[RouteRow]
) -> dict[str, list[RouteRow]]:
    found: dict[str, list[RouteRow]] = {}
    for route in routes:
        row = selection.select(instances, route.id, route.service_id, route.protocols)
        if row is not None:
            found.setdefault(row.id, []).append(route)
    return found


def _distance(place: Place, routes: Iterable[RouteRow]) -> int:
    """How far an instance on these routes is from the place: 0 is on its very path."""
    nearest = 2
    for route in routes:
        hosts = [host.partition(":")[0].lower() for host in route.hosts or ()]
        paths = [path.rstrip("/") for path in route.paths or ("",)]
        here = place.path in paths and (not hosts or place.host in hosts)
        nearest = min(nearest, 0 if here else 1)
    return nearest
