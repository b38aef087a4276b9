"""The plugin `websocket-size-limit`: the largest message of each direction, then Close 1009.

spec/routing-and-proxy.md §12.4.  A config field stands here only when it works.
"""

from collections.abc import Mapping
from typing import Any

from control.admin.errors import ENTITY, Fields
from control.admin.plugin_types.base import PluginType
from control.admin.schema import Field, at_least_one_of

PAYLOAD_BYTES_MAX = 33554432


def _limit(description: str) -> Field:
    return Field(type="integer", between=(1, PAYLOAD_BYTES_MAX), description=description)


CONFIG = {
    "client_max_payload": _limit("Payload bytes of a message from the client; null: 1 MiB."),
    "upstream_max_payload": _limit("Payload bytes of a message from the upstream; null: 16 MiB."),
}
_ONE_OF_THEM = at_least_one_of(*CONFIG)


def _check(config: Mapping[str, Any]) -> Fields | str | None:
    return {ENTITY: texts} if (texts := _ONE_OF_THEM.run(config).get(ENTITY)) else None


def _compile(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in CONFIG if config[name] is not None}


PLUGIN = PluginType(
    name="websocket-size-limit",
    title="WebSocketSizeLimitPlugin",
    version="3.9.1",
    priority=1003,
    protocols=("ws", "wss"),
    config=CONFIG,
    check=_check,
    compile=_compile,
    consumer_scope=False,
)
