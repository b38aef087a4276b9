"""Certificates, their SNIs and CA certificates.  spec/admin-api.md §1.5, §2."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import text

from tests.control.adminkit import Admin
from tests.pki import Pair, make

RSA = make("a.example", key="rsa")
EC = make("a.example")
OTHER = make("b.example")
AUTHORITY = make(authority=True)
EXPIRED = make(authority=True, days=(-9, -1))
NOWHERE = str(uuid.uuid4())


def body(pair: Pair = EC, **fields: Any) -> dict[str, Any]:
    return {"cert": pair.cert, "key": pair.key, **fields}


def certificate(admin: Admin, pair: Pair = EC, **fields: Any) -> dict[str, Any]:
    return admin.post("/certificates", body(pair, **fields))


def names(admin: Admin, certificate_id: str) -> list[str]:
    found: list[str] = admin.get(f"/certificates/{certificate_id}")["snis"]
    listed = admin.get(f"/certificates/{certificate_id}/snis")["data"]
    assert sorted(sni["name"] for sni in listed) == found
    return found


# --- certificates ---------------------------------------------------------------------------------


def test_certificate_is_shown_as_it_was_sent(admin: Admin) -> None:
    made = certificate(admin, snis=["b.example", "a.example"], tags=["t"])
    assert made.pop("id") and made.pop("created_at") and made.pop("updated_at")
    assert made == {
        "cert": EC.cert,
        "key": EC.key,
        "cert_alt": None,
        "key_alt": None,
        "tags": ["t"],
        "snis": ["a.example", "b.example"],
    }


def test_certificate_takes_a_chain_and_a_second_pair(admin: Admin) -> None:
    chained = EC.cert + AUTHORITY.cert
    made = certificate(admin, RSA, cert_alt=chained, key_alt=EC.key)
    assert (made["cert_alt"], made["key_alt"]) == (chained, EC.key)


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({}, {"cert": "required field missing", "key": "required field missing"}),
        (
            {"cert": "junk", "key": "junk"},
            {"cert": "invalid certificate: expected PEM", "key": "invalid key: expected PEM"},
        ),
        (body(key=OTHER.key), {"@entity": ["certificate does not match key"]}),
        (
            body(cert_alt=RSA.cert, key_alt=OTHER.key),
            {"@entity": ["alternative certificate does not match key"]},
        ),
        (
            body(cert_alt=RSA.cert),
            {"@entity": ["all or none of these fields must be set: 'cert_alt', 'key_alt'"]},
        ),
        (body(snis=["a b"]), {"snis": ["invalid hostname: a b"]}),
        (body(snis=["*.*.a"]), {"snis": ["invalid wildcard: must have at most one wildcard"]}),
        (body(cert="\0"), {"cert": "must not contain control characters"}),
    ],
)
def test_broken_certificate_is_refused(
    sent: dict[str, Any], fields: dict[str, Any], admin: Admin
) -> None:
    assert admin.fields("/certificates", sent) == fields


def test_second_pair_of_the_same_kind_is_refused(admin: Admin) -> None:
    sent = body(cert_alt=OTHER.cert, key_alt=OTHER.key)
    (said,) = admin.fields("/certificates", sent)["@entity"]
    assert "need to have different type" in said


def test_pair_is_changed_together(admin: Admin) -> None:
    made = certificate(admin)
    path = f"/certificates/{made['id']}"
    assert admin.fields(path, {"cert": OTHER.cert}, "PATCH") == {
        "@entity": ["certificate does not match key"]
    }
    assert admin.patch(path, body(OTHER))["cert"] == OTHER.cert
    assert admin.put(path, body(RSA, tags=["x"]))["tags"] == ["x"]


def test_key_stands_encrypted_in_the_database(admin: Admin) -> None:
    certificate(admin, RSA, cert_alt=EC.cert, key_alt=EC.key)
    with admin.store.reading() as session:
        row = session.connection().execute(text("SELECT key, key_alt FROM certificates")).one()
    assert not any(b"PRIVATE KEY" in bytes(value) for value in row)


def test_certificate_of_a_service_is_not_deleted(admin: Admin) -> None:
    made = certificate(admin)
    reference = {"id": made["id"]}
    service = admin.service(protocol="wss", client_certificate=reference)
    assert service["client_certificate"] == reference
    listed = admin.get(f"/certificates/{made['id']}/services")["data"]
    assert [row["id"] for row in listed] == [service["id"]]
    refused = admin.refused("DELETE", f"/certificates/{made['id']}")
    assert (refused["code"], refused["fields"]) == (4, {"@referenced_by": "services"})
    admin.patch(f"/services/{service['id']}", {"client_certificate": None})
    admin.delete(f"/certificates/{made['id']}")


def test_client_certificate_must_exist(admin: Admin) -> None:
    sent = {"host": "h", "protocol": "https", "client_certificate": {"id": NOWHERE}}
    refused = admin.refused("POST", "/services", json=sent)
    assert (refused["code"], "certificates" in refused["message"]) == (4, True)


# --- SNIs -----------------------------------------------------------------------------------------


def test_sni_is_made_listed_and_deleted(admin: Admin) -> None:
    made = certificate(admin)
    sni = admin.post("/snis", {"name": "*.a.example", "certificate": {"id": made["id"]}})
    assert sni["certificate"] == {"id": made["id"]}
    assert admin.get("/snis/*.a.example") == sni
    admin.post(f"/certificates/{made['id']}/snis", {"name": "*"})
    assert names(admin, made["id"]) == ["*", "*.a.example"]
    admin.delete("/snis/*.a.example")
    assert names(admin, made["id"]) == ["*"]


def test_sni_moves_to_another_certificate(admin: Admin) -> None:
    one, other = certificate(admin, snis=["a.example", "b.example"]), certificate(admin, OTHER)
    admin.patch("/snis/a.example", {"certificate": {"id": other["id"]}})
    assert (names(admin, one["id"]), names(admin, other["id"])) == (["b.example"], ["a.example"])
    admin.patch("/snis/a.example", {"name": "c.*"})
    assert names(admin, other["id"]) == ["c.*"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a b", "invalid hostname: a b"),
        ("127.0.0.1", "must not be an IP"),
        ("::1", "must not be an IP"),
        ("a:443", "must not have a port"),
        ("a.*.b", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("*a.b", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("*.a.*", "invalid wildcard: must have at most one wildcard"),
    ],
)
def test_broken_name_is_refused(name: str, said: str, admin: Admin) -> None:
    sent = {"name": name, "certificate": {"id": certificate(admin)["id"]}}
    assert admin.fields("/snis", sent) == {"name": said}


def test_sni_needs_a_certificate_and_a_name_of_its_own(admin: Admin) -> None:
    assert admin.fields("/snis", {"name": "a"}) == {"certificate": "required field missing"}
    made = certificate(admin, snis=["a.example"])
    sent = {"name": "a.example", "certificate": {"id": made["id"]}}
    assert admin.refused("POST", "/snis", 409, json=sent)["fields"] == {"name": "a.example"}
    assert admin.refused("POST", "/snis", json=sent | {"name": "b", "certificate": {"id": NOWHERE}})


def test_certificate_of_an_sni_is_no_path(admin: Admin) -> None:
    certificate(admin, snis=["a.example"])
    for method in ("GET", "PUT", "PATCH"):
        admin.refused(method, "/snis/a.example/certificate", 404)


def test_snis_of_a_certificate_are_replaced_or_kept(admin: Admin) -> None:
    made = certificate(admin, snis=["a.example", "b.example"])
    path = f"/certificates/{made['id']}"
    assert admin.patch(path, {"tags": ["x"]})["snis"] == ["a.example", "b.example"]
    assert admin.put(path, body())["snis"] == ["a.example", "b.example"]
    assert admin.patch(path, {"snis": ["b.example", "c.example"]})["snis"] == [
        "b.example",
        "c.example",
    ]
    assert names(admin, made["id"]) == ["b.example", "c.example"]
    assert admin.put(path, body(snis=[]))["snis"] == []
    assert admin.get("/snis")["data"] == []


def test_sni_of_another_certificate_is_refused(admin: Admin) -> None:
    owner = certificate(admin, snis=["a.example"])
    said = f"a.example already associated with existing certificate '{owner['id']}'"
    assert admin.fields("/certificates", body(snis=["a.example"])) == {"snis": said}
    other = certificate(admin, OTHER)
    fields = admin.fields(f"/certificates/{other['id']}", {"snis": ["a.example"]}, "PATCH")
    assert fields == {"snis": said}


def test_certificate_is_found_by_the_name_of_an_sni(admin: Admin) -> None:
    made = certificate(admin, snis=["a.example"])
    assert admin.get("/certificates/a.example") == made
    assert admin.patch("/certificates/a.example", {"tags": ["x"]})["id"] == made["id"]
    assert admin.put("/certificates/a.example", body(OTHER))["id"] == made["id"]
    assert admin.get("/certificates/a.example/snis")["data"][0]["name"] == "a.example"
    admin.refused("GET", "/certificates/b.example", 404)
    new = admin.put("/certificates/b.example", body())
    assert (new["snis"], new["id"] != made["id"]) == (["b.example"], True)
    admin.delete("/certificates/b.example")
    admin.refused("GET", f"/certificates/{new['id']}", 404)


def test_certificate_takes_its_snis_along(admin: Admin) -> None:
    made = certificate(admin, snis=["a.example", "b.example"])
    admin.post("/snis", {"name": "c", "certificate": {"id": made["id"]}, "tags": ["t"]})
    admin.delete(f"/certificates/{made['id']}")
    assert admin.get("/snis")["data"] == [] == admin.get("/tags")["data"]


# --- CA certificates ------------------------------------------------------------------------------


def test_ca_certificate_has_its_digest_and_stands_once(admin: Admin) -> None:
    made = admin.post("/ca_certificates", {"cert": AUTHORITY.cert, "cert_digest": "mine"})
    assert len(bytes.fromhex(made["cert_digest"])) == 32
    refused = admin.refused("POST", "/ca_certificates", 409, json={"cert": AUTHORITY.cert})
    assert refused["fields"] == {"cert_digest": made["cert_digest"]}
    other = make(authority=True)
    changed = admin.patch(f"/ca_certificates/{made['id']}", {"cert": other.cert})
    assert changed["cert_digest"] != made["cert_digest"]
    assert (
        admin.put(f"/ca_certificates/{made['id']}", {"cert": AUTHORITY.cert})["cert_digest"]
        == (made["cert_digest"])
    )


@pytest.mark.parametrize(
    ("cert", "fields"),
    [
        (None, {"cert": "required field missing"}),
        ("junk", {"cert": "invalid certificate: expected PEM"}),
        (
            AUTHORITY.cert + EC.cert,
            {"@entity": ["please submit only one certificate at a time"]},
        ),
        (
            EXPIRED.cert,
            {"@entity": ['certificate expired, "Not After" time is in the past']},
        ),
        (
            EC.cert,
            {
                "@entity": [
                    "certificate does not appear to be a CA because "
                    'it is missing the "CA" basic constraint'
                ]
            },
        ),
    ],
)
def test_broken_ca_certificate_is_refused(
    cert: str | None, fields: dict[str, Any], admin: Admin
) -> None:
    assert admin.fields("/ca_certificates", {} if cert is None else {"cert": cert}) == fields


def test_ca_certificate_that_a_service_lists_is_not_deleted(admin: Admin) -> None:
    made = admin.post("/ca_certificates", {"cert": AUTHORITY.cert})
    service = admin.service(protocol="https", ca_certificates=[NOWHERE, made["id"]])
    refused = admin.refused("DELETE", f"/ca_certificates/{made['id']}")
    assert refused == {
        "code": 19,
        "name": "referenced by others",
        "message": f"ca certificate {made['id']} is still referenced by services "
        f"(id = {service['id']})",
    }
    admin.patch(f"/services/{service['id']}", {"ca_certificates": None})
    admin.delete(f"/ca_certificates/{made['id']}")


def test_schemas_name_the_entities(admin: Admin) -> None:
    for name in ("certificates", "snis", "ca_certificates"):
        assert admin.get(f"/schemas/{name}")["fields"]
    answer = admin.call("POST", "/schemas/certificates/validate", json=body(key=OTHER.key))
    assert answer.status_code == 400
