"""The Python face of `_http.pyx`, for tests and `prepared`; the engine calls `_http.pxd`'s."""

from typing import TypedDict

Field = tuple[bytes, bytes, str, bool]  # name, value, kind, must not be forwarded

class Head(TypedDict):
    version_minor: int
    fields: list[Field]
    first: dict[str, bytes | None]
    content_length: int
    chunked: bool
    keep_alive: bool
    upgrade_websocket: bool
    connection_upgrade: bool

class Request(Head):
    method: bytes
    method_kind: str
    target: bytes
    path: bytes
    query: bytes | None
    host_n: int
    ws_key_n: int
    ws_version_n: int
    authorization_n: int
    expect_continue: bool
    host: bytes
    port: int

class Response(Head):
    status: int
    reason: bytes
    ws_accept_n: int
    ws_protocol_n: int
    ws_extensions_n: int

KINDS: tuple[str, ...]
METHODS: tuple[str, ...]

class HttpRefused(ValueError):
    status: int
    too_large: bool
    def __init__(self, code: int) -> None: ...

def scan_head(pieces: list[bytes]) -> int: ...
def parse_request(data: bytes) -> Request: ...
def parse_response(data: bytes) -> Response: ...
def normalise_path(path: bytes) -> bytes: ...
def escape_path(path: bytes, capacity: int) -> bytes: ...
def read_chunked(pieces: list[bytes]) -> tuple[bytes, int, bool]: ...
def key_valid(key: bytes) -> bool: ...
def websocket_accept(key: bytes) -> bytes: ...
