"""What answers hold that are no entities, as models of openapi.json.  Member names are Kong's."""

from typing import Literal

from pydantic import BaseModel, Field, JsonValue


class Timers(BaseModel):
    running: int
    pending: int


class PluginOnServer(BaseModel):
    version: str
    priority: int = Field(description="higher runs first")


class NodePlugins(BaseModel):
    available_on_server: dict[str, PluginOnServer]
    enabled_in_cluster: list[str] = Field(description="names in use")


class NodeConfiguration(BaseModel):
    database: str
    router_flavor: str


class Pids(BaseModel):
    master: int
    workers: list[int]


class Node(BaseModel):
    """What runs here.  Of Lua and nginx there is nothing to tell."""

    tagline: str
    version: str = Field(description="of Kong, whose Admin API this is")
    edition: str
    hostname: str
    node_id: str
    lua_version: str
    timers: Timers
    plugins: NodePlugins
    configuration: NodeConfiguration
    pids: Pids


class DatabaseStatus(BaseModel):
    reachable: bool


class MemoryOfWorker(BaseModel):
    pid: int
    http_allocated_gc: str = Field(description="most memory held so far, with its unit")


class MemoryStatus(BaseModel):
    workers_lua_vms: list[MemoryOfWorker]
    lua_shared_dicts: dict[str, JsonValue]


class ServerStatus(BaseModel):
    """Requests to the Admin API of this process."""

    connections_accepted: int
    connections_active: int
    connections_handled: int
    connections_reading: int
    connections_waiting: int
    connections_writing: int
    total_requests: int


class NodeStatus(BaseModel):
    database: DatabaseStatus
    memory: MemoryStatus
    server: ServerStatus


class Endpoints(BaseModel):
    data: list[str]


class PluginNames(BaseModel):
    enabled_plugins: list[str]


class TaggedEntity(BaseModel):
    tag: str
    entity_name: str
    entity_id: str


class TagPage(BaseModel):
    data: list[TaggedEntity]
    next: str | None = Field(description="path of the next page")
    offset: str = Field(default="", description="of the next page; absent on the last")


class EntitySchema(BaseModel):
    """Each item of `fields` has one member: a field's name and what it takes."""

    fields: list[dict[str, JsonValue]]
    entity_checks: list[dict[str, JsonValue]] = Field(
        default=[], description="rules over several fields; absent of a config alone"
    )


class Validated(BaseModel):
    message: str


class TargetWeight(BaseModel):
    total: int
    available: int
    unavailable: int


class TargetHealthData(BaseModel):
    host: str
    port: int
    nodeWeight: int
    weight: TargetWeight


class TargetParent(BaseModel):
    id: str


class TargetHealth(BaseModel):
    """A target, and whether requests go there."""

    id: str
    created_at: float
    updated_at: float
    upstream: TargetParent
    target: str
    weight: int
    tags: list[str] | None
    health: Literal["HEALTHCHECKS_OFF", "UNHEALTHY"]
    data: TargetHealthData


class TargetHealthPage(BaseModel):
    data: list[TargetHealth]
    next: str | None = Field(description="path of the next page")
    offset: str = Field(default="", description="of the next page; absent on the last")


class BalancerHealth(BaseModel):
    id: str
    health: Literal["HEALTHCHECKS_OFF", "UNHEALTHY"]


class BalancerHealthAnswer(BaseModel):
    """Of an upstream as a whole."""

    data: BalancerHealth
    next: None
    node_id: str


MODELS = (
    Node,
    NodeStatus,
    Endpoints,
    PluginNames,
    TagPage,
    EntitySchema,
    Validated,
    TargetHealthPage,
    BalancerHealthAnswer,
)
CHOICES = {"UpstreamHealth": (TargetHealthPage, BalancerHealthAnswer)}
