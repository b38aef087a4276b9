"""The entities of a file: taken out of what they are nested in, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from control.admin.names import check_tag
from control.admin.registry import BY_NAME
from control.admin.resource import Resource, Values
from control.declarative.layout import IGNORED, INFO, NESTED, ORDER
from control.declarative.problems import FileRefused, Path, Problem, dotted, refused
from control.declarative.reading import Document, child, locate

_NAMES = ("instance_name", "username", "custom_id", "target", "client_id", "id")


_NAME_CHARS_MAX = 200  # that are shown; a file's names are looked at later


@dataclass(eq=False)
class Item:
    """One entity of the file, its children taken out."""

    resource: Resource
    given: Values
    node: yaml.Node
    parents: dict[str, Item] = field(default_factory=dict)  # by the field that refers to it

    @property
    def label(self) -> str:
        """How a user recognises it: `services example`, `plugins oauth2 on route ws`."""
        scopes = {name: parent.name for name, parent in self.parents.items()}
        for name in self.resource.foreign_fields:
            if self.given.get(name) and name not in scopes:
                scopes[name] = _named(self.given[name])
        return labelled(self.resource, self.given, scopes)

    @property
    def name(self) -> str:
        return name_of(self.resource, self.given)

    def problem(self, path: Path, message: str) -> Problem:
        """An error of this entity, with the line of the field where it has one."""
        return locate(self.node, path, Problem(message, self.label, dotted(path)))


def name_of(resource: Resource, values: Values) -> str:
    """What its users call an entity, as far as it has a name."""
    candidates = (str(values[name]) for name in ("name", *_NAMES) if values.get(name))
    return next(candidates, "without a name")[:_NAME_CHARS_MAX]


def labelled(resource: Resource, values: Values, scopes: dict[str, str]) -> str:
    label = f"{resource.name} {name_of(resource, values)}"
    told = resource.name == "plugins" or resource.key_within is not None
    if not told or not scopes:
        return label
    return f"{label} on {', '.join(f'{field} {scopes[field]}' for field in sorted(scopes))}"


def _named(reference: Any) -> str:
    if isinstance(reference, dict):
        reference = next(iter(reference.values()), "")
    return str(reference)[:_NAME_CHARS_MAX]


@dataclass
class Content:
    """What the documents of a file hold together."""

    items: list[Item]  # parents before what refers to them
    select_tags: list[str]


def content(documents: Sequence[Document]) -> Content:
    """Every entity of the documents.

    Raises:
        FileRefused: a collection that is not known, or is no list of mappings.
    """
    found = _Found()
    for document in documents:
        for name, entries in document.values.items():
            if name in ORDER:
                found.collect(name, entries, child(document.node, name), {})
            elif name == INFO:
                found.info(document, entries)
            elif name not in IGNORED:
                text = f"{name}: not supported; expected {', '.join(ORDER)}"
                found.problems.append(locate(document.node, (name,), Problem(text)))
    if found.problems:
        raise FileRefused(found.problems)
    items = [item for name in ORDER for item in found.items[name]]
    return Content(items, found.select_tags or [])


class _Found:
    """What has been seen of the documents so far."""

    def __init__(self) -> None:
        self.items: dict[str, list[Item]] = {name: [] for name in ORDER}
        self.select_tags: list[str] | None = None
        self.problems: list[Problem] = []

    def collect(self, name: str, entries: Any, node: yaml.Node, parents: dict[str, Item]) -> None:
        """Add the entities of one list, each with `parents` as what it refers to."""
        if entries is None:
            return
        if not isinstance(entries, list):
            self._not_a_list(name, node)
            return
        for place, entry in enumerate(entries):
            below = child(node, place)
            if isinstance(entry, dict):
                self._entity(name, entry, below, parents)
            else:
                self._not_a_list(name, below)

    def _not_a_list(self, name: str, node: yaml.Node) -> None:
        problem = Problem(f"{name}: a list of mappings was expected")
        self.problems.append(locate(node, (), problem))

    def _entity(
        self, name: str, entry: dict[str, Any], node: yaml.Node, parents: dict[str, Item]
    ) -> None:
        nested = NESTED.get(name, {})
        given = {key: value for key, value in entry.items() if key not in nested}
        item = Item(BY_NAME[name], given, node, parents)
        self.items[name].append(item)
        for member, (kind, back) in nested.items():
            if member in entry:
                self.collect(kind, entry[member], child(node, member), {back: item})

    def info(self, document: Document, given: Any) -> None:
        """`_info.select_tags`: which entities the file is about.

        A dump of decK's has empty `defaults` beside it.
        """
        given = {} if given is None else given
        if not isinstance(given, dict) or not isinstance(given.get("select_tags") or [], list):
            text = f"{INFO}: a mapping with select_tags, a list of tags, was expected"
            self.problems.append(locate(document.node, (INFO,), Problem(text)))
            return
        for name in given.keys() - {"select_tags"}:
            if given[name]:
                problem = Problem("not supported; write it into the entities", INFO, name)
                self.problems.append(locate(document.node, (INFO, name), problem))
        tags = given.get("select_tags")
        for place, tag in enumerate(tags or []):
            wrong = check_tag(tag) if isinstance(tag, str) else "expected a string"
            if wrong:
                problem = Problem(wrong, INFO, f"select_tags.{place + 1}")
                path = (INFO, "select_tags", place)
                self.problems.append(locate(document.node, path, problem))
        if tags and self.select_tags not in (None, tags):
            text = f"{INFO}.select_tags: all files of one configuration must have the same"
            self.problems.append(locate(document.node, (INFO,), Problem(text)))
        self.select_tags = tags or self.select_tags


def chosen_tags(asked: Sequence[str], in_file: Sequence[str]) -> list[str]:
    """The tags that pick the entities; those asked for and those of the file must agree.

    Raises:
        FileRefused: they do not.
    """
    if asked and in_file and set(asked) != set(in_file):
        raise refused(
            f"select tags {', '.join(asked)} were asked for, but {INFO}.select_tags of the file "
            f"has {', '.join(in_file)}"
        )
    return list(asked or in_file)
