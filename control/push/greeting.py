"""The first messages of a connection: who is there, and does it know LINK_SECRET."""

from __future__ import annotations

import asyncio
import hmac
import secrets

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from dataplane import wire

HELLO_SECONDS = 5.0  # for Hello, and again for Proof
NODE_ID_BYTES = 16
NAME_CHARS_MAX = 255


class Unwelcome(Exception):
    """The peer is refused; the text is sent to it and logged."""


async def greet(
    connection: ServerConnection, secret: bytes, *, certificates: bool, software: str
) -> wire.Hello:
    """Hello, Welcome, Proof.  With `certificates` the peer's has been checked and proves enough.

    Raises:
        Unwelcome: not a data plane of ours.
        TimeoutError: nothing came for HELLO_SECONDS.
    """
    hello = await receive(connection)
    if not isinstance(hello, wire.Hello):
        raise Unwelcome("the first message has to be Hello")
    if hello.wire[0] != wire.WIRE_MAJOR:
        raise Unwelcome(
            f"this control plane speaks wire {wire.WIRE_MAJOR}, the data plane {hello.wire[0]}: "
            "run the same release on both"
        )
    if len(hello.nonce) != wire.NONCE_BYTES or len(hello.node_id) != NODE_ID_BYTES:
        raise Unwelcome("Hello has a nonce or a node id of the wrong length")
    if len(hello.name) > NAME_CHARS_MAX or len(hello.software) > NAME_CHARS_MAX:
        raise Unwelcome("Hello has a name that is too long")
    nonce = secrets.token_bytes(wire.NONCE_BYTES)
    ours = b"" if certificates else wire.prove(secret, "control", hello.nonce, nonce)
    await connection.send(wire.encode(wire.Welcome(nonce, ours, version=software)))
    try:
        proof = await receive(connection)
    except ConnectionClosed:
        if certificates:
            raise
        raise Unwelcome(
            "the data plane left when we proved LINK_SECRET: set the same on both ends"
        ) from None
    if not isinstance(proof, wire.Proof):
        raise Unwelcome("the second message has to be Proof")
    expected = wire.prove(secret, "data", hello.nonce, nonce)
    if not certificates and not hmac.compare_digest(proof.proof, expected):
        raise Unwelcome("the data plane did not prove LINK_SECRET: set the same on both ends")
    return hello


async def receive(connection: ServerConnection) -> wire.ToControl:
    async with asyncio.timeout(HELLO_SECONDS):
        return decode(await connection.recv())


def decode(data: str | bytes) -> wire.ToControl:
    """One message of a data plane's; Unwelcome when it is none."""
    try:
        return wire.decode_to_control(data if isinstance(data, bytes) else data.encode())
    except msgspec.MsgspecError as error:
        raise Unwelcome(f"not a message of the link: {error}") from None
