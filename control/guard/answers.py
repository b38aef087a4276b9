"""What the guard answers by itself, in Kong's form."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.types import Send

Header = tuple[bytes, bytes]


async def refuse(send: Send, status: int, message: str, headers: Sequence[Header] = ()) -> None:
    """`{"message": …}`; the connection ends with it, for the body may not have been read."""
    body = json.dumps({"message": message}).encode()
    head = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
