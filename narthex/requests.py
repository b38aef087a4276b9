"""One HTTP request from the command line: to the Admin API, or to a token endpoint."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from narthex.fault import Fault

TIMEOUT_SECONDS = 30.0
BODY_BYTES_MAX = 64 * 1024 * 1024  # of an answer


@dataclass(frozen=True)
class Reply:
    status: int
    body: str

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> dict[str, Any]:
        """The JSON object of the body, or one that says what came instead."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"message": self.body.strip()[:200]}


def client_tls(insecure: bool) -> ssl.SSLContext:
    """TLS for a client; `insecure` takes any certificate, such as our self-signed one."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def send(
    method: str,
    url: str,
    body: str | None = None,
    content_type: str = "application/json",
    *,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    insecure: bool = False,
    timeout: float = TIMEOUT_SECONDS,
    distrusted: str = "--insecure takes it all the same",
) -> Reply:
    """The answer to one request.  No proxy, no redirect.

    `distrusted` is what to do about a certificate that cannot be trusted.

    Raises:
        Fault: not an http(s) URL, nobody there, or a certificate that cannot be trusted.
    """
    connection, path = _connection(url, tls or client_tls(insecure), timeout)
    sent = dict(headers or {}) | ({} if body is None else {"Content-Type": content_type})
    try:
        connection.request(method, path, None if body is None else body.encode(), sent)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(BODY_BYTES_MAX).decode(errors="replace"))
    except ssl.SSLCertVerificationError as error:
        raise Fault(
            f"{_shown(url)}: its certificate cannot be trusted ({error.verify_message}); "
            f"{distrusted}"
        ) from None
    except ValueError:  # of a header or of a path
        raise Fault(f"{_shown(url)}: what is to be sent holds control characters") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Fault(f"{_shown(url)}: no answer: {reason}") from None
    finally:
        connection.close()


def _connection(
    url: str, tls: ssl.SSLContext, timeout: float
) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme not in ("http", "https"):
        raise Fault(f"{_shown(url)!r} is not a URL; expected http:// or https:// and a host")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout), path
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=tls), path


def _shown(url: str) -> str:
    """A URL as an error may show it: a query can hold a secret."""
    return url.partition("?")[0]
