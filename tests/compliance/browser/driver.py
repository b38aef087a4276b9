"""Chromium, headless, by the WebDriver protocol: as much of it as pages with a script need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.harness import Process, eventually, free_ports

SCRIPT_SECONDS = 30
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # it refuses to run as root otherwise
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


class Browser:
    """One window."""

    def __init__(self, http: httpx.Client, session: str) -> None:
        self._http, self._session = http, session

    def open(self, url: str) -> None:
        self._post("url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        """The value of an async function's body, `args` its `arguments`; a throw is said."""
        wrapped = (
            "const done = arguments[arguments.length - 1];"
            f"(async function () {{ {script} }}).apply(null, Array.from(arguments).slice(0, -1))"
            ".then((value) => done({value}), (error) => done({error: String(error)}));"
        )
        found = self._post("execute/async", {"script": wrapped, "args": list(args)})
        if "error" in found:
            raise AssertionError(f"the page's script threw {found['error']}")
        return found.get("value")

    def _post(self, command: str, body: dict[str, Any]) -> Any:
        return _value(self._http.post(f"/session/{self._session}/{command}", json=body))


def _value(answer: httpx.Response) -> Any:
    found = answer.json()["value"]
    if answer.status_code != 200:
        raise AssertionError(f"chromedriver: {found['error']}: {found['message']}")
    return found


@contextlib.contextmanager
def chromium(
    folder: Path, program: str, driver: str, environment: dict[str, str]
) -> Iterator[Browser]:
    """A browser of its own profile in `folder`, that takes any certificate."""
    (port,) = free_ports(1)
    process = Process([driver, f"--port={port}"], environment, folder / "chromedriver.log", folder)
    options = {"binary": program, "args": [*SWITCHES, f"--user-data-dir={folder / 'profile'}"]}
    wanted = {"browserName": "chrome", "acceptInsecureCerts": True, "goog:chromeOptions": options}
    wanted["timeouts"] = {"script": SCRIPT_SECONDS * 1000}
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:

            def ready() -> bool:
                process.check_running()
                return bool(_value(http.get("/status"))["ready"])

            eventually(ready, 30.0, "chromedriver")
            made = _value(http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}))
            try:
                yield Browser(http, made["sessionId"])
            finally:
                http.delete(f"/session/{made['sessionId']}")
    finally:
        process.stop()
