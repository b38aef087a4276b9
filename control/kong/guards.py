"""What a plugin of Kong's that is left out leaves open, and how that is not let happen.

A plugin may decide who gets through. Without it everybody would, so that the routes or consumers
it stands before are left out with it. Those of Kong's plugins that decide no such thing are named
here; any other, custom ones too, counts as a guard.
"""

from collections.abc import Iterator

from control.kong.document import Document, Entity

_NO_GUARDS = frozenset(
    {
        "ai-prompt-decorator",
        "ai-prompt-template",
        "ai-proxy",
        "ai-request-transformer",
        "ai-response-transformer",
        "aws-lambda",
        "azure-functions",
        "correlation-id",
        "cors",
        "datadog",
        "file-log",
        "grpc-gateway",
        "grpc-web",
        "http-log",
        "loggly",
        "opentelemetry",
        "prometheus",
        "proxy-cache",
        "rate-limiting",
        "request-size-limiting",
        "request-transformer",
        "response-ratelimiting",
        "response-transformer",
        "statsd",
        "syslog",
        "tcp-log",
        "udp-log",
        "zipkin",
    }
)
Target = tuple[str, Entity | None]  # routes of everything have no entity


class Guards:
    """What stands behind guards that are not there."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._behind: dict[Target, set[str]] = {}  # the names of its guards
        self._why: dict[Entity, str] = {}

    def why(self, plugin: Entity) -> str | None:
        """Why this plugin was left out in an earlier round."""
        return self._why.get(plugin)

    def lose(self, plugin: Entity, reason: str) -> bool:
        """This plugin was left out by itself; True when something more is unguarded now."""
        self._why[plugin] = reason
        name = str(plugin.values.get("name"))
        if name in _NO_GUARDS or plugin.values.get("enabled") is False:
            return False
        target = self._target(plugin)
        names = set() if target is None else self._behind.setdefault(target, set())
        if target is None or name in names:
            return False
        names.add(name)
        return True

    def before(self, entity: Entity) -> list[str]:
        """The names of the guards that this entity lacks."""
        found: set[str] = set()
        for target in self._targets(entity):
            found |= self._behind.get(target, set())
        return sorted(found)

    def _target(self, plugin: Entity) -> Target | None:
        """What it stands before; the narrowest of what it names."""
        if plugin.values.get("consumer_group"):
            return None  # of no consumer that is known here
        for field, kind in (
            ("consumer", "consumers"),
            ("route", "routes"),
            ("service", "services"),
        ):
            if plugin.values.get(field):
                found = self._document.referred(kind, plugin.values[field])
                return None if found is None else (kind, found)
        return "routes", None

    def _targets(self, entity: Entity) -> Iterator[Target]:
        if entity.kind in ("routes", "consumers"):
            yield entity.kind, entity
        if entity.kind == "routes":
            yield "routes", None
            service = self._document.referred("services", entity.values.get("service"))
            if service is not None:
                yield "services", service
