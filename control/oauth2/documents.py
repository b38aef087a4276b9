"""What anybody may read and keep for a while: the key set, and what issuer and resource offer.

Nothing in them is secret or about the caller, so that pages of every origin may read them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

METADATA_SECONDS = 300  # for which metadata may be kept


def answer(request: Request, document: Mapping[str, Any], max_age_seconds: int) -> Response:
    """The document, or 304 when the client has it still.  RFC 9110 §13.1.2, RFC 9111."""
    body = json.dumps(document, separators=(",", ":")).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "Cache-Control": f"public, max-age={max_age_seconds}",
        "ETag": tag,
        "X-Content-Type-Options": "nosniff",
        "Access-Control-Allow-Origin": "*",
    }
    if _has(request.headers.getlist("if-none-match"), tag):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type="application/json; charset=utf-8")


def _has(listed: list[str], tag: str) -> bool:
    """Whether If-None-Match names the tag, compared weakly."""
    held = [item.strip().removeprefix("W/") for line in listed for item in line.split(",")]
    return tag in held or "*" in held
