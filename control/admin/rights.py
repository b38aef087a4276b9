"""What not every role that writes may do."""

from control.admin.errors import PlainError
from control.guard.callers import caller


async def super_only() -> None:
    """A dependency of the endpoints that end keys."""
    if not caller.get().may_end_keys:
        raise PlainError(403, f"the role {caller.get().role} may not do this; super may")


async def with_secrets() -> None:
    """A dependency of the endpoints whose answer is good for nothing without its secrets."""
    if not caller.get().sees_secrets:
        raise PlainError(403, f"the role {caller.get().role} may not read secrets; operator may")
