"""hash_secret: secrets kept as Kong's PBKDF2 string.  spec/oauth2.md §9."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from tests.gateway.oauth2.answers import BASIC_CHALLENGE, INVALID_CLIENT, issued, refused
from tests.gateway.oauth2.apis import Api, App, unique
from tests.gateway.oauth2.kit import Site

PREFIX = "$pbkdf2-sha512$i=10000,l=32$"
ALL_OR_NONE = "all or none of these fields must be set: 'hash_secret', 'client_secret'"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def phc(secret: str, salt: bytes, rounds: int, length: int) -> str:
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, rounds, length)
    return f"$pbkdf2-sha512$i={rounds},l={length}${b64(salt)}${b64(digest)}"


def credential(site: Site, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = site.post(
        f"/consumers/{site.alex['id']}/oauth2",
        name="app", redirect_uris=["http://google.test/kong"], **fields,
    )  # fmt: skip
    return made


def test_hash_is_of_kongs_form(site: Site) -> None:
    row = credential(site, client_secret="tofu", hash_secret=True)
    stored = row["client_secret"]
    assert stored.startswith(PREFIX) and "=" not in stored.removeprefix(PREFIX)
    salt, digest = (
        base64.b64decode(part + "=" * (-len(part) % 4))
        for part in stored.removeprefix(PREFIX).split("$")
    )
    assert (len(salt), len(digest)) == (16, 32)
    assert digest == hashlib.pbkdf2_hmac("sha512", b"tofu", salt, 10000, 32)
    assert row["hash_secret"] is True


def test_clear_secret_is_never_returned(site: Site) -> None:
    secret = unique("secret")
    row = credential(site, client_secret=secret, hash_secret=True)
    for path in (f"/oauth2/{row['id']}", f"/consumers/{site.alex['id']}/oauth2/{row['id']}"):
        answer = site.admin_call("GET", path)
        assert answer.json()["client_secret"] == row["client_secret"]
        assert secret not in answer.text


def test_equal_secrets_have_different_hashes(site: Site) -> None:
    one, two = (credential(site, client_secret="tofu", hash_secret=True) for _ in range(2))
    assert one["client_secret"] != two["client_secret"]


@pytest.mark.parametrize("secret", ["tofu", "ünïcödé", "a" * 200, "a:b c", " "], ids=repr)
def test_secret_is_verified_against_its_hash(site: Site, api: Api, secret: str) -> None:
    row = credential(site, client_secret=secret, hash_secret=True)
    app = App(row, secret, site.alex)
    issued(api.client_credentials(app))
    issued(api.client_credentials(app))
    refused(api.client_credentials(app, client_secret=secret + "x"), *INVALID_CLIENT)
    issued(api.token({"grant_type": "client_credentials"}, headers=[app.basic()]))
    answer = api.token({"grant_type": "client_credentials"}, headers=[app.basic("x")])
    refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


def test_hash_itself_is_no_secret(site: Site, api: Api) -> None:
    row = credential(site, client_secret="tofu", hash_secret=True)
    app = App(row, row["client_secret"], site.alex)
    refused(api.client_credentials(app), *INVALID_CLIENT)


def test_generated_secret_is_hashed_too_and_of_no_use(site: Site, api: Api) -> None:
    row = credential(site, hash_secret=True)
    assert row["client_secret"].startswith(PREFIX)
    refused(api.client_credentials(App(row, row["client_secret"], site.alex)), *INVALID_CLIENT)


def test_secret_that_looks_like_a_hash_is_compared_in_clear_without_hash_secret(
    site: Site, api: Api
) -> None:
    stored = phc("tofu", b"0123456789abcdef", 10000, 32)
    row = credential(site, client_secret=stored)
    issued(api.client_credentials(App(row, stored, site.alex)))


def test_public_client_may_have_a_hashed_secret(site: Site, api: Api) -> None:
    row = credential(site, client_secret="tofu", hash_secret=True, client_type="public")
    issued(api.client_credentials(App(row, "", site.alex)))


@pytest.mark.parametrize("body", [{"client_secret": "new"}, {"hash_secret": True}], ids=repr)
def test_secret_and_hash_secret_are_patched_together(site: Site, body: dict[str, Any]) -> None:
    row = credential(site)
    refusal = site.admin("PATCH", f"/oauth2/{row['id']}", 400, body)
    assert refusal["fields"] == {"@entity": [ALL_OR_NONE]}
    own = f"/consumers/{site.alex['id']}/oauth2/{row['id']}"
    assert site.admin("PATCH", own, 400, body)["fields"] == {"@entity": [ALL_OR_NONE]}


def test_secret_may_become_hashed_and_clear_again(site: Site, api: Api) -> None:
    row = credential(site, client_secret="first")
    path = f"/oauth2/{row['id']}"
    hashed = site.admin("PATCH", path, 200, {"client_secret": "second", "hash_secret": True})
    assert hashed["client_secret"].startswith(PREFIX)
    issued(api.client_credentials(App(row, "second", site.alex)))
    refused(api.client_credentials(App(row, "first", site.alex)), *INVALID_CLIENT)
    clear = site.admin("PATCH", path, 200, {"client_secret": "third", "hash_secret": False})
    assert clear["client_secret"] == "third"
    issued(api.client_credentials(App(row, "third", site.alex)))
    refused(api.client_credentials(App(row, "second", site.alex)), *INVALID_CLIENT)


def test_patch_of_another_field_leaves_the_secret_as_it_is(site: Site, api: Api) -> None:
    row = credential(site, client_secret="tofu", hash_secret=True)
    patched = site.admin("PATCH", f"/oauth2/{row['id']}", 200, {"name": "renamed"})
    assert patched["client_secret"] == row["client_secret"]
    issued(api.client_credentials(App(row, "tofu", site.alex)))


VECTOR = (
    "$pbkdf2-sha512$i=10000,l=32$YSBsaXR0ZSBiaXQsIGp1c3QgYSBsaXR0bGUgYml0"
    "$z6ysNworexAhDELywIDi0ba0B0T7F/MBZ6Ige9lWRYI"
)


def test_hash_that_kong_made_verifies(site: Site, api: Api) -> None:
    """As it is when clients move over from there."""
    row = credential(site, client_secret=VECTOR, hash_secret=True)
    assert row["client_secret"] == VECTOR
    issued(api.client_credentials(App(row, "tofu", site.alex)))
    refused(api.client_credentials(App(row, "tofv", site.alex)), *INVALID_CLIENT)


@pytest.mark.parametrize(("rounds", "length"), [(1000, 32), (10000, 64)])
def test_outdated_hash_is_made_anew_once_it_was_verified(
    site: Site, api: Api, rounds: int, length: int
) -> None:
    outdated = phc("tofu", b"0123456789abcdef", rounds, length)
    row = credential(site, client_secret=outdated, hash_secret=True)
    app, path = App(row, "tofu", site.alex), f"/oauth2/{row['id']}"
    refused(api.client_credentials(app, client_secret="x"), *INVALID_CLIENT)
    assert site.admin("GET", path, 200)["client_secret"] == outdated
    issued(api.client_credentials(app))
    stored = site.admin("GET", path, 200)["client_secret"]
    assert stored.startswith(PREFIX) and stored != outdated
    issued(api.client_credentials(app))
