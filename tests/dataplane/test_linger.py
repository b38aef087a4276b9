"""A client gets the whole of its answer, however slowly it reads and whatever it ends meanwhile."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from tests.dataplane.engine_kit import POLL_SECONDS, SECONDS, Line, Rig, handshake, request, until

LINGER_SECONDS = 2.0  # LINGER_MS
PENDING = 400_000  # bytes of answers, about, that the engine keeps after the kernel took its part


def slow_socket(port: int) -> socket.socket:
    """A client's socket with a small window."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(SECONDS)
    sock.connect(("127.0.0.1", port))
    return sock


def kernel_room() -> int:
    """How many bytes kernels take for a client that reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, slow_socket(server.getsockname()[1]):
        end, _ = server.accept()
        end.setblocking(False)
        sent = 0
        with end, contextlib.suppress(BlockingIOError):
            while True:
                sent += end.send(bytes(65536))
    return sent


class Owed:
    """A client that has read nothing of its answers, of which the engine still holds some."""

    def __init__(self, rig: Rig, *last_fields: bytes) -> None:
        rig.open_route()
        self.count = kernel_room() // 900_000 + 1
        self.body = bytes((kernel_room() + PENDING) // self.count)
        self.client = Line(slow_socket(rig.port))
        rig.lines.append(self.client)
        for number in range(self.count):
            self.client.send(handshake(b"/", *(last_fields if number == self.count - 1 else ())))
            upstream = rig.upstream.accept()
            upstream.head()
            upstream.send(b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % len(self.body))
            upstream.send(self.body)
            rig.record("refused")

    def all_come(self) -> bool:
        answers = [self.client.answer() for _ in range(self.count)]
        return all((head.status, body) == (403, self.body) for head, body in answers)


def test_client_that_ended_its_side_gets_the_whole_answer(rig: Rig) -> None:
    owed = Owed(rig)
    owed.client.shut()
    assert owed.all_come()
    assert owed.client.rest() == b""


def test_client_that_ended_its_side_within_a_next_request_gets_the_whole_answer(rig: Rig) -> None:
    owed = Owed(rig)
    owed.client.send(b"GET / HTT")
    owed.client.shut()
    assert owed.all_come()
    assert owed.client.rest() == b""


@pytest.mark.parametrize("ends", [False, True], ids=["open", "half-closed"])
def test_slow_client_gets_the_whole_of_a_last_answer(rig: Rig, ends: bool) -> None:
    """The time a peer has to end its side runs from our last byte, not from our first."""
    owed = Owed(rig, b"Connection: close")
    if ends:
        owed.client.shut()
    deadline = time.monotonic() + LINGER_SECONDS + 0.5
    while time.monotonic() < deadline:  # it may not be given up while it is slow
        assert rig.count("connections") > 0
        time.sleep(POLL_SECONDS)
    assert owed.all_come()
    assert owed.client.rest() == b""


def test_client_gets_the_whole_of_its_answer_while_the_gateway_drains(rig: Rig) -> None:
    owed = Owed(rig)
    rig.engine.drain(0.0)
    until(lambda: not accepts(rig))
    assert owed.all_come()
    assert owed.client.rest() == b""


def accepts(rig: Rig) -> bool:
    """Whether the listeners are still open."""
    try:
        Line(socket.create_connection(("127.0.0.1", rig.port), SECONDS)).close()
    except OSError:
        return False
    return True


def test_client_that_goes_on_after_a_large_answer_is_served(rig: Rig) -> None:
    owed = Owed(rig)
    owed.client.send(request(b"/"))
    assert owed.all_come()
    assert owed.client.answer()[0].status == 426
