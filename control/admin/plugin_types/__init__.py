"""The plugins, one module each: schema, protocols, priority, compile to policy."""

from control.admin.plugin_types import oauth2
from control.admin.plugin_types.base import PluginType

PLUGIN_TYPES: dict[str, PluginType] = {plugin.name: plugin for plugin in (oauth2.PLUGIN,)}
