"""Noise into every endpoint: the answer is one of ours, never an exception.

The seed is printed; `NOISE_SEED` repeats a run and `NOISE_REQUESTS` lengthens it.
"""

import json
import os
import random
from typing import Any

from control.admin.registry import RESOURCES
from control.admin.resource import Resource
from tests.control.adminkit import Admin
from tests.pki import make

PAIR, AUTHORITY = make("a"), make(authority=True)
NOWHERE = "00000000-0000-4000-8000-000000000000"
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 80, 2**31, 2**53, 2**70, 1.5, -0.0, 1e308),
    *("", "a", "x" * 300, "\x00", "a\nb", "é☃\U0001f600", "/", "/a", "~/x", "*.a", "a.*", "ws"),
    *("http", "https://h/x", "https://[", "//h:443", "$pbkdf2-sha512$i=10000,l=32$aa$bb", NOWHERE),
    *(
        [],
        ["a"],
        [None],
        [[1]],
        [{}],
        ["ws", "wss"],
        ["http"],
        ["tcp"],
        ["/a"],
        [{"ip": "1.1.1.1"}],
    ),
    *({}, {"id": None}, {"id": "x"}, {"id": NOWHERE}, {"name": "a"}, {"a": {"b": [1]}}, {"x": []}),
    *({"x": ["1"]}, {"username": "a"}, {"client_id": "a"}, {"enable_client_credentials": True}),
    {"enable_client_credentials": True, "mandatory_scope": True, "scopes": ["a"]},
]
STARTS: dict[str, dict[str, Any]] = {  # what makes each entity good, before the noise
    "services": {"host": "h"},
    "routes": {"paths": ["/"]},
    "consumers": {"custom_id": "u"},
    "plugins": {"name": "oauth2", "config": {"enable_client_credentials": True}},
    "oauth2_credentials": {"name": "app", "consumer": {"username": "a"}},
    "oauth2_tokens": {"expires_in": 1, "credential": {"client_id": "a"}},
    "certificates": {"cert": PAIR.cert, "key": PAIR.key},  # made with the SNI `a`
    "snis": {"certificate": {"id": NOWHERE}},
    "ca_certificates": {"cert": AUTHORITY.cert},
    "upstreams": {"slots": 10},
    "targets": {"weight": 1},
}
KEYS = ["a", NOWHERE, "%00", "%ff", "%2F", "..", ".", "%E2%98%83", "a%20b", "x" * 300]
OFFSETS = ["", "1", "x", "a,b", "a/b", "\x00", "W10=", "WyJhIl0=", "WyJhIiwiYiIsImMiXQ=="]
QUERY = ["size", "offset", "tags", "custom_id", "client_id"]


def seeded(admin: Admin) -> None:
    """One entity of each kind, called `a`, whatever was deleted meanwhile."""
    for resource in RESOURCES:
        above = "/upstreams/a" if resource.below_only else ""
        admin.call("PUT", f"{above}/{resource.path}/a", json=STARTS[resource.name])
    admin.call("PATCH", "/routes/a", json={"service": {"name": "a"}})


def paths_of(resource: Resource) -> list[str]:
    nested = [f"/{p.path}/{{}}/{resource.path}" for p in RESOURCES]
    foreign = [f"/{resource.path}/{{}}/{name}" for name in resource.foreign_fields]
    own = [f"/{resource.path}", f"/schemas/{resource.name}/validate", "/tags/{}"]
    return [*own, *nested, *foreign, *(f"{path}/{{}}" for path in [own[0], *nested])]


def body_of(chance: random.Random, resource: Resource) -> dict[str, Any]:
    names = list(resource.schema.fields)
    picked = {chance.choice(names): chance.choice(VALUES) for _ in range(chance.randint(0, 4))}
    return STARTS[resource.name if chance.random() < 0.8 else "services"] | picked


def test_noise_is_answered_in_order(admin: Admin) -> None:
    seed = int(os.environ.get("NOISE_SEED") or 2)  # one that reaches each status below
    print(f"NOISE_SEED={seed}")
    chance, statuses = random.Random(seed), set()
    for number in range(int(os.environ.get("NOISE_REQUESTS") or 600)):
        if number % 30 == 0:
            seeded(admin)
        resource = chance.choice(RESOURCES)
        path = chance.choice(paths_of(resource))
        path = path.format(*(chance.choice([*KEYS, *"a" * len(KEYS)]) for _ in range(2)))
        method = chance.choice(["GET", "POST", "POST", "PUT", "PUT", "PATCH", "PATCH", "DELETE"])
        body = body_of(chance, resource)
        sent: dict[str, Any] = {}
        if method == "GET":
            sent["params"] = {chance.choice(QUERY): chance.choice(OFFSETS)}
        elif chance.random() < 0.8:
            sent = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        else:
            endings = ["", "[]", ".x", "[1]", ".id", ".name"]
            sent = {"data": {n + chance.choice(endings): str(v) for n, v in body.items()}}
        answer = admin.call(method, path, **sent)
        assert answer.status_code < 500, (seed, method, path, sent, answer.text)
        statuses.add(answer.status_code)
    assert {200, 201, 204, 400, 404, 405} <= statuses
