"""authlib and requests-oauthlib, each with the grants that it knows.  Run by run.py, in a venv.

    python python_clients.py ABOUT     what `judged.Judged.about` says, as a file

Prints `ok LIBRARY INSTANCE: what it did`, or `FAILED` for `ok` and why.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from oauthlib.oauth2 import (
    BackendApplicationClient,
    LegacyApplicationClient,
    MobileApplicationClient,
    WebApplicationClient,
)
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

VERIFIER = "a-verifier-of-at-least-43-characters-as-rfc-7636-wants"

About = dict[str, Any]


class Place:
    """One instance as a client sees it, and the back end that its users log in at."""

    def __init__(self, about: About, instance: dict[str, Any]) -> None:
        self.about, self.name = about, instance["name"]
        self.strict = instance["profile"] == "strict"
        self.jwt = instance["token_format"] == "jwt"
        self.issuer, self.websocket = instance["issuer"], instance["websocket"]
        host, slash, path = self.issuer.removeprefix("https://").partition("/")
        url = f"https://{host}/.well-known/oauth-authorization-server{slash}{path}"
        answer = requests.get(url, verify=about["ca"], timeout=10)
        answer.raise_for_status()
        self.metadata: dict[str, Any] = answer.json()
        assert self.metadata["issuer"] == self.issuer, self.metadata

    def endpoint(self, name: str) -> str:
        return str(self.metadata[f"{name}_endpoint"])

    def log_in(self, url: str, user: str = "alice") -> str:
        """What the back end does once a browser came with `url` and the user agreed."""
        asked = dict(parse_qsl(urlsplit(url).query))
        proof = {"provision_key": self.about["provision_key"], "authenticated_userid": user}
        # Not a document's endpoint for browsers: the back end's alone.
        answer = requests.post(
            f"{self.issuer}/oauth2/authorize",
            data=asked | proof,
            verify=self.about["ca"],
            timeout=10,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["redirect_uri"])

    def talk(self, token: str) -> None:
        """Open a WebSocket with the token, and hear the echo."""
        context = ssl.create_default_context(cafile=self.about["ca"])
        headers = {"Authorization": f"Bearer {token}"}
        with connect(self.websocket, ssl=context, additional_headers=headers, proxy=None) as socket:
            socket.send("hello")
            assert socket.recv(timeout=10) == "hello"

    def is_refused(self, token: str) -> None:
        try:
            self.talk(token)
        except InvalidStatus as error:
            assert error.response.status_code == 401, error.response
        else:
            raise AssertionError("a token that is no good opened a WebSocket")

    def check_jwt(self, token: str, client_id: str) -> None:
        """As RFC 9068 §4 has a resource server do it, with keys from jwks_uri."""
        keys = requests.get(self.metadata["jwks_uri"], verify=self.about["ca"], timeout=10).json()
        for key in keys["keys"]:
            assert not key.keys() & {"d", "p", "q", "dp", "dq", "qi", "k"}, "a private key"
        found = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["ES256"])
        assert found.header["typ"] == "at+jwt", found.header
        registry = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self.issuer},
            client_id={"essential": True, "value": client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            jti={"essential": True},
        )
        registry.validate(found.claims)


# --- authlib ---------------------------------------------------------------------------------


def authlib_session(place: Place, who: str, method: str, **more: Any) -> AuthlibSession:
    client = place.about[who]
    session = AuthlibSession(
        client["client_id"],
        more.pop("secret", None) or client.get("client_secret"),
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        introspection_endpoint_auth_method=method,
        scope="email",
        redirect_uri=place.about["redirect_uri"],
        **more,
    )
    session.verify = place.about["ca"]
    session.trust_env = False
    return session


def authlib_metadata(place: Place) -> None:
    found = AuthorizationServerMetadata(place.metadata)
    found.validate()
    assert "client_credentials" in found["grant_types_supported"], found


def authlib_client_credentials(place: Place, who: str, method: str) -> None:
    session = authlib_session(place, who, method)
    token = session.fetch_token(place.endpoint("token"), grant_type="client_credentials")
    assert token["token_type"].lower() == "bearer" and token["expires_in"] > 0, token
    assert "refresh_token" not in token, "RFC 6749 §4.4.3"
    if place.jwt:
        place.check_jwt(token["access_token"], place.about[who]["client_id"])
    place.talk(token["access_token"])


def authlib_private_key_jwt(place: Place) -> None:
    key = ECKey.import_key(place.about["keyed"]["jwk"])
    session = authlib_session(place, "keyed", "private_key_jwt", secret=key)
    url = place.endpoint("token")
    # By itself authlib names the endpoint as audience and gives the assertion an hour: for a
    # server of RFC 7523bis that is too many servers, and here 5 minutes are the most.
    soon = {"exp": int(time.time()) + 60}
    key_id = {"kid": "client-key"}
    method = PrivateKeyJWT(place.issuer, claims=soon, headers=key_id, alg="ES256")
    session.register_client_auth_method(method)
    token = session.fetch_token(url, grant_type="client_credentials")
    place.talk(token["access_token"])


def authlib_code(place: Place, who: str, method: str) -> None:
    """authorization_code with PKCE, then all that can happen to its tokens."""
    session = authlib_session(place, who, method, code_challenge_method="S256")
    url, state = session.create_authorization_url(
        f"{place.issuer}/authorize", code_verifier=VERIFIER
    )
    back = place.log_in(url)
    first = session.fetch_token(
        place.endpoint("token"), authorization_response=back, state=state, code_verifier=VERIFIER
    )
    place.talk(first["access_token"])
    second = session.refresh_token(place.endpoint("token"), refresh_token=first["refresh_token"])
    assert second["access_token"] != first["access_token"]
    place.is_refused(first["access_token"])
    place.talk(second["access_token"])
    session.token = second
    if method == "none":
        return
    said = session.introspect_token(place.endpoint("introspection"), second["access_token"]).json()
    assert said["active"] is True and said["client_id"] == place.about[who]["client_id"], said
    assert said["scope"] == "email" and said["username"] == "alice", said
    answer = session.revoke_token(
        place.endpoint("revocation"), second["refresh_token"], token_type_hint="refresh_token"
    )
    assert answer.status_code == 200, answer.text
    again = session.introspect_token(place.endpoint("introspection"), second["access_token"]).json()
    assert again == {"active": False}, again
    place.is_refused(second["access_token"])


def authlib_password(place: Place) -> None:
    session = authlib_session(place, "confidential", "client_secret_basic")
    token = session.fetch_token(
        place.endpoint("token"),
        grant_type="password",
        username="alice",
        password="known to the back end",
        provision_key=place.about["provision_key"],
        authenticated_userid="alice",
    )
    place.talk(token["access_token"])


# --- requests-oauthlib -----------------------------------------------------------------------


def oauthlib_session(place: Place, client: Any, **more: Any) -> OAuth2Session:
    session = OAuth2Session(client=client, scope=["email"], **more)
    session.verify = place.about["ca"]
    session.trust_env = False
    return session


def basic(place: Place, who: str = "confidential") -> HTTPBasicAuth:
    client = place.about[who]
    return HTTPBasicAuth(client["client_id"].encode(), client["client_secret"].encode())


def oauthlib_client_credentials(place: Place, who: str, *, in_body: bool) -> None:
    client = place.about[who]
    session = oauthlib_session(place, BackendApplicationClient(client["client_id"]))
    if in_body:
        how = {"include_client_id": True, "client_secret": client["client_secret"]}
    else:
        how = {"auth": basic(place, who)}
    token = session.fetch_token(place.endpoint("token"), **how)
    place.talk(token["access_token"])


def oauthlib_code(place: Place) -> None:
    """authorization_code with PKCE, a refresh and a revocation."""
    client = place.about["confidential"]
    session = oauthlib_session(
        place,
        WebApplicationClient(client["client_id"]),
        redirect_uri=place.about["redirect_uri"],
        pkce="S256",
    )
    url, _ = session.authorization_url(f"{place.issuer}/authorize")
    token = session.fetch_token(
        place.endpoint("token"), authorization_response=place.log_in(url), auth=basic(place)
    )
    place.talk(token["access_token"])
    renewed = session.refresh_token(
        place.endpoint("token"), refresh_token=token["refresh_token"], auth=basic(place)
    )
    place.is_refused(token["access_token"])
    place.talk(renewed["access_token"])
    where, headers, body = session._client.prepare_token_revocation_request(
        place.endpoint("revocation"), renewed["access_token"]
    )
    answer = requests.post(
        where, data=body, headers=headers, auth=basic(place), verify=place.about["ca"], timeout=10
    )
    assert answer.status_code == 200, answer.text
    place.is_refused(renewed["access_token"])


def oauthlib_implicit(place: Place) -> None:
    client = place.about["confidential"]
    session = oauthlib_session(
        place,
        MobileApplicationClient(client["client_id"]),
        redirect_uri=place.about["redirect_uri"],
    )
    url, _ = session.authorization_url(f"{place.issuer}/authorize")
    token = session.token_from_fragment(place.log_in(url))
    assert "refresh_token" not in token, token
    place.talk(token["access_token"])


def oauthlib_password(place: Place) -> None:
    client = place.about["confidential"]
    session = oauthlib_session(place, LegacyApplicationClient(client["client_id"]))
    token = session.fetch_token(
        place.endpoint("token"),
        username="alice",
        password="known to the back end",
        auth=basic(place),
        provision_key=place.about["provision_key"],
        authenticated_userid="alice",
    )
    place.talk(token["access_token"])


# --- all of it -------------------------------------------------------------------------------

Case = tuple[str, str, Callable[[Place], None]]


def cases(place: Place) -> list[Case]:
    found: list[Case] = [
        ("authlib", "metadata (RFC 8414)", authlib_metadata),
        ("authlib", "client_credentials, private_key_jwt", authlib_private_key_jwt),
    ]
    for who in ("confidential", "hashed"):
        for method in ("client_secret_basic", "client_secret_post"):
            what = f"client_credentials, {method}, {who} secret"
            found.append(
                ("authlib", what, lambda p, w=who, m=method: authlib_client_credentials(p, w, m))
            )
    code = "authorization_code with PKCE, refresh, introspection, revocation"
    found += [
        ("authlib", code, lambda p: authlib_code(p, "confidential", "client_secret_basic")),
        ("authlib", "authorization_code of a public client",
         lambda p: authlib_code(p, "public", "none")),
        ("requests-oauthlib", "client_credentials, Basic",
         lambda p: oauthlib_client_credentials(p, "confidential", in_body=False)),
        ("requests-oauthlib", "client_credentials, hashed secret in the body",
         lambda p: oauthlib_client_credentials(p, "hashed", in_body=True)),
        ("requests-oauthlib", "authorization_code with PKCE, refresh, revocation", oauthlib_code),
    ]  # fmt: skip
    if not place.strict:  # which has neither: RFC 9700 §2.1.2, §2.4
        found += [
            ("authlib", "password", authlib_password),
            ("requests-oauthlib", "password", oauthlib_password),
            ("requests-oauthlib", "implicit", oauthlib_implicit),
        ]
    return found


def main() -> int:
    about: About = json.loads(Path(sys.argv[1]).read_text())
    failed = False
    for instance in about["instances"]:
        try:
            place = Place(about, instance)
        except Exception as error:
            failed = True
            print(f"FAILED authlib {instance['name']}: metadata: {error!r}")
            continue
        for library, what, case in cases(place):
            try:
                case(place)
                print(f"ok {library} {place.name}: {what}")
            except Exception as error:
                failed = True
                print(f"FAILED {library} {place.name}: {what}: {error!r}")
                traceback.print_exc()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
