"""Snapshots for tests: small ones by hand, with ids that read as numbers."""

from __future__ import annotations

from typing import Any

from dataplane import wire
from dataplane._core import Reclaimer
from dataplane._policies import NameTable, PolicyBox
from dataplane._tables import Tables
from dataplane.compile import compile_snapshot


def uid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def service(number: int = 1, **fields: Any) -> wire.Service:
    return wire.Service(uid(number), **{"protocol": "ws", "host": "up", "port": 9000, **fields})


def route(number: int = 1, **fields: Any) -> wire.Route:
    return wire.Route(uid(number), **{"protocols": ["ws", "wss"], **fields})


def snapshot(*parts: Any, version: int = 1) -> wire.Snapshot:
    """A snapshot of services, routes, plugins, consumers and credentials in any order."""

    def of(kind: type) -> list[Any]:
        return [part for part in parts if isinstance(part, kind)]

    return wire.Snapshot(
        b"epoch",
        version,
        bytes(range(32)),
        of(wire.Service),
        of(wire.Route),
        of(wire.OAuth2),
        of(wire.Consumer),
        of(wire.Credential),
        of(wire.SizeLimit),
        of(wire.SessionRules),
    )


def new_names() -> tuple[NameTable, Reclaimer]:
    reclaimer = Reclaimer()
    return NameTable(reclaimer), reclaimer


def tables_of(*parts: Any, previous: Tables | None = None) -> Tables:
    return compile_snapshot(snapshot(*parts), previous, new_names()[0])


def box_of(tables: Tables, number: int = 1) -> PolicyBox:
    return next(box for box in tables.boxes.values() if box.route == uid(number))
