"""Origins: the list against what browsers and others send.  RFC 6455 §10.2, S59."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from dataplane import wire
from dataplane._origin import listed
from tests.dataplane.engine_kit import Rig, handshake, plugin, route, service
from tests.dataplane.snapshots import uid

EXACT, WILD = "https://app.example.com", "https://*.example.org:8443"
GOOD = [EXACT, "https://a.example.org:8443", "https://a.b-c.d_e.example.org:8443"]
TRICKS = [
    *("null", "", " ", "*", EXACT + ".", EXACT + "/", EXACT + ":443", EXACT + ":80", EXACT + "\0"),
    *(
        EXACT.upper(),
        "https://App.example.com",
        "HTTPS://app.example.com",
        "http://app.example.com",
    ),
    *(EXACT + ".evil.test", "https://evil.test/" + EXACT, "https://xapp.example.com", EXACT[:-1]),
    *("https://sub.app.example.com", "https://example.com", "app.example.com", "wss" + EXACT[5:]),
    *("https://user@app.example.com", "https://app.example.com@evil.test", f"{EXACT} {EXACT}"),
    *(f"{EXACT}, {EXACT}", EXACT + "%2e", "https://app\u3002example.com", WILD, "https://*"),
    *("https://example.org:8443", "https://.example.org:8443", "https://a.example.org"),
    *("https://a.example.org:443", "https://a.example.org:84430", "https://a.example.org:8443."),
    *("https://a.example.org.evil.test:8443", "https://evil.test/.example.org:8443"),
    *("https://evil.test#.example.org:8443", "https://evil.test?.example.org:8443"),
    *("https://evil.test:1.example.org:8443", "https://u@a.example.org:8443"),
    *("https://a..example.org:8443", "https://a\\.example.org:8443", "http://a.example.org:8443"),
    *("https://A.example.org:8443", "https://xexample.org:8443", "https://-.:.example.org:8443"),
]
LISTED = f"{EXACT}\n{WILD}\n".encode()


# --- the comparison ------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", GOOD)
def test_origin_that_is_listed_passes(origin: str) -> None:
    assert listed(LISTED, origin.encode())


@pytest.mark.parametrize("origin", TRICKS)
def test_s59_trick_is_not_listed(origin: str) -> None:
    assert not listed(LISTED, origin.encode())


@pytest.mark.parametrize("cut", range(len(LISTED) + 1))
def test_list_cut_anywhere_allows_whole_entries_only(cut: int) -> None:
    entries = LISTED[:cut]
    assert listed(entries, EXACT.encode()) == (b"com\n" in entries)
    assert listed(entries, b"https://a.example.org:8443") == (cut == len(LISTED))


def allowed(entries: list[str], origin: str) -> bool:
    """The rule, as plainly as can be."""
    for entry in entries:
        head, star, tail = entry.partition("*")
        if not star and origin == entry:
            return True
        name = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
        if star and re.fullmatch(re.escape(head) + name + re.escape(tail), origin):
            return True
    return False


def test_listed_is_the_rule_on_any_origin() -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    entries = ["http://a.b", "http://*.b", "http://*.a.b:1", "http://a", "ab://a"]
    text = "".join(f"{entry}\n" for entry in entries).encode()
    pieces = ["http://", "a", "b", ".", ":", "1", "-", "*", "ab://", "/", "A", ".a", ".b", ".a.b:1"]
    found = set()
    for _ in range(20000):
        origin = chance.choice(["http://", ""]) + "".join(
            chance.choice(pieces) for _ in range(chance.randrange(6))
        )
        verdict = listed(text, origin.encode())
        assert verdict == allowed(entries, origin), origin
        found.add(verdict)
    assert found == {True, False}


# --- in a handshake ------------------------------------------------------------------------------


def guarded(rig: Rig, **fields: Any) -> None:
    """A route that asks for a token and for one of these origins."""
    rules = wire.SessionRules(uid(90), allowed_origins=[EXACT, WILD])
    given = {"paths": ["/"], "session": uid(90), **fields}
    rig.publish(service(rig.upstream.port), route(**given), plugin(), rules)


@pytest.mark.parametrize("protocols", [["ws", "wss"], ["http", "https"]])
def test_s59_origin_that_is_not_listed_gets_403_before_upstream_contact(
    protocols: list[str], rig: Rig
) -> None:
    guarded(rig, oauth2=None, protocols=protocols)
    for origin in TRICKS:
        if re.search(r"[\0 ]", origin.strip(" ")) or not origin.isascii():
            continue  # refused by the head parser, or another header than it looks
        client = rig.client(handshake(b"/", b"Origin: " + origin.encode()))
        head, body = client.answer()
        assert (head.status, b"Origin not allowed" in body) == (403, True), origin
    assert rig.upstream.untouched()
    assert rig.record("refused")["why"] == "Origin not allowed"


@pytest.mark.parametrize("fields", [[], *([b"Origin: " + origin.encode()] for origin in GOOD)])
def test_origin_that_is_listed_or_missing_is_let_through(fields: list[bytes], rig: Rig) -> None:
    guarded(rig, oauth2=None)
    rig.session(*fields)


def test_s59_second_origin_gets_403(rig: Rig) -> None:
    guarded(rig, oauth2=None)
    line = b"Origin: " + EXACT.encode()
    for fields in ([line, line], [line, b"oRIGIN: https://evil.test"]):
        assert rig.client(handshake(b"/", *fields)).head().status == 403
    assert rig.upstream.untouched()


def test_origin_is_judged_before_the_token(rig: Rig) -> None:
    guarded(rig)
    assert rig.client(handshake(b"/", b"Origin: null")).head().status == 403
    assert rig.client(handshake(b"/", b"Origin: " + EXACT.encode())).head().status == 401
    assert rig.count("token_misses") == 0


def test_origin_is_anybodys_without_a_list(rig: Rig) -> None:
    rig.open_route()
    rig.session(b"Origin: null")
