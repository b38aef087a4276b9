"""Every knob of the control plane: what it is, its unit, its default and why.

A setting is the environment variable `NARTHEX_<NAME>`, else `<name>` (any case, with or without the
prefix) in the TOML file that `NARTHEX_CONFIG` names, else the default here. Both planes may share
one file: names that are not ours are left to the other plane.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PREFIX = "NARTHEX_"
SECRETS = frozenset({"link_secret"})  # their values never stand in an error
_DATABASES = ("sqlite:///", "postgresql+psycopg://", "postgresql://")  # the last one: as libpq's
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[\w-]+(?:\.[\w-]+)*\.?")
_ORIGIN = re.compile(rf"https?://(?:{_HOST.pattern})(?::[0-9]{{1,5}})?")
_ADDRESS = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")  # IPv6 without brackets


class SettingsError(Exception):
    """A setting cannot be used: the text names it, its value and what was expected."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        shown = _shown(name.lower(), value)
        super().__init__(f"{PREFIX}{name.upper()} is {shown}: expected {expected}")
        self.setting = name.upper()


def _shown(name: str, value: object) -> str:
    """A value for an error's text, without what must not be read there."""
    if name in SECRETS:
        return "(not shown)"
    if name == "database_url":
        return repr(re.sub(r"\?.*", "?…", re.sub(r"//.*@", "//…@", str(value))))
    return repr(value)


class Listen(NamedTuple):
    """An address to listen on; port 0 lets the system choose one."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{' ssl' if self.tls else ''}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address without brackets always means this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(value: object) -> object:
    if value is None or isinstance(value, Listen):
        return value
    if not isinstance(value, str):
        raise ValueError("address:port")
    host, colon, port = value.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("address:port, an IPv6 address in brackets")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("address:port, as in 127.0.0.1:8001 or [::1]:8001")
    return Listen(host, int(port))


def _listeners(value: object) -> object:
    words = _words(value)
    found = [_listener(word) for word in (words if isinstance(words, list) else [words])]
    if len(set(found)) < len(found):
        raise ValueError("each address once")
    return found


def _listener(word: object) -> Listen:
    if isinstance(word, Listen):
        return word
    where, *rest = (word.split() if isinstance(word, str) else []) or [""]
    found = _listen(where)
    if rest not in ([], ["ssl"]) or not isinstance(found, Listen):
        raise ValueError(
            "address:port, with `ssl` after it for TLS and a comma between two, as in "
            "127.0.0.1:8001, 0.0.0.0:8444 ssl"
        )
    return found._replace(tls=bool(rest))


def _words(value: object) -> object:
    """`a, b` in the environment means what `["a", "b"]` means in TOML."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


def _expanded(value: object) -> object:
    """`~` means the home folder, here as in the data plane's settings."""
    if not isinstance(value, str | Path) or not str(value):
        return value
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("a path; there is no such user") from None


File = Annotated[Path, BeforeValidator(_expanded)]
Address = Annotated[Listen, NoDecode, BeforeValidator(_listen)]
Addresses = Annotated[list[Listen], NoDecode, BeforeValidator(_listeners)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]


class _TomlFile(PydanticBaseSettingsSource):
    """The settings of the file that NARTHEX_CONFIG names, if it names one."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole file is read at once, below

    def __call__(self) -> dict[str, Any]:
        path = os.environ.get(PREFIX + "CONFIG")
        if not path:
            return {}
        try:
            found = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(
                "config", path, f"a readable TOML file ({error.strerror})"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RuntimeError) as error:
            raise SettingsError("config", path, f"a TOML file ({error})") from None
        known = self.settings_cls.model_fields
        named = {n.lower().removeprefix(PREFIX.lower()): v for n, v in found.items()}
        # An empty value means unset, as it does in the environment.
        return {n: v for n, v in named.items() if n in known and v != ""}


class Settings(BaseSettings):
    """The control plane's settings; made by `load`."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", validate_default=False
    )

    data_dir: File = Field(
        Path("./narthex-data"), description="folder for all we keep; 0700, made when missing"
    )
    database_url: SecretStr | None = Field(
        None,
        description="sqlite:///file, or postgresql+psycopg://user:password@host/database, which "
        "takes libpq's parameters (`?sslmode=verify-full`); unset: narthex.db in DATA_DIR",
    )
    keyring: File | None = Field(
        None,
        description="file of Fernet keys, one a line, newest first; encrypts secrets at rest. "
        "Unset: `keyring` in DATA_DIR, made when missing",
    )
    admin_listen: Addresses = Field(
        [Listen("127.0.0.1", 8001)],
        min_length=1,
        max_length=16,
        description="Admin API: addresses, comma between, each with `ssl` after it for TLS",
    )
    admin_tokens_file: File | None = Field(
        None,
        description="who may use the Admin API, lines that `narthex admin-token` makes; unset: "
        "everybody who reaches ADMIN_LISTEN, which may not leave loopback then (S84)",
    )
    admin_failures: int = Field(
        20, ge=1, le=10_000,
        description="wrong tokens of the Admin API a minute from one address (an IPv6 /64); then "
        "429 for whoever shows no good one",
    )  # fmt: skip
    admin_tls_cert: File | None = Field(
        None, description="PEM certificate chain of ADMIN_LISTEN's `ssl`; unset: TLS_CERT"
    )
    admin_tls_key: File | None = Field(None, description="PEM private key of ADMIN_TLS_CERT")
    audit_days: float = Field(
        90, gt=0, le=3650, allow_inf_nan=False,
        description="days for which the audit trail keeps a record",
    )  # fmt: skip
    audit_rows: int = Field(
        200_000, ge=1000, le=10_000_000,
        description="records that the audit trail keeps at the most, 1 to 2 KiB each mostly",
    )  # fmt: skip
    admin_hosts: Words = Field(
        [], description="names in Host the Admin API answers to besides loopback ones (S86)"
    )
    admin_origins: Words = Field(
        [], description="Origins of pages that may call the Admin API (S86); none by default"
    )
    link_listen: Address = Field(Listen("127.0.0.1", 8005), description="where data planes connect")
    link_secret: SecretStr | None = Field(
        None,
        description="what both ends of the link prove they know, 16 characters or more. "
        "Unset: link.secret in DATA_DIR, made when missing",
    )
    link_cert: File | None = Field(None, description="PEM certificate chain of the link's server")
    link_key: File | None = Field(None, description="PEM private key of LINK_CERT")
    link_ca: File | None = Field(
        None, description="PEM certificates that sign data planes' certificates"
    )
    link_crl: File | None = Field(
        None, description="PEM list of revoked certificates of data planes, signed by LINK_CA"
    )
    link_names: Words = Field(
        [],
        description="DNS names, URIs or common names of the certificates that may connect; "
        "unset: each that LINK_CA signed",
    )
    issuer_listen: Annotated[Listen | None, NoDecode, BeforeValidator(_listen)] = Field(
        None, description="serves the token endpoint by itself too, over TLS_CERT; unset: not"
    )
    client_failures: int = Field(
        20, ge=1, le=1000,
        description="wrong secrets a minute of one client from one address; then 429 (S24)",
    )  # fmt: skip
    address_failures: int = Field(
        200, ge=1, le=10_000,
        description="wrong secrets a minute from one address (an IPv6 /64), whatever the client",
    )  # fmt: skip
    tls_cert: File | None = Field(
        None, description="PEM certificate chain for ISSUER_LISTEN, and ADMIN_LISTEN's `ssl`"
    )
    tls_key: File | None = Field(None, description="PEM private key of TLS_CERT")
    key_rotation_days: float = Field(
        90,
        ge=0,
        le=3650,
        allow_inf_nan=False,
        description="days after which another key signs JWTs; 0: only by `narthex keys rotate`",
    )
    key_publish_seconds: int = Field(
        3600,
        ge=10,
        le=7 * 86400,
        description="seconds for which a key is published before it signs: no verifier may keep "
        "the key set for longer. At least twice what a data plane may be behind (5 s)",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged"
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="json: one object a line; console: for reading at a terminal"
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("link_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        secret = value.get_secret_value().strip()  # the data plane's too: a line may end a file
        if len(secret) < 16:
            raise ValueError("16 characters or more")
        return SecretStr(secret)

    @field_validator("admin_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        if not all(_HOST.fullmatch(host) or _ADDRESS.fullmatch(host) for host in value):
            raise ValueError("host names without port, comma between, like `admin.example`")
        return value

    @field_validator("admin_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        if not all(_ORIGIN.fullmatch(origin) for origin in value):
            raise ValueError(
                "origins as browsers send them, comma between, like `https://admin.example:8443`"
            )
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(_DATABASES):
            raise ValueError(
                "sqlite:///<path of the file> or "
                "postgresql+psycopg://<user>:<password>@<host>/<database>"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _TomlFile(settings_cls)

    @property
    def database(self) -> str:
        """DATABASE_URL, or the SQLite file in DATA_DIR."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.absolute() / 'narthex.db'}"

    @property
    def admin_certificate(self) -> tuple[Path | None, Path | None]:
        """Certificate chain and key of the Admin API's TLS listeners."""
        if self.admin_tls_cert or self.admin_tls_key:
            return self.admin_tls_cert, self.admin_tls_key
        return self.tls_cert, self.tls_key

    @property
    def keyring_file(self) -> Path:
        return self.keyring or self.data_dir / "keyring"


def load(**overrides: Any) -> Settings:
    """The settings of this process: environment, file, defaults; `overrides` before them all.

    Raises:
        SettingsError: the first setting whose value cannot be used, alone or beside the others.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingsError(name, first["input"], _expected(dict(first))) from None
    _check_together(settings)
    return settings


def _expected(problem: dict[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "literal_error":
        return f"one of {problem['ctx']['expected']}"
    return str(problem["msg"]).removeprefix("Input should be ")


def _check_together(settings: Settings) -> None:
    """What no single value shows: settings that need each other."""
    _check_admin(settings)
    link = (settings.link_cert, settings.link_key, settings.link_ca)
    if any(link) and not all(link):
        value = str(settings.link_cert or "unset")
        raise SettingsError("link_cert", value, "LINK_CERT, LINK_KEY and LINK_CA all set")
    if not settings.link_listen.loopback and not all(link):
        raise SettingsError(
            "link_listen",
            str(settings.link_listen),
            "a loopback address, or LINK_CERT, LINK_KEY and LINK_CA set too",
        )
    if settings.issuer_listen and not (settings.tls_cert and settings.tls_key):
        raise SettingsError(
            "issuer_listen", str(settings.issuer_listen), "TLS_CERT and TLS_KEY set too"
        )


def _check_admin(settings: Settings) -> None:
    listeners = ", ".join(map(str, settings.admin_listen))
    if not all(one.loopback for one in settings.admin_listen) and not settings.admin_tokens_file:
        raise SettingsError(
            "admin_listen",
            listeners,
            "a loopback address such as 127.0.0.1:8001, or ADMIN_TOKENS_FILE set too: "
            "`narthex admin-token NAME ROLE` makes its lines",
        )
    tls = (settings.admin_tls_cert, settings.admin_tls_key)
    if any(tls) and not all(tls):
        value = str(settings.admin_tls_cert or "unset")
        raise SettingsError("admin_tls_cert", value, "ADMIN_TLS_CERT and ADMIN_TLS_KEY both set")
    if any(one.tls for one in settings.admin_listen) and not all(settings.admin_certificate):
        raise SettingsError(
            "admin_listen",
            listeners,
            "ADMIN_TLS_CERT and ADMIN_TLS_KEY set too, or TLS_CERT and TLS_KEY, for its `ssl`",
        )
