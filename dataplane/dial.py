"""Reaching a control plane: TLS, the proofs of both ends, and how long to wait between attempts."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import ssl as tls
from pathlib import Path

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from dataplane import wire

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 5.0
HELLO_SECONDS = 5.0  # for each message until the proofs are through
REASON_CHARS_MAX = 1000


class LinkFault(Exception):
    """This connection is of no use; the text is for the operator."""


def client_tls(cert: Path, key: Path, ca: Path) -> tls.SSLContext:
    """TLS 1.3 with our certificate; the control plane's must be from `ca` and for its host name.

    Raises OSError or ssl.SSLError when a file cannot be used.
    """
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.minimum_version = tls.TLSVersion.TLSv1_3
    context.load_cert_chain(cert, key, password="")
    context.load_verify_locations(ca)
    return context


def backoff_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row: doubling, with full jitter."""
    ceiling: float = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2 ** min(failures, 16))
    spread = secrets.randbelow(1_000_001) / 1_000_000
    return BACKOFF_SECONDS_MIN + (ceiling - BACKOFF_SECONDS_MIN) * spread


async def introduce(
    connection: ClientConnection, hello: wire.Hello, secret: bytes | None
) -> wire.ToData:
    """Hello, Welcome, Proof; returns the first message that follows.

    `secret` None: certificates have proved both ends.

    Raises:
        LinkFault: refused, another wire version, or no proof of LINK_SECRET.
        TimeoutError: nothing came for HELLO_SECONDS.
    """
    if connection.subprotocol != wire.SUBPROTOCOL:
        raise LinkFault(f"what answers there does not speak {wire.SUBPROTOCOL}")
    await connection.send(wire.encode(hello))
    welcome = await _receive(connection)
    if not isinstance(welcome, wire.Welcome) or len(welcome.nonce) != wire.NONCE_BYTES:
        raise LinkFault("the control plane did not begin with Welcome")
    if welcome.wire[0] != wire.WIRE_MAJOR:
        raise LinkFault(
            f"the control plane speaks wire {welcome.wire[0]}, this data plane "
            f"{wire.WIRE_MAJOR}: run the same release on both"
        )
    proof = b""
    if secret is not None:
        expected = wire.prove(secret, "control", hello.nonce, welcome.nonce)
        if not hmac.compare_digest(welcome.proof, expected):
            raise LinkFault(
                "the control plane did not prove LINK_SECRET: set the same on both ends"
            )
        proof = wire.prove(secret, "data", hello.nonce, welcome.nonce)
    await connection.send(wire.encode(wire.Proof(proof)))
    return await _receive(connection)


async def _receive(connection: ClientConnection) -> wire.ToData:
    async with asyncio.timeout(HELLO_SECONDS):
        return decode(await connection.recv())


def decode(data: str | bytes) -> wire.ToData:
    """One message of the control plane's; LinkFault when it is none, or says Refused."""
    try:
        message = wire.decode_to_data(data if isinstance(data, bytes) else data.encode())
    except msgspec.MsgspecError as error:
        raise LinkFault(f"the control plane sent what is no message: {error}") from None
    if isinstance(message, wire.Refused):
        raise LinkFault(f"the control plane refused: {message.reason[:REASON_CHARS_MAX]}")
    return message


def why_lost(error: Exception) -> str:
    """One line for the operator."""
    if isinstance(error, InvalidStatus):
        text = (error.response.body or b"").decode("utf-8", "replace").strip()
        return f"the control plane answered {error.response.status_code} {text[:REASON_CHARS_MAX]}"
    if isinstance(error, TimeoutError):
        return "the control plane was silent for too long"
    return str(error) or type(error).__name__
