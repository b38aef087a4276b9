"""Deletions through the Admin API end codes and tokens.  spec/oauth2.md §10; S37."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import select

from control.app import create_issuer
from control.store.secrets import token_digest
from control.store.tables import AuthorizationCode, OAuth2Token, SpentRefreshToken
from tests.control.adminkit import Admin
from tests.control.issuing import CONTEXT, PROVISION_KEY, Answer, Issuing


@dataclass
class House:
    """One of everything, and a code, a token and a spent refresh token that hang on it."""

    admin: Admin
    issuer: Issuing
    ids: dict[str, str]
    tokens: dict[str, Any]
    code: str

    def path(self, kind: str) -> str:
        collection = {"credential": "oauth2"}.get(kind, f"{kind}s")
        return f"/{collection}/{self.ids[kind]}"

    @property
    def context(self) -> Any:
        return replace(
            CONTEXT,
            plugin_id=self.ids["plugin"],
            service_id=self.ids["service"],
            route_id=self.ids["route"],
        )

    def redeem(self, code: str) -> Answer:
        return self.issuer.redeem(code, context=self.context)

    def rows(self) -> dict[str, int]:
        """How many rows are left of each kind."""
        models = (AuthorizationCode, OAuth2Token, SpentRefreshToken)
        with self.admin.store.reading() as session:
            return {m.__name__: len(session.execute(select(m)).all()) for m in models}

    def revoked(self) -> list[tuple[str, bytes, float]]:
        """What the last transaction revoked."""
        return [(r.kind, r.key, r.expires_at) for r in self.admin.changes[-1].revocations]


@pytest.fixture
def house(admin: Admin) -> Iterator[House]:
    service = admin.service()
    route = admin.route(service={"id": service["id"]}, paths=["/token-route"])
    plugin = admin.plugin(
        service={"id": service["id"]},
        config={
            "enable_authorization_code": True,
            "enable_client_credentials": True,
            "provision_key": PROVISION_KEY,
            "oauth_profile": "strict",
            "token_expiration": 5000,
        },
    )
    consumer = admin.consumer()
    credential = admin.credential(
        consumer={"id": consumer["id"]},
        client_id="app",
        client_secret="s3cret",
        redirect_uris=["https://app.example/cb"],
    )
    made = {"service": service, "route": route, "plugin": plugin, "consumer": consumer}
    ids = {kind: str(entity["id"]) for kind, entity in made.items()}
    with asyncio.Runner() as runner:
        issuer = Issuing(admin.store, create_issuer(admin.store), runner)
        found = House(admin, issuer, ids | {"credential": credential["id"]}, {}, "")
        first = found.redeem(issuer.code(context=found.context)).json
        again = issuer.refresh(first["refresh_token"], context=found.context)
        found.tokens = again.json
        found.code = issuer.code(context=found.context)
        assert found.rows() == {
            "AuthorizationCode": 2,
            "OAuth2Token": 1,
            "SpentRefreshToken": 1,
        }
        yield found


@pytest.mark.parametrize("kind", ["plugin", "credential", "consumer"])
def test_s37_what_depends_on_it_goes_with_one_revocation_for_all(house: House, kind: str) -> None:
    expires = house.issuer.tokens()[0].created_at + 5000
    house.admin.delete(house.path(kind))
    kinds = {(k, key) for k, key, _ in house.revoked()}
    own = (kind, uuid.UUID(house.ids[kind]).bytes)
    assert own in kinds
    (until,) = {at for k, key, at in house.revoked() if (k, key) == own}
    assert until == pytest.approx(expires)
    left = house.rows()
    # A spent refresh token knows its client alone; it is of use to nobody when that is gone.
    assert left["SpentRefreshToken"] == (1 if kind == "plugin" else 0)
    assert (left["AuthorizationCode"], left["OAuth2Token"]) == (0, 0)
    if kind == "plugin":
        assert house.redeem(house.code).status == 404
    else:
        assert house.redeem(house.code).json["error"] == "invalid_client"


def test_s37_plugin_that_becomes_another_ends_what_it_issued(house: House) -> None:
    config = house.admin.get(house.path("plugin"))["config"]
    house.admin.put(house.path("plugin"), {"name": "websocket-session", "config": {}})
    (revoked,) = house.revoked()
    assert revoked[:2] == ("plugin", uuid.UUID(house.ids["plugin"]).bytes)
    left = house.rows()
    assert (left["AuthorizationCode"], left["OAuth2Token"]) == (0, 0)
    # Nor do they come back with the name.
    house.admin.put(house.path("plugin"), {"name": "oauth2", "config": config})
    answer = house.issuer.refresh(house.tokens["refresh_token"], context=house.context)
    assert answer.json["error"] == "invalid_grant"


def test_s37_plugin_goes_with_its_service_and_the_tokens_with_both(house: House) -> None:
    house.admin.delete(house.path("route"))
    house.admin.delete(house.path("service"))
    revoked = {(kind, key) for kind, key, _ in house.revoked()}
    assert ("plugin", uuid.UUID(house.ids["plugin"]).bytes) in revoked
    left = house.rows()
    assert (left["AuthorizationCode"], left["OAuth2Token"]) == (0, 0)


def test_s37_deleted_token_takes_its_refresh_token_along(house: House) -> None:
    house.admin.delete(f"/oauth2_tokens/{house.tokens['access_token']}")
    (revoked,) = house.revoked()
    assert revoked[:2] == ("token", token_digest(house.tokens["access_token"]))
    answer = house.issuer.refresh(house.tokens["refresh_token"], context=house.context)
    assert answer.json["error"] == "invalid_grant"


def test_revocation_of_an_instance_with_an_endless_token_never_expires(house: House) -> None:
    path = house.path("plugin")
    house.admin.patch(path, {"config": {"token_expiration": 0}})
    sent = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "s3cret"}
    assert house.issuer.post(sent, context=house.context).status == 200
    house.admin.delete(path)
    assert [at for kind, _, at in house.revoked() if kind == "plugin"] == [0.0]


def test_instance_that_comes_back_under_its_id_issues_tokens_that_are_good(house: House) -> None:
    """The revocation stays, for what was issued before it, and is of an older version."""
    path = house.path("plugin")
    body = {key: value for key, value in house.admin.get(path).items() if key != "updated_at"}
    house.admin.delete(path)
    (revoked,) = house.admin.changes[-1].revocations
    assert revoked.kind == "plugin"
    house.admin.put(path, body)
    answer = house.redeem(house.issuer.code(context=house.context))
    assert answer.status == 200
    (token,) = house.admin.changes[-1].tokens
    assert token.plugin_id == house.ids["plugin"]
    assert token.version > revoked.version


def test_other_plugins_leave_no_revocation(house: House) -> None:
    made = house.admin.post("/plugins", {"name": "websocket-session", "config": {}})
    house.admin.delete(f"/plugins/{made['id']}")
    assert house.revoked() == []


def test_disabled_instance_issues_nothing_and_its_tokens_stay(house: House) -> None:
    path = house.path("plugin")
    house.admin.patch(path, {"enabled": False})
    assert house.redeem(house.code).status == 404
    answer = house.issuer.refresh(house.tokens["refresh_token"], context=house.context)
    assert answer.status == 404
    assert house.rows()["OAuth2Token"] == 1
    house.admin.patch(path, {"enabled": True})
    assert house.redeem(house.code).status == 200


def test_renamed_client_is_known_by_its_new_id_alone(house: House) -> None:
    house.admin.patch(house.path("credential"), {"client_id": "renamed"})
    assert house.redeem(house.code).json["error"] == "invalid_client"
    answer = house.issuer.redeem(house.code, context=house.context, client_id="renamed")
    assert answer.status == 200


def test_changed_config_holds_for_the_next_request(house: House) -> None:
    """Instances are remembered between requests; not past a change."""
    sent = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "s3cret"}

    def ask() -> Answer:
        return house.issuer.post(sent, context=house.context)

    assert ask().json["expires_in"] == 5000
    house.admin.patch(house.path("plugin"), {"config": {"token_expiration": 7}})
    assert ask().json["expires_in"] == 7
    house.admin.patch(house.path("credential"), {"client_secret": "n", "hash_secret": False})
    assert ask().status == 401
    sent["client_secret"] = "n"
    assert ask().status == 200
