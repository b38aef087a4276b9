"""The list of requests.  Each case asks one server and gives the answer that is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.compliance.judged import REDIRECT_URI
from tests.compliance.oidc_provider.servers import VERIFIER, Server, basic

Case = Callable[[Server], httpx.Response]

CASES: dict[str, Case] = {}
CC = {"grant_type": "client_credentials"}
FORM = "application/x-www-form-urlencoded"


def case(name: str) -> Callable[[Case], Case]:
    def keep(asked: Case) -> Case:
        assert name not in CASES, name
        CASES[name] = asked
        return asked

    return keep


def token(name: str, asked: Callable[[Server], dict[str, Any]]) -> None:
    """A case that is one request to the token endpoint."""
    CASES[name] = lambda server: server.send("token", **asked(server))


# --- who the client is -------------------------------------------------------------------------

token("client_credentials, Basic", lambda s: {"data": CC, "headers": s.by_basic.basic})
token("client_credentials, secret in the body", lambda s: {"data": CC | s.by_body.body})
token("Basic, scheme in lower case", lambda s: {
    "data": CC,
    "headers": {"Authorization": s.by_basic.basic["Authorization"].replace("Basic", "basic")},
})  # fmt: skip
token("wrong secret, Basic", lambda s: {"data": CC, "headers": basic(s.by_basic.client_id, "no")})
token("wrong secret, body", lambda s: {"data": CC | s.by_body.body | {"client_secret": "no"}})
token("unknown client, Basic", lambda s: {"data": CC, "headers": basic("nobody", "no")})
token("unknown client, body", lambda s: {
    "data": CC | {"client_id": "nobody", "client_secret": "no"},
})  # fmt: skip
token("no client at all", lambda s: {"data": CC})
token("an id without its secret", lambda s: {"data": CC | {"client_id": s.by_body.client_id}})
token("an empty secret, Basic", lambda s: {"data": CC, "headers": basic(s.by_basic.client_id, "")})
token("an empty secret, body", lambda s: {
    "data": CC | {"client_id": s.by_body.client_id, "client_secret": ""},
})  # fmt: skip
token("Basic that is not base64", lambda s: {"data": CC, "headers": {"Authorization": "Basic %%%"}})
token("Basic without a colon", lambda s: {
    "data": CC, "headers": {"Authorization": "Basic bm9jb2xvbg=="},
})  # fmt: skip
token("Bearer where Basic is due", lambda s: {
    "data": CC, "headers": {"Authorization": "Bearer abc"},
})  # fmt: skip
token("Bearer, and the secret in the body", lambda s: {
    "data": CC | s.by_body.body, "headers": {"Authorization": "Bearer abc"},
})  # fmt: skip
token("Basic and body, the same", lambda s: {
    "data": CC | s.by_basic.body, "headers": s.by_basic.basic,
})  # fmt: skip
token("Basic, and the same id in the body", lambda s: {
    "data": CC | {"client_id": s.by_basic.client_id}, "headers": s.by_basic.basic,
})  # fmt: skip
token("Basic, and another id in the body", lambda s: {
    "data": CC | {"client_id": s.other.client_id}, "headers": s.by_basic.basic,
})  # fmt: skip
token("a public client and client_credentials", lambda s: {"data": CC | s.public.body})
token("a public client with a secret", lambda s: {
    "data": {"grant_type": "refresh_token", "refresh_token": "x", **s.public.body,
             "client_secret": "x"},
})  # fmt: skip
token("an assertion that is not a JWT", lambda s: {
    "data": CC | {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": "x.y.z",
    },
})  # fmt: skip

# --- what is asked for -------------------------------------------------------------------------

token("a scope", lambda s: {"data": CC | {"scope": "email"}, "headers": s.by_basic.basic})
token(
    "two scopes", lambda s: {"data": CC | {"scope": "email profile"}, "headers": s.by_basic.basic}
)
token("an empty scope", lambda s: {"data": CC | {"scope": ""}, "headers": s.by_basic.basic})
token("an unknown scope", lambda s: {"data": CC | {"scope": "wot"}, "headers": s.by_basic.basic})
token("a known and an unknown scope", lambda s: {
    "data": CC | {"scope": "email wot"}, "headers": s.by_basic.basic,
})  # fmt: skip
token("no grant_type", lambda s: {"data": {"scope": "email"}, "headers": s.by_basic.basic})
token("an empty grant_type", lambda s: {"data": {"grant_type": ""}, "headers": s.by_basic.basic})
token(
    "an unknown grant_type", lambda s: {"data": {"grant_type": "wot"}, "headers": s.by_basic.basic}
)
token("implicit as grant_type", lambda s: {
    "data": {"grant_type": "implicit"}, "headers": s.by_basic.basic,
})  # fmt: skip
token(
    "a parameter nobody knows", lambda s: {"data": CC | {"wot": "1"}, "headers": s.by_basic.basic}
)
token("grant_type twice", lambda s: {
    "data": [*CC.items(), *CC.items()], "headers": s.by_basic.basic,
})  # fmt: skip
token("scope twice", lambda s: {
    "data": [*CC.items(), ("scope", "email"), ("scope", "profile")], "headers": s.by_basic.basic,
})  # fmt: skip
token("client_id twice", lambda s: {
    "data": [*CC.items(), *s.by_body.body.items(), ("client_id", s.by_body.client_id)],
})  # fmt: skip

# --- how it is asked ---------------------------------------------------------------------------

token("a JSON body", lambda s: {"json": CC | {"scope": "email"}, "headers": s.by_basic.basic})
token("a body without its type", lambda s: {
    "content": b"grant_type=client_credentials", "headers": s.by_basic.basic,
})  # fmt: skip
token("a body said to be text", lambda s: {
    "content": b"grant_type=client_credentials",
    "headers": s.by_basic.basic | {"Content-Type": "text/plain"},
})  # fmt: skip
token("a multipart body", lambda s: {
    "files": {"grant_type": (None, "client_credentials")}, "headers": s.by_basic.basic,
})  # fmt: skip
token("a form with its charset", lambda s: {
    "content": b"grant_type=client_credentials",
    "headers": s.by_basic.basic | {"Content-Type": f"{FORM}; charset=UTF-8"},
})  # fmt: skip
token("broken JSON", lambda s: {
    "content": b"{", "headers": s.by_basic.basic | {"Content-Type": "application/json"},
})  # fmt: skip
token("an empty body", lambda s: {"data": {}, "headers": s.by_basic.basic})
token("parameters in the query alone", lambda s: {"params": CC, "headers": s.by_basic.basic})
token("the secret in the query", lambda s: {"params": s.by_body.body, "data": CC})
token("a body of 70 kB", lambda s: {
    "data": CC | {"wot": "x" * 70_000}, "headers": s.by_basic.basic,
})  # fmt: skip
for method in ("GET", "PUT", "DELETE"):
    token(f"{method} at the token endpoint", lambda s, m=method: {  # type: ignore[misc]
        "method": m, "headers": s.by_basic.basic,
    })  # fmt: skip


# --- codes -------------------------------------------------------------------------------------


@case("a code")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic)


@case("a code, by a public client")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.public)


@case("a code asked for without PKCE")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, s.code(s.by_basic, None), code_verifier="")


@case("a verifier for a code without PKCE")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, s.code(s.by_basic, None))


@case("an unknown code")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, "wot")


@case("no code")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, "")


@case("a code twice")
def _(s: Server) -> httpx.Response:
    code = s.code(s.by_basic)
    s.redeem(s.by_basic, code)
    return s.redeem(s.by_basic, code)


@case("the token of a code that came twice")
def _(s: Server) -> httpx.Response:
    code = s.code(s.by_basic)
    first = s.redeem(s.by_basic, code).json()
    s.redeem(s.by_basic, code)
    return s.introspect(first["access_token"])


@case("another client's code")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.other, s.code(s.by_basic))


@case("a code with another redirect_uri")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, redirect_uri=f"{REDIRECT_URI}/other")


@case("a code without its redirect_uri")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, redirect_uri="")


@case("a wrong verifier")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, code_verifier=VERIFIER.upper())


@case("no verifier")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, code_verifier="")


@case("a verifier of 42 characters")
def _(s: Server) -> httpx.Response:
    return s.redeem(s.by_basic, code_verifier="x" * 42)


@case("the right verifier after a wrong one")
def _(s: Server) -> httpx.Response:
    code = s.code(s.by_basic)
    s.redeem(s.by_basic, code, code_verifier=VERIFIER.upper())
    return s.redeem(s.by_basic, code)


@case("a code and a wrong secret")
def _(s: Server) -> httpx.Response:
    wrong = type(s.by_body)(s.by_body.client_id, "no")
    return s.redeem(wrong, s.code(s.by_body))


# --- refresh -----------------------------------------------------------------------------------


@case("a refresh")
def _(s: Server) -> httpx.Response:
    return s.refresh(s.by_basic, s.tokens(s.by_basic)["refresh_token"])


@case("an unknown refresh token")
def _(s: Server) -> httpx.Response:
    return s.refresh(s.by_basic, "wot")


@case("no refresh token")
def _(s: Server) -> httpx.Response:
    return s.send("token", {"grant_type": "refresh_token"}, s.by_basic.basic)


@case("a refresh token twice")
def _(s: Server) -> httpx.Response:
    old = s.tokens(s.by_basic)["refresh_token"]
    s.refresh(s.by_basic, old)
    return s.refresh(s.by_basic, old)


@case("the newest token of a refresh token that came twice")
def _(s: Server) -> httpx.Response:
    old = s.tokens(s.by_basic)["refresh_token"]
    newest = s.refresh(s.by_basic, old).json()
    s.refresh(s.by_basic, old)
    return s.introspect(newest["access_token"])


@case("the access token from before a refresh")
def _(s: Server) -> httpx.Response:
    first = s.tokens(s.by_basic)
    s.refresh(s.by_basic, first["refresh_token"])
    return s.introspect(first["access_token"])


@case("another client's refresh token")
def _(s: Server) -> httpx.Response:
    return s.refresh(s.other, s.tokens(s.by_basic)["refresh_token"])


@case("an access token as refresh token")
def _(s: Server) -> httpx.Response:
    return s.refresh(s.by_basic, s.tokens(s.by_basic)["access_token"])


@case("a refresh for the scope that there was")
def _(s: Server) -> httpx.Response:
    return s.refresh(s.by_basic, s.tokens(s.by_basic)["refresh_token"], scope="email")


@case("a refresh for more scope")
def _(s: Server) -> httpx.Response:
    return s.refresh(s.by_basic, s.tokens(s.by_basic)["refresh_token"], scope="email profile")


# --- introspection -----------------------------------------------------------------------------


@case("introspection of an access token")
def _(s: Server) -> httpx.Response:
    return s.introspect(s.tokens(s.by_basic)["access_token"])


@case("introspection of a client's own token")
def _(s: Server) -> httpx.Response:
    made = s.send("token", CC, s.by_basic.basic).json()
    return s.introspect(made["access_token"])


@case("introspection of a refresh token")
def _(s: Server) -> httpx.Response:
    return s.introspect(s.tokens(s.by_basic)["refresh_token"])


@case("introspection with a hint that is wrong")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)["access_token"]
    return s.introspect(made, token_type_hint="refresh_token")


@case("introspection with a hint nobody knows")
def _(s: Server) -> httpx.Response:
    return s.introspect(s.tokens(s.by_basic)["access_token"], token_type_hint="wot")


@case("introspection of an unknown token")
def _(s: Server) -> httpx.Response:
    return s.introspect("wot")


@case("introspection of another client's token")
def _(s: Server) -> httpx.Response:
    return s.introspect(s.tokens(s.by_basic)["access_token"], s.other)


@case("introspection of a revoked token")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)["access_token"]
    s.revoke(made)
    return s.introspect(made)


@case("introspection of nothing")
def _(s: Server) -> httpx.Response:
    return s.send("introspect", {"wot": "1"}, s.by_basic.basic)


@case("introspection by nobody")
def _(s: Server) -> httpx.Response:
    return s.send("introspect", {"token": s.tokens(s.by_basic)["access_token"]})


@case("introspection with a wrong secret")
def _(s: Server) -> httpx.Response:
    return s.send("introspect", {"token": "wot"}, basic(s.by_basic.client_id, "no"))


@case("introspection, token in the query")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)["access_token"]
    return s.send("introspect", {}, s.by_basic.basic, params={"token": made})


@case("introspection, token twice")
def _(s: Server) -> httpx.Response:
    return s.send("introspect", [("token", "wot"), ("token", "wot")], s.by_basic.basic)


@case("GET at the introspection endpoint")
def _(s: Server) -> httpx.Response:
    return s.send("introspect", None, s.by_basic.basic, "GET", params={"token": "wot"})


# --- revocation --------------------------------------------------------------------------------


@case("revocation of an access token")
def _(s: Server) -> httpx.Response:
    return s.revoke(s.tokens(s.by_basic)["access_token"])


@case("revocation of a refresh token")
def _(s: Server) -> httpx.Response:
    return s.revoke(s.tokens(s.by_basic)["refresh_token"])


@case("the access token of a revoked refresh token")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)
    s.revoke(made["refresh_token"])
    return s.introspect(made["access_token"])


@case("the refresh token of a revoked access token")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)
    s.revoke(made["access_token"])
    return s.refresh(s.by_basic, made["refresh_token"])


@case("revocation with a hint that is wrong")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)["access_token"]
    s.revoke(made, token_type_hint="refresh_token")
    return s.introspect(made)


@case("revocation with a hint nobody knows")
def _(s: Server) -> httpx.Response:
    return s.revoke(s.tokens(s.by_basic)["access_token"], token_type_hint="wot")


@case("revocation of an unknown token")
def _(s: Server) -> httpx.Response:
    return s.revoke("wot")


@case("revocation twice")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)["access_token"]
    s.revoke(made)
    return s.revoke(made)


@case("revocation of another client's token")
def _(s: Server) -> httpx.Response:
    return s.revoke(s.tokens(s.by_basic)["access_token"], s.other)


@case("another client's token after that")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.by_basic)["access_token"]
    s.revoke(made, s.other)
    return s.introspect(made)


@case("revocation by a public client")
def _(s: Server) -> httpx.Response:
    made = s.tokens(s.public)["access_token"]
    return s.send("revoke", {"token": made} | s.public.body)


@case("revocation of nothing")
def _(s: Server) -> httpx.Response:
    return s.send("revoke", {"wot": "1"}, s.by_basic.basic)


@case("revocation by nobody")
def _(s: Server) -> httpx.Response:
    return s.send("revoke", {"token": "wot"})


@case("revocation with a wrong secret")
def _(s: Server) -> httpx.Response:
    return s.send("revoke", {"token": "wot"}, basic(s.by_basic.client_id, "no"))


@case("GET at the revocation endpoint")
def _(s: Server) -> httpx.Response:
    return s.send("revoke", None, s.by_basic.basic, "GET", params={"token": "wot"})


# --- documents ---------------------------------------------------------------------------------


@case("metadata")
def _(s: Server) -> httpx.Response:
    return s.send("metadata", method="GET")


@case("the key set")
def _(s: Server) -> httpx.Response:
    return s.send("jwks", method="GET")


def members(text: str) -> list[str] | None:
    """The members of a JSON object; None for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return sorted(found) if isinstance(found, dict) else None
