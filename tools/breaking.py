"""What in openapi.json would break clients of the last release.

    python -m tools.breaking              tells; exit status 1 when the changelog does not
    python -m tools.breaking --released   openapi.json becomes the last release's

The last release's document is tests/openapi/released.json, without its texts. A break is let pass
when the topmost part of CHANGELOG.md has an item that begins with "Breaking:" and names the
operation by its id. References are followed, so that a model may get another name.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT, RELEASED = ROOT / "openapi.json", ROOT / "tests" / "openapi" / "released.json"
CHANGELOG = ROOT / "CHANGELOG.md"
DEPTH_MAX = 40  # of schemas within schemas
_CHOICES = ("oneOf", "anyOf")
_TEXTS = ("description", "summary", "examples", "links", "info", "tags", "servers")


@dataclass(frozen=True)
class Break:
    """One thing that a client may rely on and that is there no more."""

    operation: str  # its id
    what: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.what}"


def breaks(old: Json, new: Json) -> list[Break]:
    """Every break, by operation."""
    now = dict(_operations(new))
    found = []
    for called, before in _operations(old):
        name = before["operationId"]
        if called not in now:
            found.append(Break(name, f"{called} is gone"))
            continue
        after = now[called]
        whats = _Compared(old, new).operation(before, after)
        found += [Break(name, what) for what in dict.fromkeys(whats)]
    return found


def announced(changelog: str) -> list[str]:
    """The lines that own up to breaks, in the part that is not released yet."""
    top = re.split(r"^## ", changelog, flags=re.MULTILINE)[1]
    return re.findall(r"^- Breaking: (.*(?:\n  .*)*)", top, re.MULTILINE)


def hidden(found: list[Break], changelog: str) -> list[Break]:
    """The breaks that no line names."""
    words = {word for line in announced(changelog) for word in re.findall(r"[\w-]+", line)}
    return [each for each in found if each.operation not in words]


def _operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            # What a part of the path is called is nothing that a request shows.
            yield f"{method.upper()} {re.sub('{[^}]*}', '{}', path)}", operation


class _Compared:
    """Two documents, whose references are followed as they come."""

    def __init__(self, old: Json, new: Json) -> None:
        self._old, self._new = old, new

    def operation(self, before: Json, after: Json) -> Iterator[str]:
        if before["operationId"] != after["operationId"]:
            yield f"is called {after['operationId']} now"
        yield from self._parameters(before, after)
        yield from self._request(before, after)
        yield from self._responses(before, after)

    def _parameters(self, before: Json, after: Json) -> Iterator[str]:
        was, now = _named(before), _named(after)
        for place in sorted(was.keys() - now.keys()):
            yield f"the parameter {place} is gone"
        for place, parameter in now.items():
            if place in was:
                yield from self._taken(was[place]["schema"], parameter["schema"], place, 0)
            if parameter.get("required") and not was.get(place, {}).get("required"):
                yield f"the parameter {place} is required now"

    def _request(self, before: Json, after: Json) -> Iterator[str]:
        was, now = before.get("requestBody", {}), after.get("requestBody", {})
        if now.get("required") and not was.get("required"):
            yield "a body is required now"
        for kind, media in was.get("content", {}).items():
            if kind not in now.get("content", {}):
                yield f"bodies of {kind} are not taken any more"
            else:
                yield from self._taken(media["schema"], now["content"][kind]["schema"], "body", 0)

    def _responses(self, before: Json, after: Json) -> Iterator[str]:
        for status, answer in before["responses"].items():
            if status not in after["responses"]:
                yield f"the answer {status} is gone"
                continue
            was = _followed(self._old, answer).get("content", {})
            now = _followed(self._new, after["responses"][status]).get("content", {})
            for kind, media in was.items():
                if kind not in now:
                    yield f"the answer {status} is not {kind} any more"
                else:
                    yield from self._given(
                        media["schema"], now[kind]["schema"], f"answer {status}", 0
                    )

    def _taken(self, old: Json, new: Json, at: str, depth: int) -> Iterator[str]:
        """Breaks of what clients send: what was taken has to be taken still."""
        old, new = _followed(self._old, old), _followed(self._new, new)
        if depth > DEPTH_MAX:
            return
        yield from _narrowed(_kinds(self._old, old), _kinds(self._new, new), at)
        yield from _gone(self._old, old, self._new, new, at)
        for before, after in _paired(self._old, old, self._new, new):
            yield from _enum_narrowed(before, after, at)
            yield from _limits_narrowed(before, after, at)
            was, now = before.get("properties", {}), after.get("properties", {})
            for name in sorted(was.keys() - now.keys()):
                yield f"{at}: the field {name} is gone"
            for name in sorted({*after.get("required", ())} - {*before.get("required", ())}):
                yield f"{at}: the field {name} is required now"
            for name in sorted(was.keys() & now.keys()):
                yield from self._taken(was[name], now[name], f"{at}.{name}", depth + 1)
            yield from self._inner(before, after, at, depth, self._taken)

    def _given(self, old: Json, new: Json, at: str, depth: int) -> Iterator[str]:
        """Breaks of what clients read: nothing else may come than came."""
        old, new = _followed(self._old, old), _followed(self._new, new)
        if depth > DEPTH_MAX:
            return
        yield from _widened(_kinds(self._old, old), _kinds(self._new, new), at)
        for before, after in _paired(self._old, old, self._new, new):
            was, now = before.get("properties", {}), after.get("properties", {})
            for name in sorted(was.keys() - now.keys()):
                yield f"{at}: the field {name} is gone"
            for name in (set(before.get("required", ())) - set(after.get("required", ()))) & set(
                now
            ):
                yield f"{at}: the field {name} may be absent now"
            for name in sorted(was.keys() & now.keys()):
                yield from self._given(was[name], now[name], f"{at}.{name}", depth + 1)
            yield from self._inner(before, after, at, depth, self._given)

    @staticmethod
    def _inner(before: Json, after: Json, at: str, depth: int, compare: Any) -> Iterator[str]:
        """Items of lists, values of maps."""
        for member in ("items", "additionalProperties"):
            old, new = before.get(member), after.get(member)
            if isinstance(old, Mapping) and isinstance(new, Mapping):
                yield from compare(old, new, f"{at}[]", depth + 1)


def _followed(document: Json, value: Json) -> Json:
    while "$ref" in value:
        found: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        value = found
    return value


def _named(operation: Json) -> dict[str, Json]:
    """Parameters by place and name; those in the path are told by their order."""
    found: dict[str, Json] = {}
    for number, parameter in enumerate(operation.get("parameters", ())):
        name = number if parameter["in"] == "path" else parameter["name"]
        found[f"{parameter['in']} {name}"] = parameter
    return found


def _branches(document: Json, schema: Json, name: str = "") -> list[tuple[str, Json]]:
    """The schema, or those that it lets one choose from, each with what tells it from others."""
    name = str(schema.get("$ref", name)).rpartition("/")[2]
    schema = _followed(document, schema)
    for member in _CHOICES:
        if member in schema:
            choices = schema[member]
            return [leaf for choice in choices for leaf in _branches(document, choice)]
    properties = schema.get("properties", {})
    constants = [f"{n}={s['const']}" for n, s in sorted(properties.items()) if "const" in s]
    return [(",".join(constants) or name, schema)]


def _kinds(document: Json, schema: Json) -> set[str]:
    """The JSON types that a value may have; empty: any."""
    found: set[str] = set()
    for _, branch in _branches(document, schema):
        kinds = branch.get("type")
        if kinds is None:
            return set()
        found |= {kinds} if isinstance(kinds, str) else set(kinds)
    return found | ({"integer"} if "number" in found else set())


def _choices(document: Json, schema: Json) -> dict[str, Json]:
    """What may be chosen from besides null, by name."""
    return {n: s for n, s in _branches(document, schema) if s.get("type") != "null"}


def _paired(old: Json, before: Json, new: Json, after: Json) -> Iterator[tuple[Json, Json]]:
    """Choices that stand for one another; where there is one, its name is nobody's."""
    earlier, later = _choices(old, before), _choices(new, after)
    if len(earlier) == len(later) == 1:
        yield from zip(earlier.values(), later.values(), strict=True)
        return
    for name in sorted(earlier.keys() & later.keys()):
        yield earlier[name], later[name]


def _gone(old: Json, before: Json, new: Json, after: Json, at: str) -> Iterator[str]:
    earlier, later = _choices(old, before), _choices(new, after)
    if len(earlier) == len(later) == 1:
        return
    for name in sorted(earlier.keys() - later.keys()):
        yield f"{at}: {name} is taken no more"


def _narrowed(old: set[str], new: set[str], at: str) -> Iterator[str]:
    if new and (not old or old - new):
        yield f"{at}: takes {_listed(new)} now, not {_listed(old)}"


def _widened(old: set[str], new: set[str], at: str) -> Iterator[str]:
    if old and (not new or new - old):
        yield f"{at}: may be {_listed(new)} now, not {_listed(old)}"


def _listed(kinds: set[str]) -> str:
    return " or ".join(sorted(kinds)) or "anything"


def _enum_narrowed(before: Json, after: Json, at: str) -> Iterator[str]:
    if "enum" in after:
        gone = [v for v in before.get("enum", ()) if v not in after["enum"]]
        if gone or "enum" not in before:
            yield f"{at}: takes only {after['enum']} now"


def _limits_narrowed(before: Json, after: Json, at: str) -> Iterator[str]:
    for name, tighter in (("minimum", 1), ("minLength", 1), ("minItems", 1), ("maximum", -1)):
        was, now = before.get(name), after.get(name)
        if now is not None and (was is None or (now - was) * tighter > 0):
            yield f"{at}: {name} is {now} now, not {was}"


def without_texts(value: Any, below: str = "") -> Any:
    """The document without what no program reads; fields may have such names, and stay."""
    if isinstance(value, list):
        return [without_texts(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = below in ("properties", "schemas", "paths")
    return {
        name: without_texts(item, name if not named else "")
        for name, item in value.items()
        if named or name not in _TEXTS
    }


def main() -> int:
    document = json.loads(DOCUMENT.read_text())
    if sys.argv[1:] == ["--released"]:
        RELEASED.write_text(json.dumps(without_texts(document), separators=(",", ":")) + "\n")
        return 0
    found = breaks(json.loads(RELEASED.read_text()), document)
    for each in found:
        print(each)
    return 1 if hidden(found, CHANGELOG.read_text()) else 0


if __name__ == "__main__":
    sys.exit(main())
