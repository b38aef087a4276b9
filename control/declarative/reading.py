"""Text to plain values that know their lines: YAML, or JSON, one document or several.

The values are constructed from the nodes that the parser composed, and the nodes are kept: a line
costs nothing until an error asks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Any

import yaml

from control.declarative.layout import CHARS_MAX, DEPTH_MAX, FORMAT_VERSION, NODES_MAX
from control.declarative.problems import FileRefused, Path, Problem, dotted, refused

# Safe: it makes plain values only.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_INTEGER_BITS_MAX = 64  # Python refuses to print much longer ones, and so would each error


# What its constructors raise for a text that is not what its tag says: `!!int x`, `!!bool x`.
_UNREADABLE = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


class _Loader(_Safe):  # type: ignore[misc]
    """As YAML 1.2 and decK read numbers: `12:30:45` is a text, not a number to the base of 60."""

    _merged = 0  # keys that mappings have, those that `<<` brings along

    def number(self, node: yaml.ScalarNode) -> Any:
        if ":" in node.value:
            return node.value
        if node.tag != "tag:yaml.org,2002:int":
            return self.construct_yaml_float(node)
        found = self.construct_yaml_int(node)
        if found.bit_length() > _INTEGER_BITS_MAX:
            raise yaml.constructor.ConstructorError(
                problem="an integer of more than 64 bits", problem_mark=node.start_mark
            )
        return found

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take in what `<<` names; merges of merges grow as aliases do, before a value is made."""
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > NODES_MAX:
            raise refused(f"more than {NODES_MAX} values")


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.number)


@dataclass(frozen=True)
class Document:
    """One document of the text: its values, and the nodes they come from."""

    values: dict[str, Any]
    node: yaml.Node


def read(text: str) -> list[Document]:
    """The documents of the text, `_format_version` taken out; those that are empty are left out.

    Raises:
        FileRefused: not YAML, not of this format, or more than a file may hold.
    """
    documents = _load(text)
    if not documents:
        raise refused("a mapping with _format_version was expected")
    problems: list[Problem] = []
    left = _Left()
    for document in documents:
        _Check(document.node, left, problems).value(document.values)
        if isinstance(document.values, dict):
            version = document.values.pop("_format_version", None)
            if str(version) != FORMAT_VERSION:
                text = f'_format_version: "{FORMAT_VERSION}" was expected, not {version!r}'
                problems.append(_at(document.node, ("_format_version",), text))
        else:
            problems.append(_at(document.node, (), "a mapping with _format_version was expected"))
    if problems:
        raise FileRefused(problems)
    return documents


def _load(text: str) -> list[Document]:
    loader = _Loader(text)
    documents, problems = [], []
    try:
        _check_size(text)
        while loader.check_node():
            node = loader.get_node()
            problems += _repeated(node)  # before the construction, which merges `<<` into it
            values = loader.construct_document(node)
            if values is not None:
                documents.append(Document(values, node))
    except yaml.YAMLError as error:
        raise FileRefused([_not_yaml(error)]) from None
    except _UNREADABLE:
        raise refused("not YAML: a value that cannot be read") from None
    finally:
        loader.dispose()
    if problems:
        raise FileRefused(problems)
    return documents


def _check_size(text: str) -> None:
    """Refuse more than may be composed: half a kilobyte goes to each node."""
    if len(text) > NODES_MAX:
        nodes = (event for event in yaml.parse(text, _Loader) if isinstance(event, yaml.NodeEvent))
        if next(islice(nodes, NODES_MAX, None), None) is not None:
            raise refused(f"more than {NODES_MAX} values")


def _not_yaml(error: yaml.YAMLError) -> Problem:
    text = f"not YAML: {getattr(error, 'problem', None) or 'broken'}"
    mark = getattr(error, "problem_mark", None)
    return Problem(text, line=mark.line + 1, column=mark.column + 1) if mark else Problem(text)


def _repeated(root: yaml.Node) -> list[Problem]:
    """Keys that a mapping has twice: YAML's parsers take the last and say nothing."""
    problems, seen, waiting = [], set(), [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        first: dict[str, yaml.Node] = {}
        for key, value in node.value:
            waiting.append(value)
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in first:
                line = first[key.value].start_mark.line + 1
                text = f"{key.value} is there twice, first in line {line}"
                problems.append(_marked(key, Problem(text)))
            first.setdefault(key.value, key)
    return problems


@dataclass
class _Left:
    """What all documents together may still have."""

    nodes: int = NODES_MAX
    chars: int = CHARS_MAX

    def take(self, chars: int) -> None:
        self.nodes -= 1
        self.chars -= chars
        if self.nodes < 0:
            raise refused(f"more than {NODES_MAX} values")
        if self.chars < 0:
            raise refused(f"more than {CHARS_MAX} characters, aliases counted where they stand")


class _Check:
    """Looks at every value, at each place where an alias puts it, for what JSON cannot hold."""

    def __init__(self, root: yaml.Node, left: _Left, problems: list[Problem]) -> None:
        self.root, self.left, self.problems = root, left, problems
        self.path: list[str | int] = []

    def value(self, value: Any) -> None:
        self.left.take(len(value) if isinstance(value, str) else 0)
        if len(self.path) > DEPTH_MAX:
            raise FileRefused([self._here(f"nested deeper than {DEPTH_MAX} levels")])
        if isinstance(value, dict):
            for key, item in value.items():
                if isinstance(key, str):
                    self.left.chars -= len(key)
                    self._below(key, item)
                else:
                    self.problems.append(
                        self._here(f"the key {key!r} is not text: put it in quotes")
                    )
        elif isinstance(value, list):
            for place, item in enumerate(value):
                self._below(place, item)
        elif isinstance(value, float) and not math.isfinite(value):
            self.problems.append(self._here(f"{value} is not a number that JSON knows"))
        elif value is not None and not isinstance(value, str | int | float):
            # A date is shown; what `!!binary` holds may be a secret.
            what = value if isinstance(value, date) else f"a {type(value).__name__}"
            text = f"{what} is no text, number or boolean: put it in quotes"
            self.problems.append(self._here(text))

    def _below(self, step: str | int, item: Any) -> None:
        self.path.append(step)
        self.value(item)
        self.path.pop()

    def _here(self, text: str) -> Problem:
        return _at(self.root, tuple(self.path), text)


def _at(root: yaml.Node, path: Path, text: str) -> Problem:
    return locate(root, path, Problem(text, field=dotted(path)))


def locate(node: yaml.Node, path: Path, problem: Problem) -> Problem:
    """`problem` with the line of the deepest part of `path` that the file has."""
    shown = node
    for step in path:
        found = _step(node, step)
        if found is None:
            break
        shown, node = found
    return _marked(shown, problem)


def _marked(node: yaml.Node, problem: Problem) -> Problem:
    mark = node.start_mark
    return Problem(problem.message, problem.entity, problem.field, mark.line + 1, mark.column + 1)


def _step(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node to show for this step, and the one to go on from."""
    if isinstance(node, yaml.MappingNode):
        # The last: what is merged in by `<<` comes first.
        for key, value in reversed(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value == step:
                return key, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def child(node: yaml.Node, step: str | int) -> yaml.Node:
    """The node of a value below that one, which is there."""
    found = _step(node, step)
    return node if found is None else found[1]
