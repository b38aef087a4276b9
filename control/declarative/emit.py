"""Plain values to YAML that reads as the same values everywhere.

YAML's readers differ on which bare words are text (`on`, `1e3`, `0o17`), so that whatever is not
plainly a word is put in quotes. `${{` is escaped: it would be filled in as a variable.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@-]*")
_NOT_TEXT = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_TEMPLATE = "${{"
_ESCAPED = "$\\x7b{"  # the same, within double quotes
_WIDTH = 2**30  # no line is folded


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, value: str) -> yaml.ScalarNode:
    if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        style = None
    elif "\n" in value and _TEMPLATE not in value:
        style = "|"
    else:
        style = '"'
    node: yaml.ScalarNode = dumper.represent_scalar(
        "tag:yaml.org,2002:str", str(value), style=style
    )
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_multi_representer(str, _text)  # secrets are a kind of text


def emit(document: dict[str, Any]) -> str:
    """The document as YAML text, members in their order."""
    text: str = yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=_WIDTH,
        default_flow_style=False,
    )
    return text.replace(_TEMPLATE, _ESCAPED)
