"""What the OAuth endpoints share in taking a request: its body, its parameters, their threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from control.oauth2 import params
from control.oauth2.errors import PayloadTooLarge
from control.oauth2.params import BODY_BYTES_MAX, Sent
from control.store.session import wanted

THREADS_MAX = 8

T = TypeVar("T")


class StoreThreads:
    """Threads for the store's work, so that neither the event loop nor the Admin API waits.

    A request given up while it stands in line is taken out; one that runs commits nothing any more,
    unless it is just doing that.
    """

    def __init__(self, limit: int = THREADS_MAX) -> None:
        self._pool = ThreadPoolExecutor(limit, "issuer")

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns; it runs in one of the threads."""
        given_up = threading.Event()

        def in_thread() -> T:
            token = wanted.set(lambda: not given_up.is_set())
            try:
                return work()
            finally:
                wanted.reset(token)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, in_thread)
        except asyncio.CancelledError:
            given_up.set()
            raise


async def parameters(request: Request) -> Sent:
    """The parameters of a POST.

    Raises:
        PayloadTooLarge: the body is over the limit.
    """
    body = await _read_body(request)
    content_type = request.headers.get("content-type", "")
    return params.collect(request.scope["query_string"], content_type, body)


async def _read_body(request: Request) -> bytes:
    if isinstance(request, WholeRequest) and len(request.whole_body) <= BODY_BYTES_MAX:
        return request.whole_body
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
        raise PayloadTooLarge
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise PayloadTooLarge
    return body


class WholeRequest(Request):
    """A request that came over the link: all of it is there."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        super().__init__(scope)
        self.whole_body = body
        self._names = _Headers(scope["headers"])

    @property
    def headers(self) -> Headers:
        return self._names

    async def stream(self) -> AsyncGenerator[bytes, None]:
        yield self.whole_body


class _Headers(Headers):
    """Looked up in a dict: each request asks for a few, and most are not there."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        super().__init__(raw=raw)
        self._first = dict(reversed(raw))  # of several, the first

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _name(key) in self._first

    def get(self, key: str, default: Any = None) -> Any:
        value = self._first.get(_name(key))
        return default if value is None else value.decode("latin-1")

    def getlist(self, key: str) -> list[str]:
        return super().getlist(key) if key in self else []


@lru_cache(maxsize=64)
def _name(key: str) -> bytes:
    return key.lower().encode("latin-1")
