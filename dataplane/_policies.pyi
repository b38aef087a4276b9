from collections.abc import Sequence

from dataplane._contexts import Context, Contexts, TicketKeys
from dataplane._core import Reclaimer

FLAGS: dict[str, int]
CHANGES: dict[str, int]
PARTING: dict[str, int]

# Largest message from the client, from the upstream; ping interval, ping timeout, idle timeout,
# stall timeout in ms; most bytes buffered a direction; on_edit, on_delete.
Session = tuple[int, int, int, int, int, int, int, int, int]
SESSION_DEFAULTS: Session

class NameBox:
    host: str
    literal: bool
    def set_addresses(self, addresses: list[tuple[str, bool]]) -> None: ...
    def mark_failed(self) -> None: ...
    @property
    def addresses(self) -> list[str]: ...
    @property
    def failed(self) -> bool: ...

class NameTable:
    contexts: Contexts
    def __init__(self, reclaimer: Reclaimer, tickets: TicketKeys | None = ...) -> None: ...
    def intern(self, host: str) -> NameBox: ...
    def set_addresses(self, host: str, addresses: list[tuple[str, bool]]) -> None: ...
    def mark_failed(self, host: str) -> None: ...
    def hosts_in_use(self) -> list[str]: ...
    def unresolved(self) -> list[str]: ...
    def sweep(self) -> int: ...
    def balance(self, content: bytes, targets: list[BalancedTarget]) -> BalanceBox: ...

# Host, port, weight, Host value, that without its port.
BalancedTarget = tuple[str, int, int, bytes, bytes]

class BalanceBox:
    def __init__(self, names: NameTable, targets: list[BalancedTarget]) -> None: ...
    def pick(self, worker: int = 0, tried: Sequence[int] = ()) -> int | None: ...
    def describe(self) -> list[BalancedTarget]: ...

# Sort key (the lowest wins), prefix length, prefixes, hosts (text, port or 0, kind), methods,
# headers (name, values): one virtual route.
Virtual = tuple[
    bytes,
    int,
    tuple[bytes, ...],
    tuple[tuple[bytes, int, int], ...],
    tuple[bytes, ...],
    tuple[tuple[bytes, tuple[bytes, ...]], ...],
]

class PolicyBox:
    content: bytes
    tls: Context | None
    balance: BalanceBox | None
    virtual: tuple[Virtual, ...]
    own: int
    plugins: int
    on_edit: int
    on_delete: int
    parting: int
    def __init__(
        self,
        names: NameTable,
        content: bytes,
        virtual: tuple[Virtual, ...],
        route: bytes,
        plugin: bytes,
        flags: int,
        redirect_status: int,
        target: tuple[bytes, str, int, int, int, int, int] | None,
        anonymous: tuple[bytes, bytes] | None,
        texts: tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes],
        session: Session = ...,
        own: int = 0,
        plugins: int = 0,
        tls: Context | None = ...,
        carriers: tuple[bytes, bytes] = ...,
        max_age_ms: int = ...,
        issuer: bytes = ...,
        audience: bytes = ...,
        balance: BalanceBox | None = ...,
    ) -> None: ...
    def users(self) -> int: ...
    @property
    def route(self) -> bytes: ...
    def part(self, parting: int, from_ms: int = 0, until_ms: int = 0) -> list[int]: ...
    def hold(self, worker: int, by: int) -> None: ...
    def describe(self) -> dict[str, object]: ...

def parse_address(host: str) -> tuple[bytes, bool] | None: ...
