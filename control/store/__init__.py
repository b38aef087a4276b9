"""What the gateway remembers: tables, migrations, transactions, queries."""

from control.store.changes import Change, IssuedToken, Refreshed, Revoked
from control.store.faults import StoreError
from control.store.session import Store, WriteSession

__all__ = [
    "Change",
    "IssuedToken",
    "Refreshed",
    "Revoked",
    "Store",
    "StoreError",
    "WriteSession",
]
