"""Configuration rows in, one checked `wire.Snapshot` out; pure.

What a data plane need not know stays here: plugins that no route uses, disabled services and their
routes, and every secret. Which instance of each plugin runs on a route is decided here, once a
snapshot, and not at each request (spec/routing-and-proxy.md §10).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

from control.store import selection
from control.store.issuers import issuers
from control.store.queries import (
    CACertificateRow,
    CertificateRow,
    ConfigRows,
    ConsumerRow,
    CredentialRow,
    PluginRow,
    RouteRow,
    ServiceRow,
    SigningKeyRow,
    TargetRow,
    UpstreamRow,
)
from dataplane import wire

_Row = TypeVar("_Row", ConsumerRow, CredentialRow, CertificateRow, CACertificateRow)
_Struct = TypeVar("_Struct")

_PLUGINS = ("oauth2", "websocket-size-limit", "websocket-session")
_OAUTH2_FIELDS = frozenset(wire.OAuth2.__struct_fields__)
_Instances = dict[selection.Scope, PluginRow]  # of one plugin
_Chosen = tuple[PluginRow | None, ...]  # the instance that runs on a route, of each of _PLUGINS


class Builder:
    """Builds one snapshot after the other.

    A row that is the very object of last time, as `queries.RowCache` hands them out, keeps its
    struct: with thousands of rows an edit changes one.
    """

    def __init__(self) -> None:
        self._services: dict[str, tuple[ServiceRow, wire.Service]] = {}
        self._routes: dict[str, tuple[RouteRow, _Chosen, wire.Route]] = {}
        self._consumers: dict[str, tuple[ConsumerRow, wire.Consumer]] = {}
        self._credentials: dict[str, tuple[CredentialRow, wire.Credential]] = {}
        self._certificates: dict[str, tuple[CertificateRow, wire.Certificate]] = {}
        self._authorities: dict[str, tuple[CACertificateRow, wire.CaCertificate]] = {}
        self._instances: list[_Instances] = []  # that `_routes` were made with

    def build(self, rows: ConfigRows) -> wire.Snapshot:
        """The snapshot of these rows; equal rows give equal snapshots.

        Raises:
            ValueError: a reference leads nowhere, which the store's foreign keys rule out.
        """
        there = [
            row for row in rows.services if row.enabled and selection.families((row.protocol,))
        ]
        hosts = {row.host for row in there}
        named = [row for row in rows.upstreams if row.name in hosts]
        self._make_certificates(rows, there, named)
        self._make_services(there)
        self._consumers = _made(rows.consumers, self._consumers, _consumer)
        self._credentials = _made(rows.credentials, self._credentials, _credential)
        self._make_routes(rows)
        oauth2, limits, sessions = self._in_use()
        snapshot = wire.Snapshot(
            epoch=id_bytes(rows.epoch),
            version=rows.version,
            check_key=rows.check_key,
            services=[service for _, service in self._services.values()],
            routes=[route for _, _, route in self._routes.values()],
            oauth2=_policies(oauth2, rows.consumers),
            consumers=[consumer for _, consumer in self._consumers.values()],
            credentials=[credential for _, credential in self._credentials.values()],
            size_limits=[wire.SizeLimit(id_bytes(p.id), **p.config) for p in limits],
            sessions=[wire.SessionRules(id_bytes(p.id), **p.config) for p in sessions],
            certificates=[certificate for _, certificate in self._certificates.values()],
            ca_certificates=[authority for _, authority in self._authorities.values()],
            keys=[_public_key(row) for row in rows.keys],
            issuers=_issuers(rows),
            upstreams=_upstreams(rows, named),
        )
        if problems := snapshot.problems():
            raise ValueError("; ".join(problems[:10]))
        return snapshot

    def _make_certificates(
        self, rows: ConfigRows, services: list[ServiceRow], upstreams: list[UpstreamRow]
    ) -> None:
        """Those that a listener or one of these may show, or trust."""
        shown = {row.client_certificate_id for row in services}
        shown |= {row.client_certificate_id for row in upstreams}
        trusted = {id_ for row in services for id_ in row.ca_certificates or ()}
        pairs = (row for row in rows.certificates if row.snis or row.id in shown)
        authorities = (row for row in rows.ca_certificates if row.id in trusted)
        self._certificates = _made(pairs, self._certificates, _certificate)
        self._authorities = _made(authorities, self._authorities, _authority)

    def _make_services(self, services: list[ServiceRow]) -> None:
        before, self._services = self._services, {}
        for row in services:
            held = before.get(row.id)
            # A CA certificate that comes or goes changes the services that list it.
            if held is None or held[0] is not row or row.ca_certificates:
                held = (row, _service(row, self._authorities.keys()))
            self._services[row.id] = held

    def _make_routes(self, rows: ConfigRows) -> None:
        """The routes that data planes carry, each with the instances that run on it."""
        instances = [selection.instances(rows.plugins, name) for name in _PLUGINS]
        before = self._routes if instances == self._instances else {}
        self._routes, self._instances = {}, instances
        for row in rows.routes:
            if row.service_id is not None and row.service_id not in self._services:
                continue
            held = before.get(row.id)
            if held is None or held[0] is not row:
                if not selection.families(tuple(row.protocols)):
                    continue  # tcp, grpc, …: for Kong's sake, and not to match HTTP by accident
                chosen = tuple(
                    selection.select(of_one, row.id, row.service_id, row.protocols)
                    for of_one in instances
                )
                held = (row, chosen, _route(row, chosen))
            self._routes[row.id] = held

    def _in_use(self) -> list[list[PluginRow]]:
        """Of each of _PLUGINS, the instances that run on some route, in the order of their ids."""
        found = []
        for place in range(len(_PLUGINS)):
            rows = [held[1][place] for held in self._routes.values()]
            in_use = {row.id: row for row in rows if row is not None}
            found.append([in_use[plugin_id] for plugin_id in sorted(in_use)])
        return found


def build(rows: ConfigRows) -> wire.Snapshot:
    """One snapshot by itself: see `Builder.build`."""
    return Builder().build(rows)


def _made(
    rows: Iterable[_Row],
    before: dict[str, tuple[_Row, _Struct]],
    make: Callable[[_Row], _Struct],
) -> dict[str, tuple[_Row, _Struct]]:
    """Each row with its struct, by id; the one of `before` where the row is the same."""
    found: dict[str, tuple[_Row, _Struct]] = {}
    for row in rows:
        held = before.get(row.id)
        found[row.id] = held if held is not None and held[0] is row else (row, make(row))
    return found


@lru_cache(maxsize=4096)  # tokens name the same few credentials and plugins
def id_bytes(uuid: str) -> bytes:
    """The 16 bytes of a UUID's text."""
    return bytes.fromhex(uuid.replace("-", ""))


def _certificate(row: CertificateRow) -> wire.Certificate:
    names = sorted({name.lower() for name in row.snis})
    return wire.Certificate(
        id_bytes(row.id), row.cert, row.key, row.cert_alt, row.key_alt, snis=names
    )


def _authority(row: CACertificateRow) -> wire.CaCertificate:
    return wire.CaCertificate(id_bytes(row.id), row.cert)


def _public_key(row: SigningKeyRow) -> wire.PublicKey:
    jwk = json.dumps(row.public_jwk, sort_keys=True, separators=(",", ":"))
    return wire.PublicKey(row.kid, row.alg, jwk, until=row.gone_at or 0.0)


def _upstreams(rows: ConfigRows, named: list[UpstreamRow]) -> list[wire.Upstream]:
    """Each with those of its targets that may have traffic, oldest first."""
    targets: dict[str, list[TargetRow]] = {row.id: [] for row in named}
    for row in rows.targets:
        if row.upstream_id in targets and row.weight and not row.down:
            targets[row.upstream_id].append(row)
    return [_upstream(row, targets[row.id]) for row in named]


def _upstream(row: UpstreamRow, targets: list[TargetRow]) -> wire.Upstream:
    shown = row.client_certificate_id
    return wire.Upstream(
        id=id_bytes(row.id),
        name=row.name,
        targets=[_target(t) for t in sorted(targets, key=lambda t: (t.created_at, t.id))],
        host_header=row.host_header,
        client_certificate=None if shown is None else id_bytes(shown),
    )


def _target(row: TargetRow) -> wire.Target:
    host, _, port = row.target.rpartition(":")
    return wire.Target(host.removeprefix("[").removesuffix("]"), int(port), row.weight)


def _issuers(rows: ConfigRows) -> list[wire.Issuer]:
    """Metadata is answered whether or not a route leads to the instance."""
    return [
        wire.Issuer(id_bytes(plugin_id), host, path, resource)
        for (host, path, resource), plugin_id in issuers(rows).items()
    ]


def _service(row: ServiceRow, authorities: Collection[str]) -> wire.Service:
    """`authorities`: the CA certificates that there are; one that is listed need not be."""
    trusted = None
    if row.ca_certificates:  # none listed: the system's store; none of them there: nobody
        trusted = [id_bytes(id_) for id_ in row.ca_certificates if id_ in authorities]
    shown = row.client_certificate_id
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
        tls_verify=row.tls_verify,
        tls_verify_depth=row.tls_verify_depth,
        ca_certificates=trusted,
        client_certificate=None if shown is None else id_bytes(shown),
    )


def _route(row: RouteRow, chosen: _Chosen) -> wire.Route:
    oauth2, limit, session = (None if p is None else id_bytes(p.id) for p in chosen)
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
        oauth2=oauth2,
        size_limit=limit,
        session=session,
    )


def _consumer(row: ConsumerRow) -> wire.Consumer:
    return wire.Consumer(id_bytes(row.id), row.username, row.custom_id)


def _credential(row: CredentialRow) -> wire.Credential:
    return wire.Credential(id_bytes(row.id), row.client_id, id_bytes(row.consumer_id))


def _policies(plugins: list[PluginRow], consumers: Sequence[ConsumerRow]) -> list[wire.OAuth2]:
    """What the data plane must know of each `oauth2` instance in use."""
    ids = {c.id: c.id for c in consumers}
    names = {c.username: c.id for c in consumers if c.username is not None}
    found = []
    for plugin in plugins:
        config = plugin.config
        policy = {n: config[n] for n in _OAUTH2_FIELDS & config.keys() if config[n] is not None}
        policy["carriers"] = tuple(policy.get("carriers", ("header", "query")))
        anonymous = policy.pop("anonymous", None) or None
        consumer = ids.get(anonymous) or names.get(anonymous) if anonymous else None
        found.append(
            wire.OAuth2(
                plugin_id=id_bytes(plugin.id),
                anonymous=None if consumer is None else id_bytes(consumer),
                anonymous_missing=anonymous if consumer is None else None,
                **policy,
            )
        )
    return found
