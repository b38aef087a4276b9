"""The Admin API as the command line asks it: where it is, and the token that it wants.

Environment variables of whoever runs a command, beside the settings shared with the gateway:

- NARTHEX_ADMIN_URL: where it is, when not where ADMIN_LISTEN says
- NARTHEX_ADMIN_TOKEN: as `narthex admin-token` made it
- NARTHEX_ADMIN_CA: PEM file of the certificates to trust for https, instead of the system's; a
  self-signed certificate is its own. There is no way to trust any: the token would go to anyone.
"""

from __future__ import annotations

import os
import ssl
from functools import cache

from control.settings import Settings
from narthex.fault import Fault
from narthex.requests import TIMEOUT_SECONDS, Reply, send

URL = "NARTHEX_ADMIN_URL"
TOKEN = "NARTHEX_ADMIN_TOKEN"  # the variable, not its value
CA = "NARTHEX_ADMIN_CA"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class NotAllowed(Fault):
    """The Admin API wants another token than it was shown."""


def admin_url(settings: Settings) -> str:
    """Where the Admin API answers: NARTHEX_ADMIN_URL, else a listener, a plain local one first."""
    if given := os.environ.get(URL):
        return given.rstrip("/")
    listen = min(settings.admin_listen, key=lambda one: (one.tls, not one.loopback))
    host = ANY_ADDRESS.get(listen.host, listen.host)
    scheme = "https" if listen.tls else "http"
    return (
        f"{scheme}://[{host}]:{listen.port}" if ":" in host else f"{scheme}://{host}:{listen.port}"
    )


def ask(
    method: str,
    url: str,
    body: str | None = None,
    content_type: str = "application/json",
    *,
    timeout: float = TIMEOUT_SECONDS,
) -> Reply:
    """As `send`, with the token of the environment.

    Raises:
        NotAllowed: there is none and one is wanted, or it is wrong.
        Fault: as `send`.
    """
    token = os.environ.get(TOKEN)
    reply = send(
        method,
        url,
        body,
        content_type,
        headers={"Kong-Admin-Token": token} if token else None,
        tls=_tls(os.environ.get(CA)) if url.startswith("https:") else None,
        timeout=timeout,
        distrusted=f"{CA} names a PEM file of certificates to trust",
    )
    if reply.status == 401:
        what = "does not know the token in" if token else "wants a token; put one into"
        raise NotAllowed(f"the Admin API {what} {TOKEN} (`narthex admin-token` makes one)")
    return reply


@cache
def _tls(trusted: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=trusted or None)
    except OSError as error:
        raise Fault(f"{CA} {trusted}: cannot be used: {error.strerror or error}") from None
    if trusted:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
