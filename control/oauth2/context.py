"""Where a request to the token endpoint was met: what routing found out before it came here."""

from __future__ import annotations

from dataclasses import dataclass


# Not frozen: one is made for each request, and a frozen one costs three times as much to make.
@dataclass(slots=True)
class TokenContext:
    """Route, plugin instance and connection of one request; ids are UUIDs as text.

    In the ASGI scope under `narthex` when the request came over the link.
    """

    plugin_id: str
    route_id: str
    service_id: str | None
    client_ip: str
    tls: bool  # of the connection the client made
    peer_trusted: bool  # the socket's peer is one of TRUSTED_IPS; nobody else's headers count
    request_id: str
