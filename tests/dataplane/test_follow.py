"""Live sessions and the grant they rest on: ends in time, moves, and nobody else's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    BINARY,
    CLOSE,
    CONSUMER,
    CREDENTIAL,
    MASK,
    PLUGIN,
    TEXT,
    Line,
    Rig,
    close,
    frame,
    handshake,
    masked,
    plugin,
    route,
    service,
    switching,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import uid

REVOKED, EXPIRED = b"token revoked", b"token expired"
LATEST_SECONDS = 1.0  # from the end of a right to its Close


def bearer(token: bytes) -> bytes:
    return b"Authorization: Bearer " + token


def digest(token: bytes) -> bytes:
    return wire.token_digest(token.decode())


class Sessions:
    """Sessions on a guarded route, each by a token of its number."""

    def __init__(self, rig: Rig, **plugin_fields: Any) -> None:
        self.rig = rig
        rig.guarded_route(plugin_fields)

    def open(self, number: int = 1, target: bytes = b"/", **claims: Any) -> tuple[Line, Line]:
        token = self.rig.token(number, **claims)
        return self.rig.session(bearer(token), target=target)

    def revoke(self, *numbers: int) -> None:
        """As the plane does: out of the cache first, then the sessions are told."""
        tokens = [digest(self.rig.token(number, put=False)) for number in numbers]
        for token in tokens:
            self.rig.engine.tokens.remove(token)
            self.rig.engine.tokens.put_negative(token, time.time() + 1000)
        self.rig.engine.end_tokens(tokens)

    def move(self, old: int, new: int, how: str = "refreshed", **fields: Any) -> None:
        given = {"expires_at": time.time() + 1000, **fields}
        self.rig.token(new, **given)
        olds = [digest(self.rig.token(old, put=False))]
        token = digest(self.rig.token(new, put=False))
        self.rig.engine.move_sessions(olds, token, given["expires_at"], how)


@pytest.fixture
def sessions(rig: Rig) -> Sessions:
    return Sessions(rig)


@pytest.fixture
def secured(self_signed: tuple[Path, Path]) -> Iterator[Rig]:
    made = Rig(1)
    made.use_tls(self_signed)
    made.engine.start()
    try:
        yield made
        made.close_lines()
        made.idle()
    finally:
        made.close_lines()
        made.end()


def echoes(client: Line, upstream: Line, text: bytes = b"still there") -> bool:
    client.send(up(TEXT, text))
    upstream.send(frame(TEXT, masked(upstream.frame().payload, b"\0\0\0\0")))
    return client.frame().payload == text


def told(client: Line, upstream: Line, code: int, reason: bytes) -> bool:
    """Whether both sides hear the end, and nothing else before; they answer it."""
    frames = client.frame(), upstream.frame()
    assert [one.opcode for one in frames] == [CLOSE, CLOSE]
    assert (frames[0].code, frames[0].payload[2:]) == (code, reason)
    assert (frames[1].code, frames[1].masked) == (1001, True)
    client.send(close(code, mask=MASK))
    upstream.send(close(1001))
    return client.rest() == upstream.rest() == b""


# --- ends ----------------------------------------------------------------------------------------


def test_revoked_token_ends_its_sessions_and_no_other(rig: Rig, sessions: Sessions) -> None:
    going = [sessions.open(1) for _ in range(3)]
    staying = [sessions.open(number) for number in (2, 3)]
    sessions.revoke(1)
    assert all(told(*pair, 4401, REVOKED) for pair in going)
    assert all(echoes(*pair) for pair in staying)
    record = rig.record("ended")
    assert (record["why"], record["ended_by"]) == ("token revoked", "gateway")
    assert (record["client_code"], record["upstream_code"]) == (4401, 1001)
    assert rig.count("ends")["revoked"] == 3


def test_session_ends_within_a_second_of_its_expiry_and_not_before(
    rig: Rig, sessions: Sessions
) -> None:
    ends_at = time.time() + 0.8
    pair, staying = sessions.open(1, expires_at=ends_at), sessions.open(2)
    assert told(*pair, 4401, EXPIRED)
    assert ends_at <= time.time() <= ends_at + LATEST_SECONDS
    assert echoes(*staying)
    assert rig.record("ended")["why"] == "token expired"
    assert rig.count("ends")["expired"] == 1


def test_expiry_is_not_put_off_by_the_grid_of_the_heartbeat(rig: Rig) -> None:
    """A ping interval of a minute has looks up to two seconds late."""
    sessions = Sessions(rig)
    ends_at = time.time() + 1.5
    pair = sessions.open(1, expires_at=ends_at)
    assert echoes(*pair)
    assert told(*pair, 4401, EXPIRED)
    assert time.time() <= ends_at + LATEST_SECONDS


def test_busy_session_ends_at_its_expiry(rig: Rig, sessions: Sessions) -> None:
    ends_at = time.time() + 0.8
    client, upstream = sessions.open(1, expires_at=ends_at)
    while time.time() < ends_at - 0.1:
        assert echoes(client, upstream)
    assert told(client, upstream, 4401, EXPIRED)
    assert time.time() <= ends_at + LATEST_SECONDS


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"credentials": [CREDENTIAL]}, b"credential is gone"),
        ({"consumers": [CONSUMER]}, b"consumer is gone"),
        ({"plugins": [uid(77)]}, b"issuer of the token is gone"),
    ],
    ids=["credential", "consumer", "plugin"],
)
def test_what_a_session_rests_on_is_gone(
    what: dict[str, Any], reason: bytes, rig: Rig, sessions: Sessions
) -> None:
    pair = sessions.open(1, plugin=uid(77))
    rig.engine.end_sessions(plugins=[uid(98)], consumers=[uid(98)], credentials=[uid(98)])
    assert echoes(*pair)
    rig.engine.end_sessions(**what)
    assert told(*pair, 4403, reason)
    assert rig.record("ended")["why"] == reason.decode()


def test_jwt_ends_by_its_id_under_whatever_digest(rig: Rig, sessions: Sessions) -> None:
    """S05: another string that verifies to the same jti."""
    going = [sessions.open(number, jti=uid(60)) for number in (1, 2)]
    staying = sessions.open(3, jti=uid(61))
    rig.engine.end_sessions(jtis=[uid(60)])
    assert all(told(*pair, 4401, REVOKED) for pair in going)
    assert echoes(*staying)


def test_session_of_an_anonymous_consumer_ends_with_the_consumer(rig: Rig) -> None:
    Sessions(rig, anonymous=CONSUMER)
    pair = rig.session()
    rig.engine.end_sessions(credentials=[CREDENTIAL])
    assert echoes(*pair)
    rig.engine.end_sessions(consumers=[CONSUMER])
    assert told(*pair, 4403, b"consumer is gone")


def test_session_ends_at_its_greatest_age_renewed_or_not(rig: Rig) -> None:
    sessions = Sessions(rig, session_max_age_ms=700)
    began = time.monotonic()
    pair = sessions.open(1)
    sessions.move(1, 2)
    assert told(*pair, 4401, b"session too old")
    assert 0.6 <= time.monotonic() - began <= 0.7 + LATEST_SECONDS
    assert rig.count("ends")["age"] == 1


def test_ends_are_ignored_where_the_policy_says_so(rig: Rig) -> None:
    sessions = Sessions(rig, session_expiry="ignore", anonymous=None)
    ends_at = time.time() + 0.5
    pair = sessions.open(1, expires_at=ends_at, plugin=uid(77))
    sessions.revoke(1)
    rig.engine.end_sessions([CREDENTIAL], [CONSUMER], [uid(77)])
    until(lambda: time.time() > ends_at + 0.3)
    assert echoes(*pair)
    assert set(rig.count("ends").values()) == {0}


def test_opaque_session_ends_with_its_token(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port, protocol="http"),
        route(paths=["/"], protocols=["http"]),
        plugin(),
    )
    pair = rig.session(bearer(rig.token(1)))
    rig.engine.end_tokens([digest(rig.token(1, put=False))])
    assert told(*pair, 4401, REVOKED)


def test_tls_session_ends_with_its_token(secured: Rig) -> None:
    sessions = Sessions(secured)
    client = secured.secure(handshake(b"/", bearer(secured.token(1))))
    upstream = secured.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    sessions.revoke(1)
    assert client.frame().code == 4401
    assert upstream.frame().code == 1001


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thousand_ends_leave_the_echo_of_others_flowing(workers: int) -> None:
    """ENDS_MAX a turn: an echo goes on in between."""
    with new_rig(workers, max_sessions=2000) as rig:
        sessions = Sessions(rig)
        going = [sessions.open(1) for _ in range(1000)]
        staying = sessions.open(2)
        sessions.revoke(1)
        assert echoes(*staying)
        assert all(told(*pair, 4401, REVOKED) for pair in going)
        assert echoes(*staying)
        assert rig.count("ends")["revoked"] == 1000


def test_many_tokens_revoked_at_once(rig: Rig, sessions: Sessions) -> None:
    going = [sessions.open(number) for number in range(1, 60)]
    staying = sessions.open(4000)
    sessions.revoke(*range(1, 3000))
    assert all(told(*pair, 4401, REVOKED) for pair in going)
    assert echoes(*staying)


def test_hunts_that_come_during_a_round_are_gone_on_with(rig: Rig, sessions: Sessions) -> None:
    pairs = [sessions.open(number, plugin=uid(100 + number)) for number in range(1, 41)]
    for number in range(1, 40):
        rig.engine.end_sessions(plugins=[uid(100 + number)])
    assert all(told(*pair, 4403, b"issuer of the token is gone") for pair in pairs[:39])
    assert echoes(*pairs[39])


def test_clock_set_forward_ends_what_has_expired(rig: Rig, sessions: Sessions) -> None:
    pair, staying = sessions.open(1), sessions.open(2, expires_at=0.0)
    right = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    rig.engine.set_clock_offset(right)
    assert echoes(*pair)
    rig.engine.set_clock_offset(right + 2000)
    assert told(*pair, 4401, EXPIRED)
    assert echoes(*staying)


def test_clock_that_runs_ahead_in_small_steps_ends_what_has_expired(
    rig: Rig, sessions: Sessions
) -> None:
    pair = sessions.open(1, expires_at=time.time() + 100)
    right = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for step in range(1, 1001):
        rig.engine.set_clock_offset(right + 0.15 * step)
    assert told(*pair, 4401, EXPIRED)


def test_clock_set_back_lets_sessions_live_on(rig: Rig, sessions: Sessions) -> None:
    ends_at = time.time() + 0.6
    pair = sessions.open(1, expires_at=ends_at)
    right = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    rig.engine.set_clock_offset(right - 1000)
    until(lambda: time.time() > ends_at + 0.3)
    assert echoes(*pair)


# --- in the middle of a frame --------------------------------------------------------------------


def test_frame_half_sent_to_the_client_is_completed_before_the_close(
    rig: Rig, sessions: Sessions
) -> None:
    client, upstream = sessions.open(1)
    whole = frame(TEXT, b"x" * 100)
    upstream.send(whole[:50])
    assert client.exactly(50) == whole[:50]
    sessions.revoke(1)
    assert upstream.frame().code == 1001
    upstream.send(whole[50:] + frame(TEXT, b"and no more"))
    assert client.exactly(52) == whole[50:]
    assert client.frame().code == 4401
    client.send(close(4401, mask=MASK))
    upstream.send(close(1001))
    assert client.rest() == b""


def test_frame_half_sent_to_the_upstream_is_completed_and_nothing_behind_it(
    rig: Rig, sessions: Sessions
) -> None:
    client, upstream = sessions.open(1)
    whole = up(TEXT, b"x" * 100)
    client.send(whole[:50])
    assert upstream.exactly(50) == whole[:50]
    sessions.revoke(1)
    assert client.frame().code == 4401
    client.send(whole[50:] + up(TEXT, b"and no more"), up(TEXT, b"nor this"))
    assert upstream.exactly(56) == whole[50:]
    assert upstream.frame().code == 1001
    client.send(close(4401, mask=MASK))
    upstream.send(close(1001))
    assert upstream.rest() == b""


@pytest.mark.parametrize("source", ["client", "upstream"])
def test_frame_not_completed_in_a_second_ends_that_tcp_without_a_close(
    source: str, rig: Rig, sessions: Sessions
) -> None:
    client, upstream = sessions.open(1)
    whole = up(TEXT, b"x" * 1000) if source == "client" else frame(TEXT, b"x" * 1000)
    sender, sink = (client, upstream) if source == "client" else (upstream, client)
    sender.send(whole[:500])
    assert sink.exactly(500) == whole[:500]
    sessions.revoke(1)
    began = time.monotonic()
    assert sender.frame().code == (4401 if source == "client" else 1001)
    sent, got = 500, b""
    sink.sock.settimeout(0.05)
    while time.monotonic() - began < 5:  # a byte now and then does not put it off
        try:
            more = sink.sock.recv(4096)
        except TimeoutError:
            if time.monotonic() - began < 0.9:
                sender.send(whole[sent : sent + 1])
                sent += 1
            continue
        if not more:
            break
        got += more
        assert whole[500:].startswith(got)
    assert 0.8 <= time.monotonic() - began <= 1 + LATEST_SECONDS
    sender.close()
    record = rig.record("ended")
    assert record["why"] == "token revoked"
    assert record["upstream_code" if source == "client" else "client_code"] is None


def test_large_spliced_frame_ends_where_it_ends(rig: Rig) -> None:
    sessions = Sessions(rig)
    client, upstream = sessions.open(1)
    one = frame(BINARY, b"z" * 200_000)
    for _ in range(3):  # from the second on without a copy
        upstream.send(one)
        assert client.exactly(len(one)) == one
    upstream.send(one[:100_000])
    assert client.exactly(100_000) == one[:100_000]
    assert rig.count("bytes_spliced") > 0
    sessions.revoke(1)
    assert upstream.frame().code == 1001
    upstream.send(one[100_000:] + one)
    assert client.exactly(100_000 + 10) == one[100_000:]
    assert client.frame().code == 4401


def test_stalled_reader_within_a_frame_is_cut_after_a_second(rig: Rig) -> None:
    with rig.session_policy(upstream_message_max=100_000_000):
        sessions = Sessions(rig)
    client, upstream = sessions.open(1)
    whole = frame(BINARY, b"y" * 100_000_000)
    upstream.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):  # the client reads nothing: the way is full
        upstream.sock.sendall(whole)
    upstream.sock.settimeout(10)
    sessions.revoke(1)
    began = time.monotonic()
    until(lambda: rig.engine.counters()["live_sessions"] == 0 or closes_seen(upstream))
    upstream.close()
    record = rig.record("ended")
    assert time.monotonic() - began <= 1 + 2 * LATEST_SECONDS
    assert (record["why"], record["client_code"]) == ("token revoked", None)
    client.close()


def closes_seen(upstream: Line) -> bool:
    """Whether our Close is among what came for the upstream."""
    return upstream.frame().opcode == CLOSE


# --- moves ---------------------------------------------------------------------------------------


def test_refresh_moves_its_own_sessions_and_no_neighbour(rig: Rig, sessions: Sessions) -> None:
    soon = time.time() + 1.2
    moved = [sessions.open(1, expires_at=soon) for _ in range(2)]
    neighbour = sessions.open(2, expires_at=soon)  # of the same credential
    sessions.move(1, 3)
    assert told(*neighbour, 4401, EXPIRED)
    assert all(echoes(*pair) for pair in moved)
    assert rig.count("moved") == 2
    # They rest on the new token now: the end of the old one is nothing to them.
    sessions.revoke(1)
    assert all(echoes(*pair) for pair in moved)
    sessions.revoke(3)
    assert all(told(*pair, 4401, REVOKED) for pair in moved)


def test_deadline_that_comes_nearer_is_kept(rig: Rig, sessions: Sessions) -> None:
    pair = sessions.open(1)
    ends_at = time.time() + 0.6
    sessions.move(1, 2, expires_at=ends_at)
    assert told(*pair, 4401, EXPIRED)
    assert ends_at <= time.time() <= ends_at + LATEST_SECONDS


def test_sessions_of_a_token_that_never_expires_move_to_one_that_does(
    rig: Rig, sessions: Sessions
) -> None:
    pair = sessions.open(1, expires_at=0.0)
    sessions.move(1, 2, "asked", expires_at=time.time() + 0.5)
    assert told(*pair, 4401, EXPIRED)


def test_with_follow_none_a_refresh_moves_no_deadline_and_ends_nothing(rig: Rig) -> None:
    sessions = Sessions(rig, session_follow="none")
    ends_at = time.time() + 1.0
    pair, other = sessions.open(1, expires_at=ends_at), sessions.open(2)
    sessions.move(1, 3)
    sessions.move(2, 4)
    sessions.revoke(1, 2)
    assert echoes(*pair) and echoes(*other)
    assert told(*pair, 4401, EXPIRED)
    assert ends_at <= time.time() <= ends_at + LATEST_SECONDS
    sessions.revoke(4)  # the grant is the new token's all the same
    assert told(*other, 4401, REVOKED)


def test_newer_token_moves_sessions_only_where_the_policy_says_so(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/follows"], oauth2=PLUGIN),
        route(id=uid(12), paths=["/stays"], oauth2=uid(13)),
        plugin(session_follow="credential"),
        plugin(id=uid(13)),
    )
    soon = time.time() + 1.0
    token = rig.token(1, expires_at=soon)
    follows = rig.session(bearer(token), target=b"/follows")
    stays = rig.session(bearer(token), target=b"/stays")
    new = digest(rig.token(2))
    rig.engine.move_sessions([digest(token)], new, time.time() + 1000, "renewed")
    assert told(*stays, 4401, EXPIRED)
    assert echoes(*follows)


def test_newer_token_that_ends_sooner_moves_nothing(rig: Rig) -> None:
    sessions = Sessions(rig, session_follow="credential")
    pair = sessions.open(1)
    sessions.move(1, 2, "renewed", expires_at=time.time() + 0.3)
    sessions.revoke(2)
    assert echoes(*pair)
    assert rig.count("moved") == 0


def test_revoked_tokens_sessions_never_move(rig: Rig, sessions: Sessions) -> None:
    pair = sessions.open(1)
    sessions.revoke(1)
    sessions.move(1, 2, "asked")
    assert told(*pair, 4401, REVOKED)
    assert rig.count("moved") == 0


def test_each_worker_says_how_many_sessions_moved(rig: Rig, sessions: Sessions) -> None:
    pairs = [sessions.open(1) for _ in range(10)]
    new = digest(rig.token(2))
    old = digest(rig.token(1, put=False))
    rig.engine.move_sessions([old], new, 0.0, "asked", 42)
    answers = [rig.question() for _ in range(rig.engine.worker_count)]
    assert {(kind, id_) for kind, id_, _ in answers} == {("moved", 42)}
    assert sum(count for _, _, count in answers) == 10
    assert all(echoes(*pair) for pair in pairs)


# --- handshakes under way ------------------------------------------------------------------------


@pytest.fixture
def waiting(rig: Rig, sessions: Sessions) -> Iterator[tuple[Line, Line]]:
    """A handshake whose upstream has not answered."""
    client = rig.client(handshake(b"/", bearer(rig.token(1, plugin=uid(77)))))
    upstream = rig.upstream.accept()
    upstream.head()
    yield client, upstream


def heard(rig: Rig) -> None:
    """Once all workers have read what they were told, and looked."""
    rig.engine.move_sessions([], bytes(32), 0.0, "asked", 7)
    for _ in range(rig.engine.worker_count):
        assert rig.question()[:2] == ("moved", 7)
    rig.turns_end()


@pytest.mark.parametrize("what", ["token", "credential", "consumer", "plugin"])
def test_handshake_under_way_does_not_outlive_its_right(
    what: str, rig: Rig, sessions: Sessions, waiting: tuple[Line, Line]
) -> None:
    """Also when the cache has forgotten by then that the token was revoked."""
    client, upstream = waiting
    if what == "token":
        rig.engine.end_tokens([digest(rig.token(1, put=False))])
    else:
        ids = {"credential": CREDENTIAL, "consumer": CONSUMER, "plugin": uid(77)}
        rig.engine.end_sessions(**{f"{what}s": [ids[what]]})
    heard(rig)
    upstream.send(switching())
    head, _ = client.answer()
    assert head.status == 401
    assert rig.record("refused")["why"] == "token ended during the handshake"
    assert rig.count("sessions_total") == 0


def test_handshake_under_way_goes_over_to_the_refreshed_token(
    rig: Rig, sessions: Sessions, waiting: tuple[Line, Line]
) -> None:
    client, upstream = waiting
    sessions.move(1, 2)
    sessions.revoke(1)
    upstream.send(switching())
    assert client.head().status == 101
    assert echoes(client, upstream)
    sessions.revoke(2)
    assert told(client, upstream, 4401, REVOKED)


def test_handshake_given_up_leaves_nothing_in_the_index(
    rig: Rig, waiting: tuple[Line, Line]
) -> None:
    client, _ = waiting
    client.close()
    until(lambda: rig.engine.counters()["connections"] == 0)
    rig.engine.end_tokens([digest(rig.token(1, put=False))])
    assert rig.count("ends")["revoked"] == 0


def test_handshake_that_waits_is_judged_by_what_its_token_is_when_it_goes_on(rig: Rig) -> None:
    """Its right ended while it waited, and is there again: that of an instance put back, say."""
    rig.publish(service(rig.upstream.port, host="up.test"), route(paths=["/"]), plugin())
    client = rig.client(handshake(b"/", bearer(rig.token(plugin=uid(77)))))
    kind, ref, _ = rig.question()
    assert kind == "name"
    rig.engine.end_sessions(plugins=[uid(77)])
    heard(rig)
    rig.names.set_addresses("up.test", [("127.0.0.1", False)])
    rig.engine.answer_name(ref, True)
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    assert echoes(client, upstream)
    rig.engine.end_sessions(plugins=[uid(77)])
    assert told(client, upstream, 4403, b"issuer of the token is gone")


def test_session_is_not_that_of_who_asked_before_its_route_was_opened(rig: Rig) -> None:
    rig.publish(service(rig.upstream.port, host="up.test"), route(paths=["/"]), plugin())
    client = rig.client(handshake(b"/", bearer(rig.token())))
    ref = rig.question()[1]
    rig.open_route({"host": "up.test"})
    rig.names.set_addresses("up.test", [("127.0.0.1", False)])
    rig.engine.answer_name(ref, True)
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    rig.engine.end_sessions(consumers=[CONSUMER])
    heard(rig)
    assert echoes(client, upstream)
    client.send(close(1000, mask=MASK))
    assert upstream.frame().code == 1000
    upstream.send(close(1000, mask=None))
    assert rig.record("ended")["consumer"] is None
