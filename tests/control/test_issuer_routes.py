"""control/oauth2/issuer_routes.py: route and plugin by path alone."""

from __future__ import annotations

import time
from typing import Any

import pytest

from control.oauth2.issuer_routes import IssuerRoute, IssuerRoutes, index_of
from control.store.queries import ConfigRows, PluginRow, RouteRow, ServiceRow
from tests.control.issuing import CONTEXT, Issuing


def route(id_: str, paths: list[str] | None, **fields: Any) -> RouteRow:
    values = {"id": id_, "paths": paths, "protocols": ["https"], "created_at": 0}
    return RouteRow(**(dict.fromkeys(RouteRow._fields) | values | fields))  # type: ignore[arg-type]


def plugin(id_: str, **fields: Any) -> PluginRow:
    values = {"id": id_, "name": "oauth2", "enabled": True, "protocols": ["https"], "config": {}}
    return PluginRow(**(dict.fromkeys(PluginRow._fields) | values | fields))  # type: ignore[arg-type]


def service(id_: str, enabled: bool = True) -> ServiceRow:
    values = {"id": id_, "enabled": enabled}
    return ServiceRow(**(dict.fromkeys(ServiceRow._fields) | values))  # type: ignore[arg-type]


def rows(
    routes: list[RouteRow], plugins: list[PluginRow], services: list[ServiceRow] | None = None
) -> ConfigRows:
    return ConfigRows("e", 1, b"", services or [], routes, plugins, [], [])


@pytest.mark.parametrize(
    ("scopes", "chosen"),
    [
        (["both", "route", "service", "global"], "both"),
        (["route", "service", "global"], "route"),
        (["service", "global"], "service"),
        (["global"], "global"),
        ([], None),
    ],
)
def test_most_specific_plugin_is_chosen(scopes: list[str], chosen: str | None) -> None:
    all_of_them = {
        "both": plugin("both", route_id="r", service_id="s"),
        "route": plugin("route", route_id="r"),
        "service": plugin("service", service_id="s"),
        "global": plugin("global"),
    }
    others = [
        plugin("other", name="key-auth", route_id="r"),
        plugin("off", enabled=False, route_id="r", service_id="s"),
        plugin("consumers", consumer_id="c"),
    ]
    index = index_of(
        rows(
            [route("r", ["/a"], service_id="s")],
            [*others, *(all_of_them[scope] for scope in scopes)],
            [service("s")],
        )
    )
    assert index == ({"/a": IssuerRoute("r", chosen, "s")} if chosen else {})


@pytest.mark.parametrize(
    "unfit",
    [
        {"protocols": ["ws", "wss"]},
        {"methods": ["GET"]},
        {"service_id": "off"},
    ],
)
def test_route_that_takes_no_posts_is_left_out(unfit: dict[str, Any]) -> None:
    found = index_of(
        rows([route("r", ["/a"], **unfit)], [plugin("p")], [service("off", enabled=False)])
    )
    assert found == {}


def test_older_route_has_a_shared_path() -> None:
    routes = [route("b", ["/a"], created_at=2), route("c", ["/a", "/c"], created_at=1)]
    index = index_of(rows(routes, [plugin("p")]))
    assert {path: found.route_id for path, found in index.items()} == {"/a": "c", "/c": "c"}


def test_longest_path_wins_and_a_route_without_paths_is_the_last(
    issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = [route("root", None), route("a", ["/a"]), route("ab", ["/a/b", "/x"])]
    found = IssuerRoutes(issuer.store)
    monkeypatch.setattr("control.store.queries.config_rows", lambda _: rows(routes, [plugin("p")]))

    def at(path: str) -> str | None:
        entry = found.find(path)
        return entry and entry.route_id

    assert at("/a/b/oauth2/token") == "ab"
    assert at("/a/c/oauth2/token") == "a"
    assert at("/ab") == "a"
    assert at("/x/oauth2/token") == "ab"
    assert at("/oauth2/token") == "root"


def test_configuration_is_read_once_for_each_version(
    issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = IssuerRoutes(issuer.store)
    reads: list[int] = []
    read = found._read
    monkeypatch.setattr(found, "_read", lambda: reads.append(1) or read())
    path = "/token-route/oauth2/token"
    for _ in range(3):
        assert found.find(path) == IssuerRoute(CONTEXT.route_id, CONTEXT.plugin_id, None)
    assert found.find("/elsewhere") is None
    assert len(reads) == 1
    issuer.grant(client_id="nobody")
    assert found.find(path) and len(reads) == 1  # no change of the configuration
    with issuer.store.writing() as session:
        session.note_config()
    assert found.find(path) and len(reads) == 2


def test_long_path_costs_no_more_than_the_lengths_that_routes_have(
    issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may send a path of 64 KiB; cut at each of its characters it took half a second."""
    found = IssuerRoutes(issuer.store)
    several = rows([route("a", ["/a", "/long-one"])], [plugin("p")])
    monkeypatch.setattr("control.store.queries.config_rows", lambda _: several)
    assert found.find("/a/x") is not None
    began = time.thread_time()
    assert found.find("/x" * 32_000) is None
    assert found.find("/a" + "/x" * 32_000) is not None
    assert time.thread_time() - began < 0.1
