"""Configuration rows in, one checked `wire.Snapshot` out; pure.

What a data plane need not know stays here: plugins that no route uses, disabled services and their
routes, and every secret. Which `oauth2` instance runs on a route is decided here, once a snapshot,
and not at each request (spec/routing-and-proxy.md §10).
"""

from __future__ import annotations

from collections.abc import Sequence

from control.store.queries import ConfigRows, ConsumerRow, PluginRow, RouteRow, ServiceRow
from dataplane import wire

_FAMILIES = (frozenset({"http", "https"}), frozenset({"ws", "wss"}))
_Scope = tuple[str | None, str | None]  # route id, service id


def build(rows: ConfigRows) -> wire.Snapshot:
    """The snapshot of these rows; equal rows give equal snapshots.

    Raises:
        ValueError: a reference leads nowhere, which the store's foreign keys rule out.
    """
    services = [_service(row) for row in rows.services if row.enabled and _families([row.protocol])]
    there = {row.id for row in rows.services if row.enabled and _families([row.protocol])}
    instances = _instances(rows.plugins)
    chosen: dict[str, PluginRow] = {}
    routes = []
    for row in rows.routes:
        if row.service_id is not None and row.service_id not in there:
            continue
        if not _families(row.protocols):
            continue  # tcp, grpc, …: stored for Kong's sake, and not to match HTTP by accident
        plugin = _select(instances, row)
        if plugin is not None:
            chosen[plugin.id] = plugin
        routes.append(_route(row, plugin))
    snapshot = wire.Snapshot(
        epoch=id_bytes(rows.epoch),
        version=rows.version,
        check_key=rows.check_key,
        services=services,
        routes=routes,
        oauth2=_policies(chosen, rows.consumers),
        consumers=[wire.Consumer(id_bytes(c.id), c.username, c.custom_id) for c in rows.consumers],
        credentials=[
            wire.Credential(id_bytes(c.id), c.client_id, id_bytes(c.consumer_id))
            for c in rows.credentials
        ],
    )
    if problems := snapshot.problems():
        raise ValueError("; ".join(problems[:10]))
    return snapshot


def id_bytes(uuid: str) -> bytes:
    """The 16 bytes of a UUID's text."""
    return bytes.fromhex(uuid.replace("-", ""))


def _service(row: ServiceRow) -> wire.Service:
    return wire.Service(
        id=id_bytes(row.id),
        protocol=row.protocol,
        host=row.host,
        port=row.port,
        name=row.name,
        path=row.path,
        connect_timeout_ms=row.connect_timeout,
        write_timeout_ms=row.write_timeout,
        read_timeout_ms=row.read_timeout,
        retries=row.retries,
    )


def _route(row: RouteRow, plugin: PluginRow | None) -> wire.Route:
    return wire.Route(
        id=id_bytes(row.id),
        protocols=row.protocols,
        name=row.name,
        created_at=row.created_at,
        methods=row.methods or [],
        hosts=row.hosts or [],
        paths=row.paths or [],
        headers=row.headers or {},
        https_redirect_status_code=row.https_redirect_status_code,
        strip_path=row.strip_path,
        preserve_host=row.preserve_host,
        path_handling=row.path_handling,
        service=None if row.service_id is None else id_bytes(row.service_id),
        oauth2=None if plugin is None else id_bytes(plugin.id),
    )


def _instances(plugins: Sequence[PluginRow]) -> dict[_Scope, PluginRow]:
    """The enabled `oauth2` plugins by scope; one for a consumer alone never runs."""
    return {
        (row.route_id, row.service_id): row
        for row in plugins
        if row.name == "oauth2" and row.enabled and row.consumer_id is None
    }


def _select(instances: dict[_Scope, PluginRow], route: RouteRow) -> PluginRow | None:
    """The most specific instance that speaks the route's family of protocols."""
    scopes: list[_Scope] = [(route.id, None), (None, None)]
    if route.service_id is not None:
        scopes = [(route.id, route.service_id), scopes[0], (None, route.service_id), scopes[1]]
    for scope in scopes:
        plugin = instances.get(scope)
        if plugin is not None and _families(plugin.protocols) & _families(route.protocols):
            return plugin
    return None


def _families(protocols: Sequence[str]) -> set[frozenset[str]]:
    return {family for family in _FAMILIES if not family.isdisjoint(protocols)}


def _policies(chosen: dict[str, PluginRow], consumers: Sequence[ConsumerRow]) -> list[wire.OAuth2]:
    """What the data plane must know of each instance in use, in the order of their ids."""
    ids = {c.id: c.id for c in consumers}
    names = {c.username: c.id for c in consumers if c.username is not None}
    found = []
    for plugin_id in sorted(chosen):
        config = chosen[plugin_id].config
        anonymous = config.get("anonymous") or None
        consumer = ids.get(anonymous) or names.get(anonymous) if anonymous else None
        found.append(
            wire.OAuth2(
                plugin_id=id_bytes(plugin_id),
                global_credentials=bool(config.get("global_credentials")),
                hide_credentials=bool(config.get("hide_credentials")),
                auth_header_name=(config.get("auth_header_name") or "authorization").lower(),
                realm=config.get("realm"),
                anonymous=None if consumer is None else id_bytes(consumer),
                anonymous_missing=anonymous if consumer is None else None,
            )
        )
    return found
