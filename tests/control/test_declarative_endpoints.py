"""`/narthex/config/…` over HTTP: answers, refusals, and options that are not understood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from control.admin.router import install
from control.declarative import BYTES_MAX, router
from control.store.session import Store
from tests.control.adminkit import Admin, running_app
from tests.control.filekit import versioned

FILE = versioned("consumers: [{username: alex}]")


def _application(store: Store) -> FastAPI:
    app = FastAPI()
    install(app, store)
    app.include_router(router(store))
    return app


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_app(tmp_path, _application) as running:
        yield running


def post(
    admin: Admin, action: str, content: str | bytes = FILE, status: int = 200
) -> dict[str, Any]:
    answer = admin.call("POST", f"/narthex/config/{action}", content=content)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def usernames(admin: Admin) -> list[str]:
    return [row["username"] for row in admin.get("/consumers")["data"]]


@pytest.mark.parametrize(
    ("action", "left"),
    [
        ("apply", ["alex", "jo"]),
        ("validate", ["jo"]),
        ("sync", ["alex"]),
        ("sync?dry_run=true", ["jo"]),
        ("sync?dry_run=false", ["alex"]),
        ("sync?tags=team", ["alex", "jo"]),
        ("diff", ["jo"]),
    ],
)
def test_file_is_carried_out_as_asked(admin: Admin, action: str, left: list[str]) -> None:
    admin.consumer(username="jo")
    found = post(admin, action)
    assert sorted(usernames(admin)) == left
    changes = found.pop("changes")
    deleted = int(action in ("diff", "sync") or "dry_run" in action)
    assert found.pop("tried") is True
    assert found == {"created": 1, "updated": 0, "deleted": deleted, "unchanged": 0}
    assert [one["change"] for one in changes] == ["created", "deleted"][: 1 + deleted]
    assert changes[0]["type"] == "consumers" and changes[0]["name"] == "alex"
    fields = [{"field": "username", "old": None, "new": "alex"}]
    if "tags" in action:
        fields.append({"field": "tags", "old": None, "new": ["team"]})
    assert changes[0]["fields"] == fields


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("sync?dryrun=true", "invalid option (dryrun: unknown option)"),
        ("sync?dry_run=yes", "invalid option (dry_run: expected true or false)"),
        ("apply?dry_run=true", "invalid option (dry_run: unknown option)"),
        ("validate?tags=a", "invalid option (tags: unknown option)"),
        ("diff?tags=a/b", "invalid option (tags: only tags that an entity must all have: `a,b`)"),
        ("diff?tags=", "invalid option (tags: cannot be null)"),
    ],
)
def test_option_that_is_not_understood_is_refused(admin: Admin, action: str, said: str) -> None:
    """Or a sync that was meant to be dry would not be."""
    assert post(admin, action, status=400)["message"] == said
    assert usernames(admin) == []


def test_file_is_refused_with_every_error(admin: Admin) -> None:
    refused = post(admin, "apply", versioned("services: [{name: s}]"), 400)
    where = {"entity": "services s", "field": "host", "line": 2, "column": 12}
    assert refused == {
        "message": "services s: host: required field missing",
        "errors": [where | {"message": "required field missing"}],
    }
    refused = post(admin, "sync", versioned("services: [{name: s}, {}]"), 400)
    assert refused["message"] == "2 errors" and len(refused["errors"]) == 2


def test_body_is_bounded_and_must_be_text(admin: Admin) -> None:
    assert post(admin, "apply", b"\xff", 400)["message"] == "not UTF-8 text"
    assert post(admin, "apply", b"#" * (BYTES_MAX + 1), 413)["message"] == "larger than 10 MiB"
    assert "a mapping with" in post(admin, "diff", b"", 400)["message"]


def test_dump_is_yaml_that_nobody_keeps(admin: Admin) -> None:
    admin.consumer(username="alex", tags=["team"])
    admin.consumer(username="jo")
    answer = admin.call("GET", "/narthex/config/dump?tags=team&with_id=true")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/yaml")
    assert answer.headers["cache-control"] == "no-store"
    assert "alex" in answer.text and " id: " in answer.text and "jo" not in answer.text
    assert admin.refused("GET", "/narthex/config/dump?with_ids=true")["code"] == 11
