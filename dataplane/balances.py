"""A snapshot's upstreams, compiled: which services go to targets, and what these are.

An upstream's content is no part of what a policy's sessions are held to (`PolicyBox.own`): an edit
of targets decides where the next request goes, and closes nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from dataplane import wire
from dataplane.prepared import DEFAULT_PORTS, host_header, uuid_text

if TYPE_CHECKING:
    from dataplane._policies import BalanceBox, BalancedTarget, NameTable

WEIGHT_MAX = 65535

_encode = msgspec.msgpack.Encoder().encode


class Balances:
    """The upstreams of one snapshot.

    Raises:
        ValueError: two of one name, too many targets, or a target that cannot be.
    """

    def __init__(self, snapshot: wire.Snapshot, names: NameTable) -> None:
        self._names = names
        self._upstreams = {upstream.name: upstream for upstream in snapshot.upstreams}
        if len(self._upstreams) != len(snapshot.upstreams):
            raise ValueError("two upstreams have the same name")
        for upstream in snapshot.upstreams:
            _check(upstream)
        pairs = {pair.id: pair.cert + pair.key for pair in snapshot.certificates}
        self._digests = {
            upstream.name: _digest(upstream, pairs.get(upstream.client_certificate or b"", ""))
            for upstream in snapshot.upstreams
        }
        self._boxes: dict[tuple[str, int], BalanceBox] = {}  # by upstream and its default port

    def content(self, service: wire.Service | None) -> bytes:
        """What a policy of this service is made of beside the service itself, to be compared."""
        return b"" if service is None else self._digests.get(service.host, b"")

    def box(self, service: wire.Service | None) -> BalanceBox | None:
        """The targets that a service's traffic goes to; None: to its host."""
        upstream = None if service is None else self._upstreams.get(service.host)
        if service is None or upstream is None:
            return None
        port = DEFAULT_PORTS[service.protocol]
        box = self._boxes.get((upstream.name, port))
        if box is None:
            content = self._digests[upstream.name] + port.to_bytes(2)
            box = self._names.balance(content, _targets(upstream, service.protocol))
            self._boxes[upstream.name, port] = box
        return box


def _check(upstream: wire.Upstream) -> None:
    label = f"upstream {upstream.name[:100]!r}"
    if len(upstream.targets) > wire.TARGETS_MAX:
        raise ValueError(f"{label} has more than {wire.TARGETS_MAX} targets")
    for target in upstream.targets:
        if not (1 <= target.port <= 65535 and 1 <= target.weight <= WEIGHT_MAX):
            raise ValueError(f"{label}: port {target.port}, weight {target.weight}")


def _digest(upstream: wire.Upstream, pair: str) -> bytes:
    return hashlib.sha256(_encode(upstream) + pair.encode()).digest()


def _targets(upstream: wire.Upstream, protocol: str) -> list[BalancedTarget]:
    found = []
    for target in upstream.targets:
        try:
            header, name = _host(upstream, target, protocol)
        except ValueError as error:
            raise ValueError(f"upstream {uuid_text(upstream.id)}: {error}") from None
        found.append((target.host, target.port, target.weight, header, name))
    return found


def _host(upstream: wire.Upstream, target: wire.Target, protocol: str) -> tuple[bytes, bytes]:
    """The Host that a target is asked for, and the name in it.

    An upstream's own `host_header` gets the target's port like a host would, unless it has one.
    """
    if upstream.host_header is None:
        header = host_header(target.host, target.port, protocol)
        return header, target.host.removesuffix(".").encode()
    host_header(target.host, target.port, protocol)  # it is asked for nowhere, yet must be one
    name, port = split_port(upstream.host_header)
    written = host_header(name, target.port if port is None else port, protocol)
    return written, name.removeprefix("[").removesuffix("]").removesuffix(".").encode()


def split_port(host: str) -> tuple[str, int | None]:
    """`name[:port]`, an IPv6 address in brackets where a port is behind it."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal():
        return host, None
    if ":" in name and not name.startswith("["):
        return host, None  # an IPv6 address
    return name, int(port)
