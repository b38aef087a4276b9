"""`/docs` under its policy: nothing inline, nothing from elsewhere, all there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.app import admin_app
from tests.control.adminkit import Admin, running_app


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder: Path = tmp_path_factory.mktemp("docs")
    with running_app(folder, lambda store: admin_app(store, list)) as running:
        yield running


def policy(text: str) -> dict[str, list[str]]:
    """A Content-Security-Policy, sources by directive."""
    words = [part.split() for part in text.split(";")]
    return {directive: sources for directive, *sources in words}


def linked(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]*)"', page)


def test_page_takes_only_what_this_server_serves(admin: Admin) -> None:
    answer = admin.call("GET", "/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    found = policy(answer.headers["content-security-policy"])
    assert found["default-src"] == ["'self'"]
    assert set(found["img-src"]) == {"'self'", "data:"}
    assert found.keys().isdisjoint({"script-src", "style-src", "connect-src"})
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_page_has_no_script_inline_and_names_no_other_server(admin: Admin) -> None:
    page = admin.call("GET", "/docs").text
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == ["", ""]
    assert not re.search(r"<style|\son\w+=|style=", page)
    assert all(link.startswith(("/docs/", "data:,")) for link in linked(page))
    start = admin.call("GET", "/docs/start.js").text
    assert "//" not in page + start
    assert "validatorUrl: null" in start


def test_everything_that_the_page_names_is_there(admin: Admin) -> None:
    page = admin.call("GET", "/docs").text
    kinds = {"css": "text/css", "js": "text/javascript"}
    names = [link for link in linked(page) if link.startswith("/")]
    assert len(names) == 3
    for name in names:
        answer = admin.call("GET", name)
        assert answer.status_code == 200
        kind = kinds[name.rpartition(".")[2]]
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"SwaggerUIBundle" in admin.call("GET", "/docs/swagger-ui-bundle.js").content
    assert admin.get("/openapi.json")["info"]


@pytest.mark.parametrize(
    "path", ["/docs/redoc.standalone.js", "/docs/%2e%2e/openapi.json", "/redoc"]
)
def test_nothing_else_is_served_beside_it(path: str, admin: Admin) -> None:
    admin.refused("GET", path, 404)
