"""What all routes together may ask: refused at the write, not by the data planes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.admin import route_limits
from control.declarative import FileRefused
from dataplane.compile import CompileError
from tests.control.adminkit import Admin
from tests.control.filekit import apply_text
from tests.dataplane.snapshots import route, service, tables_of, uid


def word(number: int) -> str:
    """A method of our own: letters alone."""
    return "M" + "".join(chr(65 + int(digit)) for digit in str(number))


def methods(count: int) -> list[str]:
    return [word(number) for number in range(count)]


ROOM = route_limits.METHODS_MAX - len(route_limits.USUAL_METHODS)


def test_unusual_methods_are_bounded_over_all_routes(admin: Admin) -> None:
    first = admin.post("/routes", {"paths": ["/a"], "methods": methods(ROOM)})
    admin.post("/routes", {"paths": ["/b"], "methods": ["GET", word(0)]})  # none that is new
    over = {"paths": ["/c"], "methods": [word(ROOM)]}
    refused = admin.refused("POST", "/routes", json=over)
    text = f"all routes together may name {ROOM} methods besides the usual ones"
    assert refused["fields"] == {"methods": text}
    assert len(admin.get("/routes")["data"]) == 2
    moved = {"methods": [*methods(ROOM)[1:], word(ROOM)]}  # the other route keeps the first
    admin.refused("PATCH", f"/routes/{first['id']}", json=moved)
    admin.delete(f"/routes/{first['id']}")
    admin.post("/routes", over)


def test_pairs_of_host_and_path_are_bounded_over_all_routes(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_limits, "PAIRS_MAX", 60)
    hosts = [f"h{n}.example" for n in range(6)]
    paths = [f"/p{n}" for n in range(5)]
    for _ in range(2):
        admin.post("/routes", {"hosts": hosts, "paths": paths})
    refused = admin.refused("POST", "/routes", json={"hosts": hosts, "paths": paths})
    text = "all routes together may have 60 pairs of a host and a path, not 90"
    assert refused["fields"] == {"@entity": [text]}
    assert len(admin.get("/routes")["data"]) == 2


def test_file_that_is_too_much_changes_nothing(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_limits, "PAIRS_MAX", 60)
    hosts = [f"h{n}.example" for n in range(31)]
    routes = [{"name": f"r{n}", "hosts": hosts, "paths": ["/"]} for n in range(2)]
    file = {"_format_version": "3.0", "routes": routes}
    with pytest.raises(FileRefused, match="pairs of a host and a path"):
        apply_text(admin.store, json.dumps(file))
    assert admin.get("/routes")["data"] == []


@pytest.mark.parametrize(
    ("fits", "more"),
    [
        ({"methods": methods(route_limits.METHODS_MAX)}, {"methods": [word(99)]}),
        (
            {
                "hosts": [f"h{n}.example" for n in range(512)],
                "paths": [f"/p{n}" for n in range(512)],
            },
            {"paths": ["/one-more"]},
        ),
    ],
    ids=["methods", "pairs"],
)
def test_limits_are_those_of_the_data_plane(fits: dict[str, Any], more: dict[str, Any]) -> None:
    routes = [route(n, service=uid(1), **given) for n, given in ((1, fits), (2, more))]
    tables_of(service(), routes[0])
    with pytest.raises(CompileError, match="more than"):
        tables_of(service(), *routes)
    pairs = max(1, len(fits.get("hosts", ()))) * max(1, len(fits.get("paths", ())))
    assert pairs in (1, route_limits.PAIRS_MAX)
