"""Targets: the addresses behind an upstream.  spec/admin-api.md §2.

A target is stored as `host:port`, an IPv6 address in brackets and in full, so that one address
cannot be two targets: decK, which finds a target by its text, writes it so before it compares. Its
paths are all below its upstream.
"""

import ipaddress
import re
from typing import Any

from sqlmodel import Session

from control.admin.errors import Fields
from control.admin.names import check_host, is_address
from control.admin.resource import Resource, Values, Write
from control.admin.schema import Field, Schema, foreign, identity, tags_field, timestamp
from control.store import queries
from control.store.rows import Row
from control.store.tables import Target

PORT_DEFAULT = 8000
TARGETS_MAX = 1000  # of one upstream, as data planes have it: they look at each for every request
_PORT = re.compile(r"(?P<host>.*):(?P<port>[0-9]{1,5})", re.DOTALL)


def split_target(text: str) -> tuple[str, int]:
    """The host, an IPv6 address without its brackets, and the port of a target.

    Raises:
        ValueError: it is not `host`, `host:port` or the like; the text says what is wrong.
    """
    host, port = text, PORT_DEFAULT
    found = None if is_address(text) else _PORT.fullmatch(text)
    if found is not None:
        host, port = found["host"], int(found["port"])
        if ":" in host and not host.startswith("[") and is_address(host):
            raise ValueError("an IPv6 address with a port needs brackets: [::1]:8000")
    if not 0 < port <= 65535:
        raise ValueError("the port must be between 1 and 65535")
    if check_host(host) is not None:
        raise ValueError("not a valid hostname or ip address")
    return host.removeprefix("[").removesuffix("]"), port


def normal_target(text: str) -> str:
    """A target as it is stored."""
    host, port = split_target(text)
    if ":" in host:
        host = f"[{ipaddress.IPv6Address(host).exploded}]"
    return f"{host}:{port}"


def _check_target(text: str) -> str | None:
    try:
        split_target(text)
    except ValueError as error:
        return f"Invalid target ('{text}'); {error}"
    return None


SCHEMA = Schema(
    "targets",
    {
        "id": identity(),
        "created_at": timestamp("number"),
        "updated_at": timestamp("number"),
        "upstream": foreign("upstreams", required=True, from_below=False),
        "target": Field(type="string", required=True, check=_check_target, normal=normal_target),
        "weight": Field(type="integer", default=100, between=(0, 65535), nullable=False),
        "tags": tags_field(),
    },
)


class Targets(Resource):
    name = path = "targets"
    title = "Target"
    model = Target
    schema = SCHEMA
    endpoint_key = "target"
    key_within = "upstream"
    below_only = True

    def column_where(self, field: str, value: str) -> dict[str, Any]:
        """`host` finds what is stored as `host:8000`."""
        if field == "target" and _check_target(value) is None:
            value = normal_target(value)
        return {field: value}

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        owner = values["upstream"]["id"]
        if previous is not None and previous["upstream_id"] == owner:
            return {}
        if queries.count_targets(session, owner) < TARGETS_MAX:
            return {}
        return {"upstream": f"has {TARGETS_MAX} targets already, which is the most there can be"}

    def columns(self, values: Values, write: Write) -> Row:
        """With an operator's mark, which no edit changes: see `target_health`."""
        held = write.previous or {"down": False}
        return super().columns(values, write) | {"down": held["down"]}

    def compared(self, row: Row) -> Values:
        return self.shown(row) | {"down": row["down"]}

    def unique_keys(self, values: Values) -> list[tuple[Values, Row]]:
        """One address once in each upstream."""
        key = {name: values[name] for name in ("target", "upstream")}
        where = {"target": values["target"], "upstream_id": values["upstream"]["id"]}
        return [*super().unique_keys(values), (key, where)]
