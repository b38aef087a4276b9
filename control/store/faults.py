"""What keeps the store from its work, apart from what the database itself says."""

from sqlalchemy.exc import OperationalError


class StoreError(Exception):
    """The database cannot be used; the text says why and what to do."""


class Unavailable(OperationalError):
    """The database could be reached, and yet this transaction cannot be; it may be tried again."""

    def __init__(self, why: str) -> None:
        super().__init__(None, None, Exception(why))


class HeldElsewhere(Unavailable):
    """Another control plane serves this database."""
