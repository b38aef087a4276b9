"""Every knob of the data plane: its unit, its default and what it accepts.

Values come from the environment (`NARTHEX_WORKERS=2`), else from the TOML file that NARTHEX_CONFIG
names (`WORKERS = 2`, any case, with or without the prefix). The file may hold the control plane's
settings too: names that are not ours are left alone. Nothing here creates a file; `load` is safe
for a dry run.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PREFIX = "NARTHEX_"
CONFIG = "NARTHEX_CONFIG"  # the environment variable that names the TOML file
LINK_SECRET_FILE = "link.secret"  # in DATA_DIR
KEYRING_FILE = "keyring"  # in DATA_DIR
SECRETS = frozenset({"LINK_SECRET"})  # never shown
LINK_SECRET_CHARS_MIN = 16
WORKERS_MAX = 64  # as the engine's
LISTEN_EXPECTED = (
    "a comma-separated list of up to 16 ADDRESS:PORT, each with `ssl` after it for TLS, like"
    " `0.0.0.0:8000, [::]:8443 ssl`; the address an IP, the port 0 to 65535, none twice"
)


class SettingsError(Exception):
    """One setting is wrong. `str()` is one line: its name, its value, what was expected."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        shown = "(not shown)" if name in SECRETS and value is not None else repr(value)
        problem = "is not set" if value is None else f"is {shown}"
        super().__init__(f"{PREFIX}{name} {problem}; expected {expected}")
        self.name = name
        self.value = value
        self.expected = expected


class Listener(NamedTuple):
    """One address to listen on. `address` is an IP without brackets."""

    address: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}{' ssl' if self.tls else ''}"


def parse_listener(text: str) -> Listener:
    """`ADDRESS:PORT` with an optional `ssl`. Raises ValueError for anything else."""
    where, *words = text.split()
    host, colon, port = where.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"no port in {text!r}")
    if any(word != "ssl" for word in words) or len(words) > 1:
        raise ValueError(f"unknown word in {text!r}")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    if bracketed != (address.version == 6) or getattr(address, "scope_id", None):
        raise ValueError(f"not an address to listen on: {host!r}")
    return Listener(str(address), int(port), bool(words))


def _items(value: object) -> object:
    """The items of a comma-separated text; a list (TOML) as it is."""
    return [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value


def _listeners(value: object) -> object:
    items = _items(value)
    if not isinstance(items, list):
        return value
    found = [item if isinstance(item, Listener) else parse_listener(str(item)) for item in items]
    places = [item[:2] for item in found if item[1] != 0]
    if len(set(places)) != len(places):
        raise ValueError("the same address twice")
    return found


def _status_listener(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "off":
        return None
    found = parse_listener(value)
    if found.tls:
        raise ValueError("the status listener speaks no TLS")
    return found


def _networks(value: object) -> object:
    items = _items(value)
    if not isinstance(items, list):
        return value
    return [ipaddress.ip_network(str(item), strict=False) for item in items]


def _absolute(value: object) -> object:
    if not isinstance(value, str | Path) or str(value) == "":
        return value
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no such user") from None


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def cpus_usable() -> int:
    """The CPUs that this process may use."""
    return min(len(os.sched_getaffinity(0)), WORKERS_MAX)


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PATH_EXPECTED = "a path"


class Settings(BaseSettings):
    """The data plane's settings. Make one with `load`, which says what is wrong in one line.

    Each field's description is what a wrong value's message says was expected.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    proxy_listen: Annotated[list[Listener], NoDecode, BeforeValidator(_listeners)] = Field(
        default=[Listener("0.0.0.0", 8000), Listener("0.0.0.0", 8443, True)],  # noqa: S104
        min_length=1,
        max_length=16,
        description=LISTEN_EXPECTED,
    )
    status_listen: Annotated[Listener | None, NoDecode, BeforeValidator(_status_listener)] = Field(
        default=Listener("127.0.0.1", 8007),
        description="one ADDRESS:PORT like `127.0.0.1:8007`, the address an IP, or `off`",
    )
    link_url: str = Field(
        default="ws://127.0.0.1:8005",
        description="the control plane's ws:// or wss:// URL, like `wss://control.example:8005`;"
        " wss:// and LINK_CERT, LINK_KEY and LINK_CA where it is not this machine",
    )
    link_secret: SecretStr | None = Field(
        default=None,
        description=f"the control plane's secret, {LINK_SECRET_CHARS_MIN} characters at the least",
    )
    link_cert: AbsolutePath | None = Field(default=None, description=PATH_EXPECTED)
    link_key: AbsolutePath | None = Field(default=None, description=PATH_EXPECTED)
    link_ca: AbsolutePath | None = Field(default=None, description=PATH_EXPECTED)
    data_dir: AbsolutePath = Field(
        default_factory=lambda: Path("narthex-data").absolute(), description=PATH_EXPECTED
    )
    keyring: AbsolutePath | None = Field(default=None, description=PATH_EXPECTED)
    workers: int = Field(
        default_factory=cpus_usable, ge=1, le=WORKERS_MAX, description="a whole number from 1 to 64"
    )
    tls_cert: AbsolutePath | None = Field(default=None, description=PATH_EXPECTED)
    tls_key: AbsolutePath | None = Field(default=None, description=PATH_EXPECTED)
    trusted_ips: Annotated[list[Network], NoDecode, BeforeValidator(_networks)] = Field(
        default=[],
        max_length=64,
        description="a comma-separated list of up to 64 IP addresses and networks, like"
        " `10.0.0.0/8, ::1`",
    )
    token_cache: int = Field(
        default=65536, ge=16, le=2**24, description="tokens, a whole number from 16 to 16777216"
    )
    max_sessions: int | None = Field(  # None: what the file descriptor limit allows
        default=None, ge=1, le=2**20, description="sessions, a whole number from 1 to 1048576"
    )
    max_connections: int | None = Field(  # None: what the file descriptor limit allows
        default=None, ge=1, le=2**21, description="connections, a whole number from 1 to 2097152"
    )
    # Off by default: behind one address may be a whole company, or a load test.
    max_connections_per_address: int = Field(
        default=0, ge=0, le=2**21, description="connections, 0 to 2097152; 0 for no bound"
    )
    handshake_rate_per_address: int = Field(
        default=0, ge=0, le=10**6, description="handshakes a second, 0 to 1000000; 0 for no bound"
    )
    max_sessions_per_consumer: int = Field(
        default=0, ge=0, le=2**20, description="sessions, 0 to 1048576; 0 for no bound"
    )
    head_bytes: int = Field(
        default=32768, ge=1024, le=32768, description="bytes, a whole number from 1024 to 32768"
    )
    drain_seconds: float = Field(
        default=10.0, ge=0, le=86400, allow_inf_nan=False, description="seconds, from 0 to 86400"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        Field(default="info", description="debug, info, warning or error")
    )
    log_format: Annotated[Literal["json", "console"], BeforeValidator(_lower)] = Field(
        default="json", description="json or console"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the TOML file; values given in code win over both."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _toml_values())

    @property
    def trusted_prefixes(self) -> list[tuple[bytes, int]]:
        """TRUSTED_IPS as the engine takes them: 16-byte address (IPv4 mapped) and prefix bits."""
        return [
            (network.network_address.packed, network.prefixlen)
            if network.version == 6
            else (b"\0" * 10 + b"\xff\xff" + network.network_address.packed, 96 + network.prefixlen)
            for network in self.trusted_ips
        ]

    @property
    def keyring_file(self) -> Path:
        return self.keyring or self.data_dir / KEYRING_FILE

    def link_secret_bytes(self) -> bytes:
        """LINK_SECRET, else what `link.secret` in DATA_DIR holds.

        Raises:
            SettingsError: neither is there, or it is too short to be one.
        """
        if self.link_secret is not None:
            secret = self.link_secret.get_secret_value().strip()
        else:
            path = self.data_dir / LINK_SECRET_FILE
            try:
                secret = path.read_text("utf-8").strip()
            except FileNotFoundError:
                raise SettingsError(
                    "LINK_SECRET", None, f"the control plane's secret there or in {path}"
                ) from None
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    "LINK_SECRET", None, f"{path} to be readable: {error}"
                ) from None
        if len(secret) < LINK_SECRET_CHARS_MIN:
            raise SettingsError("LINK_SECRET", "", expected("link_secret"))
        return secret.encode()


def _toml_values() -> dict[str, Any]:
    """What the file named by NARTHEX_CONFIG holds, by field name; nothing when none is named."""
    named = os.environ.get(CONFIG)
    if not named:
        return {}
    try:
        document = tomllib.loads(Path(named).expanduser().read_text("utf-8"))
    except (OSError, RuntimeError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError("CONFIG", named, f"a readable TOML file ({error})") from None
    named_values = {k.lower().removeprefix(PREFIX.lower()): v for k, v in document.items()}
    # An empty value means unset, as it does in the environment.
    return {name: value for name, value in named_values.items() if value != ""}


def expected(field: str) -> str:
    """What a value of this field has to be, in words."""
    return Settings.model_fields[field].description or "another value"


def load(**given: Any) -> Settings:
    """The settings of this process; `given` (by field name) wins over environment and file.

    Raises:
        SettingsError: a value is wrong, or two do not go together.
    """
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        value = _as_given(field, given.get(field, first["input"]))
        raise SettingsError(field.upper(), value, expected(field)) from None
    _check_together(settings)
    return settings


def _as_given(field: str, fallback: object) -> object:
    """The value as the operator wrote it, not the part of it that pydantic stumbled on."""
    written = os.environ.get(PREFIX + field.upper())
    return written if written else _toml_values().get(field, fallback)


def _check_together(settings: Settings) -> None:
    pairs = {"tls_cert": settings.tls_cert, "tls_key": settings.tls_key}
    link = {name: getattr(settings, name) for name in ("link_cert", "link_key", "link_ca")}
    for group in (pairs, link):
        missing = [name.upper() for name, value in group.items() if value is None]
        if missing and len(missing) < len(group):
            names = " and ".join(name.upper() for name in group)
            raise SettingsError(missing[0], None, f"{names} to be set together")
    try:
        url = urlsplit(settings.link_url)
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
    secured = settings.link_ca is not None
    if host is None or url.scheme not in ("ws", "wss") or url.query or url.fragment:
        raise SettingsError("LINK_URL", settings.link_url, expected("link_url"))
    if (url.scheme == "wss") != secured or (not secured and not _is_loopback(host)):
        raise SettingsError("LINK_URL", settings.link_url, expected("link_url"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
