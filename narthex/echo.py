"""`narthex echo`: an upstream that sends every message back, for trying the gateway out."""

from __future__ import annotations

import asyncio
import signal

from websockets.asyncio.server import ServerConnection, serve

from narthex.fault import Fault

MESSAGE_BYTES_MAX = 16 * 1024 * 1024


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def _serve(host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        server = await serve(_echo, host, port, max_size=MESSAGE_BYTES_MAX, compression=None)
    except OSError as error:
        # asyncio words it with the address; the errno's own text is what a reader needs.
        raise Fault(f"echo: port {port}: {error.strerror or error}; choose another") from None
    async with server:
        where = server.sockets[0].getsockname()
        print(f"echo upstream on ws://{host}:{where[1]}/", flush=True)
        await stop.wait()


def run(host: str, port: int) -> None:
    """Serve until SIGTERM.

    Raises:
        Fault: the port cannot be listened on.
    """
    asyncio.run(_serve(host, port))
