"""Prints openapi.json: `python -m control.openapi > openapi.json`, without a database.

One document for the Admin API and the OAuth endpoints, made from the app that serves them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, MultiFernet

from control.app import admin_app
from control.store.session import Store


def document() -> dict[str, Any]:
    """The document that `GET /openapi.json` of the Admin API answers."""
    with tempfile.TemporaryDirectory() as folder:
        # Never written: making the app opens no connection.
        keyring = MultiFernet([Fernet(Fernet.generate_key())])
        store = Store(f"sqlite:///{Path(folder) / 'none.db'}", keyring)
        made: dict[str, Any] = admin_app(store, dataplanes=list).openapi()
        store.close()
    return made


def text() -> str:
    """The document as openapi.json holds it."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
