"""Subprotocols and cookies as carriers, byte for byte.  _carriers.pyx, oauth2.md §14."""

from __future__ import annotations

import base64
import itertools
import random

import pytest

from dataplane._carriers import KINDS, cookie, decode, left, offer, protocols

K8S = b"base64url.bearer.authorization.k8s.io."
PREFIX = b"shop.token."
SEPARATORS = [b",", b", ", b" ,", b",,", b" , ,\t"]


def cut_apart(text: bytes) -> list[list[bytes]]:
    """The text as one field, and as two at each of its commas."""
    pieces = text.split(b",")
    found = [[text]]
    for at in range(1, len(pieces)):
        found.append([b",".join(pieces[:at]), b",".join(pieces[at:])])
    return found


# --- subprotocols ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "goes_on"),
    [
        (b"chat", [("theirs", b"chat", None)], b"chat"),
        (b"bearer,T", [("marker", b"bearer", None), ("token", b"T", b"T")], b""),
        (
            b"a, bearer ,T,b",
            [
                ("theirs", b"a", None),
                ("marker", b"bearer", None),
                ("token", b"T", b"T"),
                ("theirs", b"b", None),
            ],
            b"a, b",
        ),
        (b"bearer", [("marker", b"bearer", None)], b""),
        (
            b"bearer,bearer,T",
            [("marker", b"bearer", None)] * 2 + [("token", b"T", b"T")],
            b"",
        ),
        (b"Bearer,T", [("theirs", b"Bearer", None), ("theirs", b"T", None)], b"Bearer, T"),
        (K8S + b"VA,v1", [("encoded", K8S + b"VA", b"VA"), ("theirs", b"v1", None)], b"v1"),
        (PREFIX + b"T", [("token", PREFIX + b"T", b"T")], b""),
        (PREFIX, [("marker", PREFIX, None)], b""),
        (b"ticket.V,x", [("ticket", b"ticket.V", b"V"), ("theirs", b"x", None)], b"x"),
        (
            b"bearer,ticket.V",
            [("marker", b"bearer", None), ("token", b"ticket.V", b"ticket.V")],
            b"",
        ),
        (
            b"tickets,ticket",
            [("theirs", b"tickets", None), ("theirs", b"ticket", None)],
            b"tickets, ticket",
        ),
        (b"", [], b""),
        (b" ,\t, ", [], b""),
    ],
)
def test_elements_are_told_apart_in_one_field_and_in_two(
    text: bytes, expected: list[tuple[str, bytes, bytes | None]], goes_on: bytes
) -> None:
    for fields in cut_apart(text):
        assert protocols(fields, PREFIX) == expected
        kept = [line for line in left(fields, PREFIX) if line is not None]
        assert b", ".join(kept) == goes_on
        assert bool(kept) == bool(goes_on)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_white_space_and_empty_elements_mean_nothing(separator: bytes) -> None:
    text = b" " + separator.join([b"a", b"bearer", b"T", b"b"]) + b"\t"
    assert [kind for kind, _, _ in protocols([text])] == ["theirs", "marker", "token", "theirs"]
    assert left([text]) == [b"a, b"]


def test_without_a_carrier_its_elements_are_the_ends_own() -> None:
    text = b"bearer, T, " + K8S + b"VA, " + PREFIX + b"T, ticket.V"
    assert left([text], PREFIX, tokens=False, tickets=False) == [text]
    assert left([text], PREFIX, tokens=False, tickets=True) == [text.removesuffix(b", ticket.V")]
    assert left([text], PREFIX, tokens=True, tickets=False) == [b"ticket.V"]
    assert left([text], b"", tokens=True, tickets=True) == [PREFIX + b"T"]


def test_offer_counts_and_keeps_the_first() -> None:
    made = offer([b"bearer, T1, x, ticket.V1", PREFIX + b"T2, ticket.V2, y"], PREFIX)
    assert made == {
        "token": b"T1",
        "ticket": b"V1",
        "first": b"bearer",
        "tokens": 2,
        "tickets": 2,
        "theirs": 2,
        "encoded": False,
        "marked": True,
    }


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (b"bearer, T, chat", b"bearer"),
        (b"ticket.V, chat", b"chat"),
        (K8S + b"VA, v1.k8s, v2", b"v1.k8s"),
        (PREFIX + b"T", b""),
        (PREFIX + b", chat", b"chat"),
        (b"ticket.V", b""),
        (b'"quoted", (x), a b, chat', b"chat"),
        (b"\xe9t\xe9, ok", b"ok"),
    ],
)
def test_first_that_carries_nothing_is_what_can_be_answered(text: bytes, first: bytes) -> None:
    assert offer([text], PREFIX)["first"] == first


def plainly(fields: list[bytes], prefix: bytes) -> list[tuple[str, bytes]]:
    """The same walk, written as plainly as can be."""
    elements = [e.strip(b" \t") for field in fields for e in field.split(b",")]
    found, before = [], b""
    for element in filter(None, elements):
        if before == b"bearer" and element != b"bearer":
            kind = "token"
        elif element.startswith(b"ticket."):
            kind = "ticket"
        elif element == b"bearer":
            kind = "marker"
        elif element.startswith(K8S):
            kind = "encoded"
        elif prefix and element.startswith(prefix):
            kind = "token" if element != prefix else "marker"
        else:
            kind = "theirs"
        before = element if kind == "marker" else b""
        found.append((kind, element))
    return found


def test_random_lists_are_walked_as_by_a_plain_reading() -> None:
    seed = random.randrange(2**32)
    choose = random.Random(seed)
    parts = [b"bearer", b"Bearer", b"T", K8S, K8S + b"VA", PREFIX, PREFIX + b"T", b"ticket."]
    parts += [
        b"ticket.V",
        b" ",
        b",",
        b",",
        b", ",
        b"\t",
        b"chat",
        b"",
        b"=",
        b"ticket",
        b"bearerx",
    ]
    for _ in range(3000):
        text = b"".join(choose.choices(parts, k=choose.randrange(12)))
        for fields in cut_apart(text):
            found = protocols(fields, PREFIX)
            assert [item[:2] for item in found] == plainly(fields, PREFIX), (seed, fields)
            kept = b", ".join(line for line in left(fields, PREFIX) if line is not None)
            theirs = [element for kind, element, _ in found if kind == "theirs"]
            assert kept == b", ".join(theirs), (seed, fields)


def test_kinds_are_named_for_tests_in_their_order() -> None:
    assert KINDS == ("theirs", "marker", "token", "encoded", "ticket")


# --- cookies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "count", "value", "rest"),
    [
        (b"tok=T", 1, b"T", None),
        (b"a=1; tok=T; b=2", 1, b"T", b"a=1; b=2"),
        (b"tok=T; b=2", 1, b"T", b"b=2"),
        (b"a=1; tok=T", 1, b"T", b"a=1"),
        (b"a=1;tok=T;b=2", 1, b"T", b"a=1;b=2"),
        (b" a=1 ;  b = 2 ", 0, b"", b"a=1 ;  b = 2 "),
        (b"tok = T ; a", 1, b"T", b"a"),
        (b'tok="T"', 1, b'"T"', None),
        (b"tok=", 1, b"", None),
        (b"tok", 0, b"", b"tok"),
        (b"Tok=T; xtok=T; tokx=T; tok-x=T", 0, b"", b"Tok=T; xtok=T; tokx=T; tok-x=T"),
        (b"a=tok=T", 0, b"", b"a=tok=T"),
        (b"tok=a=b", 1, b"a=b", None),
        (b"tok=1; tok=2; c=3", 2, b"1", b"c=3"),
        (b"a=1; ; b=2;", 0, b"", b"a=1; ; b=2"),
        (b"", 0, b"", None),
        (b" ; tok=T; ", 1, b"T", None),
    ],
)
def test_cookie_is_found_and_the_others_stay_as_they_are(
    field: bytes, count: int, value: bytes, rest: bytes | None
) -> None:
    assert cookie(field, b"tok") == (count, value, rest)


def test_cookies_of_every_order_lose_the_one_alone() -> None:
    others = [b"a=1", b"b=x%20y", b'c="q;'[:4]]
    for order in itertools.permutations([*others, b"tok=SECRET"]):
        count, value, rest = cookie(b"; ".join(order), b"tok")
        assert (count, value) == (1, b"SECRET")
        assert rest == b"; ".join(pair for pair in order if pair != b"tok=SECRET")


def test_cookie_field_cut_anywhere_never_shows_what_is_not_there() -> None:
    field = b"a=1; tok=SECRET; b=2"
    for cut in range(len(field) + 1):
        _, value, rest = cookie(field[:cut], b"tok")
        assert b"SECRET".startswith(value)
        assert rest is None or b"SECRET" not in rest


# --- base64url ------------------------------------------------------------------------------------


def test_base64url_is_decoded_as_python_does() -> None:
    choose = random.Random(7)
    for size in range(200):
        raw = choose.randbytes(size)
        assert decode(base64.urlsafe_b64encode(raw).rstrip(b"=")) == raw


@pytest.mark.parametrize(
    "text",
    [b"VA==", b"VA=", b"V", b"VAVAV", b"VB", b"VAB", b"V+", b"V/", b"V A", b"VA\n", b"\xff\xff"],
)
def test_base64url_that_is_not_canonical_is_none(text: bytes) -> None:
    """Padding, other alphabets, and last bits that stand for nothing (S04)."""
    assert decode(text) is None
