"""`narthex import kong`: what a Kong has, read from its Admin API or a file, and handed over.

The control plane takes it over in one transaction and says what it did; here it is only read.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import yaml

from narthex.admin import ask
from narthex.config_file import fill_in
from narthex.fault import Fault
from narthex.requests import send

PATH = "/narthex/import/kong"
FORMAT_VERSION = "3.0"
PAGE_SIZE = 1000  # the most that Kong gives
PAGES_MAX = 10_000  # of one collection
REQUEST_BYTES_MAX = 64 * 1024 * 1024  # as the control plane takes them
IMPORT_SECONDS = 600.0
_VERSION = re.compile(r"[0-9]+(?=\.)")

# What is there in every Kong, and what may be missing; where it is read, and its name in files.
NEEDED = ("services", "routes", "consumers", "plugins", "certificates", "snis", "upstreams")
OPTIONAL = {
    "ca_certificates": "ca_certificates",
    "oauth2": "oauth2_credentials",
    "oauth2_tokens": "oauth2_tokens",
    # Read so that it can be said how many of them were left out.
    "key-auths": "keyauth_credentials",
    "basic-auths": "basicauth_credentials",
    "hmac-auths": "hmacauth_credentials",
    "jwts": "jwt_secrets",
    "acls": "acls",
    "mtls-auths": "mtls_auth_credentials",
    "consumer_groups": "consumer_groups",
    "vaults": "vaults",
    "keys": "keys",
    "key-sets": "key_sets",
    "filter-chains": "filter_chains",
    "partials": "partials",
}
ABSENT: dict[str, Any] = {}  # what is read of one
_ABSENT = (404, 405)  # a collection that this Kong has not; without a database 405 for some

Collections = dict[str, Any]
Say = Callable[[str], None]


class KongApi:
    """An Admin API of Kong's, read only."""

    def __init__(
        self, url: str, headers: Mapping[str, str], say: Say, *, insecure: bool = False
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = dict(headers)
        self._say = say
        self._insecure = insecure

    def read(self, *, tokens: bool) -> Collections:
        """All collections.

        Raises:
            Fault: no Kong of version 3 there, it refuses, or it ends halfway.
        """
        version = self._version()
        self._say(f"Kong {version} at {self._url}")
        found: Collections = {name: self._collection(name, needed=True) for name in NEEDED}
        for path, name in OPTIONAL.items():
            if tokens or name != "oauth2_tokens":
                found[name] = self._collection(path, needed=False)
        found["targets"] = [
            target
            for upstream in found["upstreams"]
            for target in self._collection(f"upstreams/{upstream['id']}/targets", needed=True)
        ]
        self._look_for_workspaces()
        return found

    def _version(self) -> str:
        version = self._get("/").get("version")
        major = _VERSION.match(version) if isinstance(version, str) else None
        if major is None:
            raise Fault(f"{self._url}: answers, but not as an Admin API of Kong does")
        if major[0] != "3":
            raise Fault(f"{self._url}: is Kong {version}; only 3.x can be read: upgrade it first")
        return str(version)

    def _collection(self, path: str, *, needed: bool) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for page in self._pages(path, needed=needed):
            found += page
            if len(found) > PAGE_SIZE:
                self._say(f"  {path}: {len(found)} …")
        if found and "/" not in path:
            self._say(f"  {path}: {len(found)}")
        return found

    def _pages(self, path: str, *, needed: bool) -> Iterator[list[dict[str, Any]]]:
        offset = ""
        for _ in range(PAGES_MAX):
            query = f"size={PAGE_SIZE}" + (f"&offset={quote(offset, safe='')}" if offset else "")
            page = self._get(f"/{path}?{query}", absent=not needed)
            data = page.get("data") if page is not ABSENT else []
            if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
                raise Fault(f"{self._url}/{path}: a list of entities was expected")
            yield data
            before, offset = offset, str(page.get("offset") or "")
            if not offset:
                return
            if offset == before:
                break
        raise Fault(f"{self._url}/{path}: its pages do not come to an end")

    def _get(self, path: str, *, absent: bool = False) -> dict[str, Any]:
        url = self._url + path
        shown = url.partition("?")[0]
        reply = send("GET", url, headers=self._headers, insecure=self._insecure)
        if absent and reply.status in _ABSENT:
            return ABSENT
        if reply.status in (401, 403):
            raise Fault(
                f"{shown}: refused ({reply.status}): --admin-token or --header may be missing"
            )
        if not reply.ok:
            raise Fault(f"{shown}: {reply.status} {reply.json().get('message', '')}".rstrip())
        return reply.json()

    def _look_for_workspaces(self) -> None:
        found = self._get("/workspaces", absent=True).get("data") or ()
        others = [str(item.get("name")) for item in found if isinstance(item, dict)]
        if len(others) > 1:
            self._say(
                f"This Kong has workspaces ({', '.join(sorted(others))}); the one that was read is "
                "that of the URL, the default one without a name behind it."
            )


def read_file(text: str, environment: Mapping[str, str]) -> Collections:
    """The collections of a file: of decK, or of `kong config db_export`.

    Raises:
        Fault: not YAML or JSON of that form.
    """
    found = _parsed(fill_in(text, environment))
    if not isinstance(found, dict):
        raise Fault("the file is not of Kong's format: a mapping with _format_version was expected")
    version = found.get("_format_version")
    if str(version) != FORMAT_VERSION:
        raise Fault(
            f'_format_version: "{FORMAT_VERSION}" was expected, not {version!r}; '
            "`deck file convert` makes a file of an older Kong one of 3.0"
        )
    return found


def _parsed(text: str) -> Any:
    if text.lstrip().startswith("{"):  # JSON is YAML, read fifty times as fast
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise Fault(f"the file is not YAML: {getattr(error, 'problem', 'broken')}{where}") from None


def hand_over(base: str, collections: Collections, options: Mapping[str, bool]) -> dict[str, Any]:
    """What the control plane's report says; its `message` is why it refused, else null.

    Raises:
        Fault: it does not answer, or cannot read what it was given.
    """
    try:
        body = json.dumps({"collections": collections, **options}, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise Fault("the file holds what JSON does not: a date, say; put it in quotes") from None
    if len(body.encode()) > REQUEST_BYTES_MAX:
        raise Fault(
            f"more than {REQUEST_BYTES_MAX // 2**20} MiB together; --no-tokens leaves out tokens"
        )
    reply = ask("POST", base + PATH, body, timeout=IMPORT_SECONDS)
    found = reply.json()
    if not reply.ok and "taken" not in found:
        raise Fault(f"refused, nothing was changed: {found.get('message', 'no reason given')}")
    return found


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    found: list[str] = []
    if report["taken"]:
        found.append(f"{'':20}{'created':>10}{'updated':>10}{'unchanged':>10}")
    found += [
        f"{row['type']:20}{row['created']:>10}{row['updated']:>10}{row['unchanged']:>10}"
        for row in report["taken"]
    ]
    for title, name in (("left out:", "left_out"), ("taken over, but:", "notes")):
        if report[name]:
            found += [title, *(_group(row) for row in report[name])]
    if report["conflicts"]:
        found.append("in the way:")
        found += [f"  {c['type']} {c['name']}: {c['reason']}" for c in report["conflicts"]]
    return [_printable(line) for line in found]


def _printable(line: str) -> str:
    """Names may hold what a terminal would obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def _group(row: Mapping[str, Any]) -> str:
    more = ", …" if row["count"] > len(row["examples"]) else ""
    return f"  {row['type']}: {row['reason']}: {row['count']} ({', '.join(row['examples'])}{more})"


def say(line: str) -> None:
    """Progress, apart from the report."""
    print(line, file=sys.stderr, flush=True)


def parsed_headers(given: Sequence[tuple[str, str]], token: str | None) -> dict[str, str]:
    return dict(given) | ({"Kong-Admin-Token": token} if token else {})
