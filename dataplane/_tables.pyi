from collections.abc import Iterable

from dataplane._contexts import ServerNames
from dataplane._policies import PolicyBox

PLAIN: int
SUFFIX: int
PREFIX: int

class Tables:
    boxes: dict[bytes, PolicyBox]
    snis: ServerNames | None
    def __init__(
        self,
        version: int,
        check_key: bytes,
        seed: int,
        boxes: dict[bytes, PolicyBox],
        principals: list[tuple[bytes, bytes, bytes]],
        hash_bits: int = 64,
        snis: ServerNames | None = None,
        documents: dict[tuple[bytes, bytes], bytes] = ...,
    ) -> None: ...
    @property
    def version(self) -> int: ...
    @property
    def wants_fields(self) -> bool: ...
    def match(
        self,
        host: bytes,
        port: int,
        method: bytes,
        path: bytes,
        fields: Iterable[tuple[bytes, bytes]] = (),
    ) -> tuple[bytes, int] | None: ...
    def principal(self, credential: bytes) -> tuple[bytes, bytes] | None: ...
    def document(self, host: bytes, path: bytes) -> bytes | None: ...
