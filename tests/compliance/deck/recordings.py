"""What decK asked and what we answered: made comparable, kept as JSON, asked again.

Ids become ids that follow from what an entity says, times and what else differs by run or machine
goes, and texts of the run (certificates, ports) become names.  So a recording changes only when
decK or our answers do, and its requests can be sent to any fresh gateway.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.compliance.deck.recorder import Seen

FOLDER = Path(__file__).resolve().parent / "recordings"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMES = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_TIMES = ("created_at", "updated_at")
# What decK reads of a schema; the rest of it may change without decK noticing.
_SCHEMA = ("type", "default", "required", "auto", "elements", "keys", "values", "fields")
_GONE = object()
# What must be there before what: decK's own levels.  It deletes the other way round.
_LEVELS = {
    name: level
    for level, names in enumerate((
        ("certificates", "ca_certificates", "consumers"),
        ("snis", "services", "upstreams", "oauth2", "oauth2_credentials"),
        ("routes", "targets"),
        ("plugins",),
    ))
    for name in names
}  # fmt: skip

Send = Callable[[str, str, Any], tuple[int, Any]]  # method, path, body → status, answer


@dataclass(frozen=True)
class Exchange:
    method: str
    path: str
    body: Any
    status: int
    answer: Any


@dataclass(frozen=True)
class Step:
    """One command of decK and what it asked."""

    command: str
    exchanges: tuple[Exchange, ...]


@dataclass
class Recording:
    """The steps that start from an empty gateway.  `made_by`: the program, with its version."""

    name: str
    made_by: str
    names: Mapping[Any, Any] = field(default_factory=dict)  # values of the run → what they are
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._known: dict[str, Exchange] = {}

    def add(self, command: str, seen: list[Seen]) -> None:
        """Write a step down.  What was asked before and answered the same is left out."""
        exchanges = sorted((self._plain(one) for one in seen), key=_order)
        for one in exchanges:
            self._name_id(one)
        named = sorted((self._with_ids(one) for one in exchanges), key=_order)
        kept = [one for one in named if self._is_news(one)]
        self.steps.append(Step(command, tuple(kept)))

    def _plain(self, seen: Seen) -> Exchange:
        body, answer = _loaded(seen.body), _loaded(seen.answer)
        return Exchange(
            seen.method, seen.path, _named(body, self.names), seen.status,
            plain_answer(seen.path, answer, self.names),
        )  # fmt: skip

    def _name_id(self, one: Exchange) -> None:
        """An id that decK made up gets one that says of what it is."""
        own = one.body.get("id") if isinstance(one.body, dict) else None
        if own is None or own in self._ids:
            return
        content = {name: value for name, value in one.body.items() if name != "id"}
        text = f"{_collection(one)} {json.dumps(content, sort_keys=True)}"
        self._ids[own] = str(uuid.uuid5(_NAMES, self._replaced(text)))

    def _with_ids(self, one: Exchange) -> Exchange:
        text = self._replaced(json.dumps(list(vars(one).values())))
        unknown = set(_UUID.findall(text)) - set(self._ids.values())
        assert not unknown, f"{one.method} {one.path}: {unknown}: ids that decK did not make"
        *request, answer = json.loads(text)
        return Exchange(*request, arranged(answer))

    def _replaced(self, text: str) -> str:
        return _UUID.sub(lambda found: self._ids.get(found[0], found[0]), text)

    def _is_news(self, one: Exchange) -> bool:
        if one.method == "GET" and self._known.get(one.path) == one:
            return False
        self._known[one.path] = one
        return True

    def text(self) -> str:
        """The recording as it is kept: one exchange a line."""
        steps = []
        for step in self.steps:
            lines = ",\n".join("    " + json.dumps(vars(one)) for one in step.exchanges)
            steps.append(f'  {{"command": {json.dumps(step.command)}, "exchanges": [\n{lines}]}}')
        head = f'{{"made_by": {json.dumps(self.made_by)}, "steps": [\n'
        return head + ",\n".join(steps) + "]}\n"


def load(path: Path) -> Recording:
    kept = json.loads(path.read_text())
    steps = [
        Step(step["command"], tuple(Exchange(**one) for one in step["exchanges"]))
        for step in kept["steps"]
    ]
    return Recording(path.stem, kept["made_by"], steps=steps)


def replay(recording: Recording, send: Send, names: Mapping[Any, Any]) -> list[str]:
    """Ask all of it again, on an empty gateway; what is answered otherwise, a line each.

    An answer may say more than it did.  `names` has values for what the recording names.
    """
    values = {name: value for value, name in names.items()}
    found = []
    for step in recording.steps:
        for one in step.exchanges:
            status, answer = send(one.method, one.path, _named(one.body, values))
            where = f"{recording.name}: {step.command}: {one.method} {one.path}"
            if status != one.status:
                found.append(f"{where}: status {status}, was {one.status}: {answer}")
            else:
                ours = arranged(plain_answer(one.path, answer, names))
                found += [f"{where}: {line}" for line in differences(one.answer, ours)]
    return found


def sender(client: httpx.Client) -> Send:
    """Asks the Admin API behind `client`."""

    def send(method: str, path: str, body: Any) -> tuple[int, Any]:
        answer = client.request(method, path, json=body)
        return answer.status_code, _loaded(answer.content)

    return send


def differences(was: Any, now: Any, at: str = "") -> Iterator[str]:
    """What `was` says and `now` does not."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name, value in was.items():
            yield from differences(value, now.get(name, _GONE), f"{at}.{name}")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for number, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from differences(one, other, f"{at}[{number}]")
    elif was != now or type(was) is not type(now):
        said = "nothing" if now is _GONE else json.dumps(now)
        yield f"{at or 'the answer'}: {said}, was {json.dumps(was)}"


def plain_answer(path: str, answer: Any, names: Mapping[Any, Any]) -> Any:
    """An answer without what differs by run, and of schemas what decK reads."""
    if path.startswith("/schemas/") and isinstance(answer, dict) and "entity_checks" in answer:
        return _plain_schema(answer)
    if path == "/" and isinstance(answer, dict):
        return {"version": re.sub(r"(\d+\.\d+).*", r"\1", str(answer.get("version")))}
    return _named(answer, names)


def arranged(answer: Any) -> Any:
    """A page by what its entities say: we order it by id, and ids differ from run to run."""
    if isinstance(answer, dict) and isinstance(answer.get("data"), list):
        return answer | {"data": sorted(answer["data"], key=lambda one: json.dumps(one))}
    return answer


def _plain_schema(schema: Any) -> Any:
    """`fields` as a mapping, since their order says nothing."""
    kept = {name: schema[name] for name in _SCHEMA if name in schema}
    for name in ("elements", "keys", "values"):
        if name in kept:
            kept[name] = _plain_schema(kept[name])
    if "fields" in kept:
        kept["fields"] = {n: _plain_schema(f) for one in kept["fields"] for n, f in one.items()}
    return kept


def _named(value: Any, names: Mapping[Any, Any]) -> Any:
    """`value` without times, and with what `names` knows replaced."""
    if isinstance(value, dict):
        return {k: _named(item, names) for k, item in value.items() if k not in _TIMES}
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return names.get(value, value) if known else value


def _order(one: Exchange) -> tuple[int, int, str, str]:
    """In an order that does not depend on threads: decK reads many collections at once, and then
    writes level by level, within a level in the order of ids that it made up."""
    level = _LEVELS.get(_collection(one), 0)
    if one.method == "DELETE":
        return 2, -level, one.path, ""
    return (1 if one.method == "PUT" else 0), level, one.path, json.dumps(one.body)


def _collection(one: Exchange) -> str:
    """Which entities a request is about: /services/ID, /schemas/services/validate."""
    parts = one.path.partition("?")[0].strip("/").split("/")
    return parts[-2] if len(parts) > 1 else parts[-1]


def _loaded(data: bytes) -> Any:
    return json.loads(data) if data else None
