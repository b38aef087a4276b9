"""`narthex connect`: lines of stdin out as messages, messages in as lines of stdout."""

from __future__ import annotations

import ssl
import sys
import threading
from typing import IO

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from narthex.fault import Fault
from narthex.requests import client_tls

OPEN_SECONDS = 15.0
REPLY_SECONDS = 15.0  # for the answer to --message
QUIET_SECONDS = 1.0  # after the end of stdin: how long nothing may come before we close
NORMAL_CODES = (1000, 1001)


def open_websocket(
    url: str, headers: list[tuple[str, str]], subprotocols: list[str], insecure: bool
) -> ClientConnection:
    """An open WebSocket, its own token never in an error.

    Raises:
        Fault: the handshake was refused (with what the server said), or nobody is there.
    """
    try:
        return connect(
            url,
            additional_headers=headers,
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            ssl=client_tls(insecure) if url.startswith("wss:") else None,
            proxy=None,
            open_timeout=OPEN_SECONDS,
        )
    except InvalidURI:
        raise Fault(
            f"{url.partition('?')[0]!r} is not a WebSocket URL; expected ws:// or wss://"
        ) from None
    except InvalidStatus as error:
        answer = error.response
        body = (answer.body or b"").decode(errors="replace").strip()
        raise Fault(f"refused: {answer.status_code} {answer.reason_phrase}: {body}") from None
    except ssl.SSLCertVerificationError as error:
        raise Fault(
            f"{url.partition('?')[0]}: its certificate cannot be trusted ({error.verify_message}); "
            "--insecure takes it all the same"
        ) from None
    except (OSError, InvalidHandshake, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise Fault(f"{url.partition('?')[0]}: cannot connect: {reason}") from None


def ask(socket: ClientConnection, message: str) -> None:
    """Send one message, print the one that comes back."""
    try:
        socket.send(message)
        print(shown(socket.recv(REPLY_SECONDS)), flush=True)
    except TimeoutError:
        socket.close()
        raise Fault(f"no message came back within {REPLY_SECONDS:.0f} seconds") from None
    except ConnectionClosed as closed:
        raise Fault(ending(closed)) from None


def talk(socket: ClientConnection, lines: IO[str]) -> None:
    """Both ways until either side ends.  A closed terminal or pipe ends ours once it is quiet.

    Raises:
        Fault: the server ended it with anything but 1000 or 1001.
    """
    ended = threading.Event()
    threading.Thread(target=_send_lines, args=(socket, lines, ended), daemon=True).start()
    try:
        while True:
            try:
                print(shown(socket.recv(QUIET_SECONDS)), flush=True)
            except TimeoutError:
                if ended.is_set():
                    return
    except ConnectionClosed as closed:
        if closed.rcvd is None or closed.rcvd.code not in NORMAL_CODES:
            raise Fault(ending(closed)) from None
        print(ending(closed), file=sys.stderr)


def _send_lines(socket: ClientConnection, lines: IO[str], ended: threading.Event) -> None:
    try:
        for line in lines:
            socket.send(line.removesuffix("\n"))
    except ConnectionClosed:
        pass  # the receiving side says so
    finally:
        ended.set()


def shown(message: str | bytes) -> str:
    """A message for the terminal; bytes as hex, told apart."""
    return message if isinstance(message, str) else f"({len(message)} bytes) {message.hex()}"


def ending(closed: ConnectionClosed) -> str:
    """Who ended it, with which code and why."""
    if closed.rcvd is None:
        return "the connection was lost"
    return f"closed by the server: {closed.rcvd.code} {closed.rcvd.reason}".rstrip()
