"""The endpoint over sockets: as an upstream that clients reach, and as a client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from dataclasses import dataclass, field

from tests.compliance.autobahn.endpoint import Endpoint, agreed, choose

READ = 256 * 1024
HEAR_OUT_SECONDS = 2.0  # for the peer's end of TCP after our Close
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


class Refused(Exception):
    """The handshake failed; says how."""


def accept(key: str) -> str:
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(f"{key}{guid}".encode()).digest()).decode()


def headers(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line, and the fields by their names in small letters."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return first, fields


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoint: Endpoint
) -> None:
    """Echo until one side ends; after our Close, hear the peer out so that no reset costs it."""
    with contextlib.suppress(OSError):
        while not endpoint.closed:
            data = await reader.read(READ)
            if not data:
                return
            endpoint.feed(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAR_OUT_SECONDS):
                while await reader.read(READ):
                    pass


@dataclass
class EchoUpstream:
    """Echoes for whoever connects and keeps every connection's endpoint, in their order."""

    endpoints: list[Endpoint] = field(default_factory=list)

    async def serve(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", port, limit=READ)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                _, got = headers(await reader.readuntil(b"\r\n\r\n"))
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
                return
            if "sec-websocket-key" not in got:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                return
            chosen = choose(got.get("sec-websocket-extensions", ""))
            extensions = f"Sec-WebSocket-Extensions: {chosen[1]}\r\n" if chosen else ""
            writer.write(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept(got['sec-websocket-key'])}\r\n{extensions}\r\n"
                "".encode()
            )
            deflate = chosen[0] if chosen else None
            endpoint = Endpoint(writer.write, client=False, deflate=deflate)
            self.endpoints.append(endpoint)
            await converse(reader, writer, endpoint)
        finally:
            writer.close()


async def echo_client(port: int, path: str, header: str = "", *, deflate: bool = False) -> Endpoint:
    """Connect, echo until the connection ends, and say what arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=READ)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        more = (OFFER if deflate else "") + (f"{header}\r\n" if header else "")
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"{more}\r\n".encode()
        )
        try:
            async with asyncio.timeout(10):
                first, got = headers(await reader.readuntil(b"\r\n\r\n"))
        except (TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise Refused(f"no answer ({type(error).__name__})") from error
        if " 101 " not in first or got.get("sec-websocket-accept") != accept(key):
            raise Refused(first)
        chosen = agreed(got.get("sec-websocket-extensions", ""))
        endpoint = Endpoint(writer.write, client=True, deflate=chosen)
        await converse(reader, writer, endpoint)
        return endpoint
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
