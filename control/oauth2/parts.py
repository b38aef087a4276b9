"""What the endpoints of one issuer share."""

from __future__ import annotations

from dataclasses import dataclass

from control.oauth2.keys import Keys
from control.oauth2.known import Known
from control.oauth2.requests import StoreThreads
from control.store.session import Store


@dataclass(frozen=True)
class Parts:
    """One store, the threads that read it, and what is remembered of it."""

    store: Store
    threads: StoreThreads
    keys: Keys
    known: Known

    @classmethod
    def of(cls, store: Store) -> Parts:
        threads = StoreThreads()
        return cls(store, threads, Keys(store), Known(store, threads))
