"""A snapshot's certificates, compiled: what listeners show, how services speak to upstreams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataplane import wire
from dataplane._contexts import ServerNames
from dataplane.prepared import uuid_text

if TYPE_CHECKING:
    from dataplane._contexts import Context, Contexts

DEPTH_MAX = 64


def upstream_tls(
    snapshot: wire.Snapshot, contexts: Contexts
) -> dict[bytes, tuple[bytes, Context | None]]:
    """By service: what its context is made of, as bytes to compare, and the context.

    A service without TLS has none; one without a certificate of its own shows its upstream's, which
    is not among those bytes, as an edit of the upstream is none of the service. Raises ValueError
    for a certificate that cannot be used.
    """
    pairs = {pair.id: (pair.cert.encode(), pair.key.encode()) for pair in snapshot.certificates}
    authorities = {one.id: one.cert.encode() for one in snapshot.ca_certificates}
    lent = {upstream.name: upstream.client_certificate for upstream in snapshot.upstreams}
    found: dict[bytes, tuple[bytes, Context | None]] = {}
    for service in snapshot.services:
        if service.protocol not in ("https", "wss"):
            found[service.id] = (b"", None)
            continue
        depth = service.tls_verify_depth
        if depth is not None and not 0 <= depth <= DEPTH_MAX:
            raise ValueError(f"service {uuid_text(service.id)}: tls_verify_depth {depth}")
        own = service.client_certificate
        shown = own if own is not None else lent.get(service.host)
        pair = None if shown is None else pairs[shown]
        trusted = None
        if service.ca_certificates is not None:
            trusted = tuple(authorities[id_] for id_ in sorted(set(service.ca_certificates)))
        try:
            context = contexts.upstream(service.tls_verify is not False, depth, trusted, pair)
        except ValueError as error:
            raise ValueError(f"service {uuid_text(service.id)}: {error}") from None
        texts = (*(trusted or ()), *((pair or ()) if own is not None else ()))
        found[service.id] = (b"".join(texts), context)
    return found


def server_names(snapshot: wire.Snapshot, contexts: Contexts) -> ServerNames:
    """Which certificate listeners show for which name.

    Raises ValueError for a certificate that cannot be used.
    """
    found: dict[str, Context] = {}
    for pair in snapshot.certificates:
        if not pair.snis:
            continue
        pairs = [(pair.cert.encode(), pair.key.encode())]
        if pair.cert_alt is not None and pair.key_alt is not None:
            pairs.append((pair.cert_alt.encode(), pair.key_alt.encode()))
        try:
            context = contexts.server(tuple(pairs))
        except ValueError as error:
            raise ValueError(f"certificate {uuid_text(pair.id)}: {error}") from None
        found |= dict.fromkeys((name.lower().removesuffix(".") for name in pair.snis), context)
    return ServerNames(found)
