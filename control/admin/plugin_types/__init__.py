"""The plugins, one module each: schema, protocols, priority, compile to policy."""

from control.admin.plugin_types import oauth2, websocket_session, websocket_size_limit
from control.admin.plugin_types.base import PluginType

PLUGIN_TYPES: dict[str, PluginType] = {
    plugin.name: plugin
    for plugin in (oauth2.PLUGIN, websocket_size_limit.PLUGIN, websocket_session.PLUGIN)
}
