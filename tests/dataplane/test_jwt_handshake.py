"""JWTs at the engine's door: what it asks about, and for whom a known token is good."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dataplane import wire
from dataplane._tokens import TokenCache, is_jwt, name_hash
from tests import tokens
from tests.dataplane.engine_kit import SERVICE, Rig, handshake, plugin, route, service, switching
from tests.dataplane.snapshots import uid
from tests.dataplane.test_admission import INVALID, admitted, bearer, refused

ISSUER, AUDIENCE = tokens.ISSUER, tokens.AUDIENCE


def jwt_plugin(number: int = 3, **fields: Any) -> wire.OAuth2:
    given = {"jwt": True, "issuer": ISSUER, "global_credentials": True, **fields}
    return plugin(id=uid(number), **given)


def guard(rig: Rig, **fields: Any) -> None:
    rig.publish(service(rig.upstream.port), route(paths=["/"]), jwt_plugin(**fields))


def know(rig: Rig, token: str, **claims: Any) -> None:
    """What `Answers` does with a JWT that was verified."""
    rig.put(token, **{"issuer": ISSUER, "audience": [ISSUER], **claims})


# --- asking -------------------------------------------------------------------------------------


def test_unknown_jwt_is_asked_about_with_its_text(rig: Rig) -> None:
    guard(rig)
    token = tokens.access_token(time.time())
    client = rig.client(handshake(b"/", bearer(token.encode())))
    kind, ref, digest, text = rig.question()
    assert (kind, digest, text) == ("jwt", wire.token_digest(token), token)
    know(rig, token)
    rig.engine.answer_token(ref, "known")
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101


@pytest.mark.parametrize("verdict", ["unknown", "unavailable"])
def test_jwt_that_is_not_good_is_refused(rig: Rig, verdict: str) -> None:
    guard(rig)
    client = rig.client(handshake(b"/", bearer(tokens.access_token(1).encode())))
    rig.engine.answer_token(rig.question()[1], verdict)
    answer = client.answer()
    assert answer[0].status == (401 if verdict == "unknown" else 503)


NO_JWTS = ["a.b", "a.b.c.d", ".b.c", "a..c", "a.b.", "..", "a.b.c=", "a+.b.c", "a.b/.c", "a.é.c"]


@pytest.mark.parametrize("token", NO_JWTS)
def test_what_has_no_jwts_shape_is_refused_at_once(rig: Rig, token: str) -> None:
    guard(rig)
    refused(rig, b"/", bearer(token.encode()))
    assert not is_jwt(token.encode())


def test_jwt_where_none_are_taken_is_refused_at_once(rig: Rig) -> None:
    guard(rig, jwt=False)
    refused(rig, b"/", bearer(tokens.access_token(time.time()).encode()))


def test_jwts_shape_is_three_parts_of_base64url() -> None:
    for token in ("a.b.c", "a-_9.Z.0", tokens.access_token(1)):
        assert is_jwt(token.encode())
    for token in (*NO_JWTS, "", "abc", "a.b c.d", "a.b.c\0"):
        assert not is_jwt(token.encode())


def test_s10_token_over_8_kib_is_refused_unread(rig: Rig) -> None:
    guard(rig)
    target = b"/?access_token=" + b"a" * 4000 + b"." + b"b" * 4000 + b".c"
    client = rig.client(handshake(target))
    kind, ref, _, text = rig.question()  # as long as a request line lets it be
    assert (kind, len(text)) == ("jwt", 8003)
    rig.engine.answer_token(ref, "unknown")
    assert client.answer()[1] == INVALID


def test_flood_of_jwts_leaves_nothing_behind(rig: Rig) -> None:
    """Each question's text is freed: under ASan a leak would be a report."""
    guard(rig)
    for number in range(50):
        client = rig.client(handshake(b"/", bearer(f"a.{number}.{'c' * 4000}".encode())))
        rig.engine.answer_token(rig.question()[1], "unknown")
        assert client.answer()[0].status == 401
        client.close()
    rig.idle()


# --- for whom a token is good -------------------------------------------------------------------


def test_s12_jwt_of_a_service_is_good_there_alone(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port),
        service(rig.upstream.port, id=uid(21)),
        route(paths=["/a"]),
        route(id=uid(8), paths=["/b"], service=uid(21)),
        jwt_plugin(),
    )
    token = tokens.access_token(time.time())
    know(rig, token, service=SERVICE)
    admitted(rig, b"/a", bearer(token.encode()))
    assert rig.client(handshake(b"/b", bearer(token.encode()))).answer()[1] == INVALID


def test_s12_global_jwt_is_refused_where_none_is_taken(rig: Rig) -> None:
    guard(rig, global_credentials=False)
    token = tokens.access_token(time.time())
    know(rig, token)
    answer = rig.client(handshake(b"/", bearer(token.encode()))).answer()
    assert b"without 'global_credentials'" in answer[1]


CASES = {
    "its issuer and audience": (True, {}, {}),
    "one of its audiences": (True, {"audience": "https://two"}, {"audience": ["x", "https://two"]}),
    "issuer for want of an audience": (True, {"audience": None}, {"audience": [ISSUER]}),
    "another issuer": (False, {"issuer": "https://evil", "audience": ISSUER}, {}),
    "another audience": (False, {"audience": "https://b"}, {"audience": ["https://a"]}),
    "audience of another spelling": (False, {"audience": "https://A"}, {"audience": ["https://a"]}),
    "an issuer that only begins so": (False, {"issuer": f"{ISSUER}/", "audience": ISSUER}, {}),
    "no issuer": (False, {"issuer": None, "audience": ISSUER}, {}),
    "no JWTs": (False, {"jwt": False}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_jwt_is_good_only_for_its_issuer_and_audience(rig: Rig, case: str) -> None:
    good, policy, claims = CASES[case]
    guard(rig, **policy)
    token = tokens.access_token(time.time())
    know(rig, token, **claims)
    (admitted if good else refused)(rig, b"/", bearer(token.encode()))


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
@pytest.mark.parametrize("backwards", [True, False], ids=["backwards", "forwards"])
def test_s13_jwt_gives_each_route_its_own_answer_in_either_order(
    rig: Rig, cold: bool, backwards: bool
) -> None:
    routes = {
        b"/good": (True, jwt_plugin(31)),
        b"/issuer": (False, jwt_plugin(32, issuer="https://other", audience=AUDIENCE)),
        b"/audience": (False, jwt_plugin(33, audience="https://elsewhere")),
        b"/both": (True, jwt_plugin(34, audience=AUDIENCE)),
        b"/opaque": (False, jwt_plugin(35, jwt=False)),
        b"/local": (False, jwt_plugin(36, global_credentials=False)),
    }
    rig.publish(
        service(rig.upstream.port),
        *(
            route(id=uid(100 + n), paths=[path.decode()], oauth2=made.plugin_id)
            for n, (path, (_, made)) in enumerate(routes.items())
        ),
        *(made for _, made in routes.values()),
    )
    token = tokens.access_token(time.time())
    order = list(routes.items()) * 2
    for path, (good, _) in reversed(order) if backwards else order:
        if cold:
            rig.engine.tokens.remove(wire.token_digest(token))
        else:
            know(rig, token, audience=[ISSUER, AUDIENCE])
        client = rig.client(handshake(path, bearer(token.encode())))
        if cold and path != b"/opaque":
            ref = rig.question()[1]
            know(rig, token, audience=[ISSUER, AUDIENCE])
            rig.engine.answer_token(ref, "known")
        if good:
            upstream = rig.upstream.accept()
            upstream.head()
            upstream.send(switching())
            assert client.head().status == 101
        else:
            assert client.answer()[0].status == 401, path


@pytest.mark.parametrize(
    ("audience", "good"), [([], True), (["https://mine"], True), (["a", "b"], False)]
)
def test_opaque_token_that_names_audiences_is_held_to_them(
    rig: Rig, audience: list[str], good: bool
) -> None:
    guard(rig, audience="https://mine")
    token = rig.token(audience=audience)
    (admitted if good else refused)(rig, b"/", bearer(token))


def test_token_that_names_an_audience_is_refused_where_nobody_has_a_name(rig: Rig) -> None:
    guard(rig, issuer=None, jwt=False)
    refused(rig, b"/", bearer(rig.token(audience=[""])))
    admitted(rig, b"/", bearer(rig.token(2, audience=[])))


# --- the cache ----------------------------------------------------------------------------------


def test_names_do_not_mix_with_texts() -> None:
    from tests.dataplane.test_tokens import make

    cache: TokenCache = make()[0]
    digest = b"d" * 32
    audiences = [f"https://a{n}" for n in range(8)]
    cache.put(digest, uid(1), None, "email", "alex", 0.0, 0, "https://i", audiences)
    assert cache.get(digest) == (uid(1), None, "email", "alex", 0.0, 0)
    issuer = name_hash("https://i")
    assert all(cache.meant_for(digest, issuer, name_hash(name)) for name in audiences)
    assert not cache.meant_for(digest, issuer, issuer)  # it is no audience
    assert not cache.meant_for(digest, name_hash("https://a0"), name_hash("https://a0"))
    with pytest.raises(ValueError, match="audiences"):
        cache.put(digest, uid(1), None, None, None, 0.0, 0, None, [*audiences, "x"])
    with pytest.raises(ValueError, match="surrogate"):
        cache.put(digest, uid(1), None, None, None, 0.0, 0, "\ud800")


# --- the clock ----------------------------------------------------------------------------------


def test_s08_workers_judge_expiry_by_the_clock_they_are_told(rig: Rig) -> None:
    guard(rig)
    token = tokens.access_token(time.time())
    ends = time.time() + 1000
    know(rig, token, expires_at=ends)
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)

    def set_clock(now: float) -> None:
        rig.engine.set_clock_offset(now - time.clock_gettime(time.CLOCK_BOOTTIME))

    assert boot > 0
    admitted(rig, b"/", bearer(token.encode()))
    set_clock(ends + 0.05)
    refused(rig, b"/", bearer(token.encode()))  # served from the cache before
    set_clock(ends - 500)
    admitted(rig, b"/", bearer(token.encode()))
    rig.engine.sweep()  # which no longer looks at the wall clock
    admitted(rig, b"/", bearer(token.encode()))
    set_clock(ends + 5000)
    rig.engine.sweep()
    refused(rig, b"/", bearer(token.encode()))
