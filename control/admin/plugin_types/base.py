"""What a plugin is to the Admin API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from control.admin.errors import Fields
from control.admin.schema import Field
from control.store.session import WriteSession


def _nothing(session: WriteSession, config: Mapping[str, Any]) -> None:
    """What most plugins do beside being stored."""


@dataclass(frozen=True, kw_only=True)
class PluginType:
    """One kind of plugin.

    `check` judges a valid config as a whole; its errors are by config field, or a text for the
    whole config. `compile` gives what the data plane has to know of an instance: no secrets.
    `written` is called in the transaction that stores one.
    """

    name: str
    title: str  # of its model in openapi.json
    version: str
    priority: int  # higher runs first
    protocols: tuple[str, ...]  # allowed, and the default
    config: Mapping[str, Field]
    check: Callable[[Mapping[str, Any]], Fields | str | None]
    compile: Callable[[Mapping[str, Any]], dict[str, Any]]
    consumer_scope: bool = True
    written: Callable[[WriteSession, Mapping[str, Any]], None] = _nothing
