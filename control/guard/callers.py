"""Who is calling, and what a role may do.

| role | may |
|---|---|
| `read-only` | read everything but secrets: they stand as `[redacted]` |
| `operator` | also write every entity, by itself or as a file, and read the secrets it has to |
| `super` | also what ends keys, and with them every token that they signed |

The method alone tells a write: whatever is not GET, HEAD or OPTIONS is one, although it may change
nothing. What only `super` may do says so at its endpoint (`control.admin.rights`).
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

REDACTED = "[redacted]"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Role(StrEnum):
    READ_ONLY = "read-only"
    OPERATOR = "operator"
    SUPER = "super"


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is None while ADMIN_TOKENS_FILE is unset: whoever reaches the listener may all."""

    name: str | None
    role: Role

    def may_use(self, method: str) -> bool:
        return self.role is not Role.READ_ONLY or method in _READING

    @property
    def sees_secrets(self) -> bool:
        return self.role is not Role.READ_ONLY

    @property
    def may_end_keys(self) -> bool:
        return self.role is Role.SUPER


ANYBODY = Caller(None, Role.SUPER)

# Of the request that is being answered; `login` sets it.
caller: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)
