"""Column types that encrypt under the keyring, and the JSON column.

The keyring belongs to the engine, not to the process: `Store` puts it on the engine's dialect,
which SQLAlchemy hands to every bind and result processor.
"""

import json
from typing import Any

from cryptography.fernet import InvalidToken, MultiFernet
from sqlalchemy import JSON, Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator

_SEALED = "$sealed"  # member name of an encrypted string inside a JSON document


class Undecryptable(Exception):
    """A stored secret was encrypted under a key that is not in the keyring."""


class Secret(str):
    """A string that is encrypted when it is stored inside a JSON document."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


def attach_keyring(dialect: Dialect, keyring: MultiFernet) -> None:
    """Make `keyring` the one that columns of this dialect's engine encrypt with."""
    dialect.narthex_keyring = keyring  # type: ignore[attr-defined]


def _keyring(dialect: Dialect) -> MultiFernet:
    keyring: MultiFernet = dialect.narthex_keyring  # type: ignore[attr-defined]
    return keyring


def _open(keyring: MultiFernet, sealed: bytes) -> bytes:
    try:
        return keyring.decrypt(sealed)
    except InvalidToken:
        raise Undecryptable("a stored secret does not open under KEYRING") from None


class EncryptedText(TypeDecorator[str]):
    """Text, Fernet-encrypted in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else _keyring(dialect).encrypt(value.encode())

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else _open(_keyring(dialect), value).decode()


class EncryptedBytes(TypeDecorator[bytes]):
    """Bytes, Fernet-encrypted in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return None if value is None else _keyring(dialect).encrypt(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return None if value is None else _open(_keyring(dialect), value)


class SealedJSON(TypeDecorator[dict[str, Any]]):
    """A JSON object in which each `Secret` is stored as `{"$sealed": <Fernet>}`."""

    impl = JSON
    cache_ok = True

    def process_bind_param(
        self, value: dict[str, Any] | None, dialect: Dialect
    ) -> dict[str, Any] | None:
        return None if value is None else _seal(value, _keyring(dialect))

    def process_result_value(
        self, value: dict[str, Any] | None, dialect: Dialect
    ) -> dict[str, Any] | None:
        return None if value is None else _unseal(value, _keyring(dialect))


SEALING = (EncryptedText, EncryptedBytes, SealedJSON)  # the types above


def _seal(value: Any, keyring: MultiFernet) -> Any:
    if isinstance(value, Secret):
        return {_SEALED: keyring.encrypt(value.encode()).decode()}
    if isinstance(value, dict):
        return {key: _seal(item, keyring) for key, item in value.items()}
    if isinstance(value, list):
        return [_seal(item, keyring) for item in value]
    return value


def _unseal(value: Any, keyring: MultiFernet) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_SEALED}:
            return Secret(_open(keyring, value[_SEALED].encode()).decode())
        return {key: _unseal(item, keyring) for key, item in value.items()}
    if isinstance(value, list):
        return [_unseal(item, keyring) for item in value]
    return value


def dump_json(value: Any) -> str:
    """How JSON columns are written: compact, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
