"""`token_format: jwt` on the wire: what is in a token, and what of it is taken.

spec/oauth2.md §2, §14; RFC 9068; the first statements of the security checklist.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.gateway.oauth2.answers import INVALID, not_cached
from tests.gateway.oauth2.apis import PROVISION_KEY, USER, Api, App, unique
from tests.gateway.oauth2.kit import Site

ALGS = ("ES256", "RS256", "EdDSA")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
REQUIRED = ("iss", "aud", "exp", "iat", "sub", "jti", "client_id")


def api_of(site: Site, alg: str = "ES256", **config: Any) -> Api:
    """An API whose tokens are JWTs; one issuer for each algorithm."""
    issuer = f"https://{alg.lower()}.jwt.test/{site.http.url[-5:]}"
    return site.api(issuer=issuer, token_format="jwt", signing_alg=alg, endpoints="all", **config)


def token_of(api: Api, app: App, **params: Any) -> str:
    answer = api.client_credentials(app, **params)
    assert answer.status == 200, answer.body
    not_cached(answer)
    body = answer.json
    assert body["token_type"] == "bearer"
    return str(body["access_token"])


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture(scope="module")
def api(site: Site) -> Api:
    return api_of(site)


@pytest.fixture(scope="module")
def token(site: Site, api: Api) -> str:
    made = token_of(api, site.shared_app(), scope="email")
    assert api.get(made).status == 200
    return made


def refused(api: Api, token: str) -> None:
    """In the header: 401 as for any unknown token, and no more told."""
    answer = api.get(token)
    assert (answer.status, answer.json["error"]) == (401, INVALID[0]), (answer.status, answer.body)
    assert answer.json["error_description"] == INVALID[1]
    assert str(answer["WWW-Authenticate"]).startswith('Bearer error="invalid_token"')


# --- what is in it -------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ALGS)
def test_s06_s07_token_says_what_rfc_9068_wants(site: Site, app: App, alg: str) -> None:
    api = api_of(site, alg)
    token = token_of(api, app, scope="email profile")
    header, payload, _ = token.split(".")
    assert decoded(header)["alg"] == alg
    assert decoded(header)["typ"] == "at+jwt"
    keys = site.ask("GET", f"{api.path}/oauth2/jwks").json["keys"]
    assert decoded(header)["kid"] in {key["kid"] for key in keys}
    claims = decoded(payload)
    assert set(REQUIRED) <= claims.keys()
    assert claims["iss"] == api.config["issuer"]
    assert claims["client_id"] == app.id
    assert claims["scope"] == "email profile"
    assert claims["exp"] - claims["iat"] == 7200


@pytest.mark.parametrize("alg", ALGS)
def test_token_is_taken_like_any_other(site: Site, app: App, alg: str) -> None:
    api = api_of(site, alg)
    own = {"authenticated_userid": USER, "provision_key": PROVISION_KEY, "scope": "email"}
    token = token_of(api, app, **own)
    seen = api.get(token).seen
    assert seen["X-Consumer-ID"] == app.consumer["id"]
    assert seen["X-Credential-Identifier"] == app.id
    assert seen["X-Authenticated-Scope"] == "email"
    assert seen["X-Authenticated-UserId"] == USER
    assert api.get(target=f"/get?access_token={token}").status == 200


def test_token_opens_a_websocket(site: Site, app: App) -> None:
    host = unique("ws") + ".test"
    sockets = site.sockets(issuer=f"https://{host}", token_format="jwt")
    token = token_of(sockets.issuer, app)
    assert sockets.handshake(token).status == 101
    assert site.ws.last()["X-Credential-Identifier"] == app.id


def test_refresh_token_is_no_jwt(api: Api, app: App) -> None:
    body = api.password(app).json
    assert len(body["refresh_token"]) == 32 and body["access_token"].count(".") == 2
    again = api.refresh(app, body["refresh_token"])
    assert again.status == 200 and again.json["access_token"].count(".") == 2
    assert api.get(again.json["access_token"]).status == 200
    api.until(401, body["access_token"])


def test_token_of_another_issuer_is_refused(site: Site, app: App) -> None:
    """The same service, another issuer: what it says is not what this one is for."""
    api = api_of(site)
    other = site.routed(api, issuer=f"https://{unique('other')}.test", token_format="jwt")
    refused(other, token_of(api, app))
    refused(api, token_of(other, app))


def test_s12_token_of_another_service_is_refused(site: Site, app: App) -> None:
    other = api_of(site, realm="elsewhere")
    answer = other.get(token_of(api_of(site), app))
    assert (answer.status, answer.json["error"]) == (401, INVALID[0])


# --- what is not taken ---------------------------------------------------------------------------


def resigned(token: str, header: dict[str, Any] | None, claims: Any = None) -> str:
    """The token with another header or payload, signed by a key of our own."""
    old_header, old_payload, _ = token.split(".")
    head = encoded(decoded(old_header) | (header or {}))
    body = old_payload if claims is None else encoded(claims)
    key = ec.generate_private_key(ec.SECP256R1())
    r, s = decode_dss_signature(key.sign(f"{head}.{body}".encode(), ec.ECDSA(SHA256())))
    return f"{head}.{body}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def with_header(token: str, changes: dict[str, Any]) -> str:
    """The token with another header and its old signature."""
    header, _, rest = token.partition(".")
    return f"{encoded(decoded(header) | changes)}.{rest}"


def by_hmac(token: str, secret: bytes) -> str:
    header, payload, _ = token.split(".")
    head = encoded(decoded(header) | {"alg": "HS256"})
    mac = hmac.digest(secret, f"{head}.{payload}".encode(), hashlib.sha256)
    return f"{head}.{payload}.{encoded(mac)}"


def altered_signature(token: str) -> str:
    """The same signature bytes in an encoding that is not canonical: its unused bits are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


HOSTILE: dict[str, Callable[[str], str]] = {
    "s01 none": lambda t: with_header(t, {"alg": "none"}).rpartition(".")[0] + ".",
    "s01 another key": lambda t: resigned(t, None),
    "s01 rs256": lambda t: with_header(t, {"alg": "RS256"}),
    "s02 jwk": lambda t: resigned(t, {"jwk": {"kty": "EC"}}),
    "s02 jku": lambda t: resigned(t, {"jku": "http://127.0.0.1:1/keys"}),
    "s02 x5u": lambda t: resigned(t, {"x5u": "http://127.0.0.1:1/x"}),
    "s02 crit": lambda t: resigned(t, {"crit": ["b64"], "b64": False}),
    "s02 zip": lambda t: resigned(t, {"zip": "DEF"}),
    "s03 unknown kid": lambda t: resigned(t, {"kid": "nobody"}),
    "s03 no kid": lambda t: resigned(t, {"kid": None}),
    "s04 padding": lambda t: t + "=",
    "s04 two paddings": lambda t: t + "==",
    "s04 junk": lambda t: t + "!!!!",
    "s04 dot behind": lambda t: t + ".",
    "s04 dot before": lambda t: "." + t,
    "s04 fourth part": lambda t: t + ".abcd",
    "s04 trailing bits": altered_signature,
    "s04 no signature": lambda t: t.rpartition(".")[0] + ".",
    "s04 two parts": lambda t: t.rpartition(".")[0],
    "s04 plus": lambda t: t[:-3] + "+" + t[-2:],
    "s04 slash": lambda t: t[:-3] + "/" + t[-2:],
    "s06 no exp": lambda t: resigned(
        t, None, {k: v for k, v in decoded(t.split(".")[1]).items() if k != "exp"}
    ),
    "s07 typ": lambda t: resigned(t, {"typ": "JWT"}),
    "s09 exp": lambda t: resigned(t, None, decoded(t.split(".")[1]) | {"exp": 2**60}),
    "s10 long": lambda t: t[:-4] + "A" * 9000,
    "s10 deep": lambda t: encoded(b"[" * 3000) + "." + ".".join(t.split(".")[1:]),
    "s11 twice": lambda t: resigned(t, None, b'{"iss":"a","iss":"b"}'),
    "payload": lambda t: ".".join(
        [
            t.split(".")[0],
            encoded(decoded(t.split(".")[1]) | {"scope": "email profile"}),
            t.split(".")[2],
        ]
    ),
    "empty": lambda t: "..",
    "dots": lambda t: ".",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_s01_to_s11_hostile_token_is_refused(api: Api, token: str, how: str) -> None:
    hostile = HOSTILE[how](token)
    assert hostile != token
    if len(hostile) < 8000:
        refused(api, hostile)
        answer = api.get(target=f"/get?access_token={hostile.replace('+', '%2B')}")
        assert answer.status == 401
    else:
        assert api.get(hostile).status in (400, 401)
    # And the one it was made of is as good as before.
    assert api.get(token).status == 200


@pytest.mark.parametrize("form", ["pem", "jwk"])
def test_s01_public_key_is_no_hmac_secret(site: Site, api: Api, token: str, form: str) -> None:
    (key, *_) = (
        key
        for key in site.ask("GET", f"{api.path}/oauth2/jwks").json["keys"]
        if key["kid"] == decoded(token.split(".")[0])["kid"]
    )
    if form == "jwk":
        secret = json.dumps(key).encode()
    else:
        x, y = (int.from_bytes(base64.urlsafe_b64decode(key[n] + "="), "big") for n in ("x", "y"))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    refused(api, by_hmac(token, secret))


# --- revocation ----------------------------------------------------------------------------------


def other_signature(token: str) -> str:
    """The other signature that says the same: s replaced by n - s."""
    head, payload, signature = token.split(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    s = P256_ORDER - int.from_bytes(raw[32:], "big")
    return f"{head}.{payload}.{encoded(raw[:32] + s.to_bytes(32, 'big'))}"


@pytest.mark.parametrize("warm", [True, False])
def test_s05_revocation_refuses_every_string_of_the_token(api: Api, app: App, warm: bool) -> None:
    token = token_of(api, app)
    twin = other_signature(token)
    assert other_signature(twin) == token
    assert api.get(token).status == 200
    if warm:
        assert api.get(twin).status in (200, 401)
    assert api.endpoint("revoke", app.params | {"token": token}).status == 200
    api.until(401, token, 5)
    refused(api, twin)
    refused(api, token)


@pytest.mark.parametrize("by", ["credential", "consumer", "token", "plugin"])
def test_s37_token_is_refused_once_what_it_depends_on_is_gone(site: Site, by: str) -> None:
    owner = site.consumer()
    app = site.app(owner)
    config = {
        "issuer": f"https://{unique('gone')}.test",
        "token_format": "jwt",
        "global_credentials": True,
    }
    api = site.new_api(**config)
    stays = site.routed(api, **config)
    token = token_of(api, app)
    assert stays.get(token).status == 200
    jti = decoded(token.split(".")[1])["jti"]
    path = {
        "credential": f"/oauth2/{app.id}",
        "consumer": f"/consumers/{owner['id']}",
        "token": f"/oauth2_tokens/{jti}",
        "plugin": f"/plugins/{api.plugin['id']}",
    }[by]
    site.admin("DELETE", path, 204)
    stays.until(401, token, 5)


def test_s08_token_is_refused_once_it_expired(site: Site, app: App) -> None:
    api = api_of(site, token_expiration=2)
    token = token_of(api, app)
    assert api.get(token).status == 200
    api.until(401, token)
    refused(api, token)
