"""The data plane's settings: what they accept, and the one line that says what they do not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dataplane import settings as module
from dataplane.settings import Listener, SettingsError, load, parse_listener

SECRET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("NARTHEX_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_settings_are_the_documented_ones_when_nothing_is_set(tmp_path: Path) -> None:
    found = load()
    assert found.proxy_listen == [Listener("0.0.0.0", 8000), Listener("0.0.0.0", 8443, True)]
    assert found.status_listen == Listener("127.0.0.1", 8007)
    assert found.link_url == "ws://127.0.0.1:8005"
    assert found.data_dir == tmp_path / "narthex-data"
    assert found.keyring_file == tmp_path / "narthex-data" / "keyring"
    assert found.workers == len(os.sched_getaffinity(0))
    assert (found.token_cache, found.max_sessions, found.drain_seconds) == (65536, None, 10.0)
    assert (found.max_connections, found.head_bytes) == (None, 32768)
    assert found.max_connections_per_address == found.handshake_rate_per_address == 0
    assert found.max_sessions_per_consumer == 0
    assert (found.log_level, found.log_format, found.trusted_ips) == ("info", "json", [])
    assert (found.tls_cert, found.link_ca, found.link_secret) == (None, None, None)
    assert not found.data_dir.exists()  # a dry run makes nothing


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        ("0.0.0.0:8000", Listener("0.0.0.0", 8000)),
        ("127.0.0.1:0 ssl", Listener("127.0.0.1", 0, True)),
        ("[::]:8443   ssl", Listener("::", 8443, True)),
        ("[2001:DB8::0:1]:65535", Listener("2001:db8::1", 65535)),
    ],
)
def test_listener_is_read_from_each_form(text: str, listener: Listener) -> None:
    assert parse_listener(text) == listener
    assert parse_listener(str(listener)) == listener


@pytest.mark.parametrize(
    "text",
    [
        "8000", "0.0.0.0", "0.0.0.0:", "0.0.0.0:65536", "0.0.0.0:+80", "0.0.0.0:٣", ":8000", "",
        "::1:8000", "[127.0.0.1]:80", "[::1:80", "localhost:80", "0.0.0.0:80 tls", "[fe80::1%1]:80",
        "0.0.0.0:80 ssl ssl", "0.0.0.0:80, 0.0.0.0:80 ssl", "256.0.0.1:80",
    ],
)  # fmt: skip
def test_settings_refuse_a_listener_that_is_not_one(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = text or ","
    monkeypatch.setenv("NARTHEX_PROXY_LISTEN", value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.name == "PROXY_LISTEN"
    assert caught.value.value == value
    assert "ADDRESS:PORT" in caught.value.expected


def test_settings_take_values_already_made() -> None:
    made = load(proxy_listen="127.0.0.1:1", status_listen="[::1]:2", trusted_ips="::1")
    again = load(
        proxy_listen=made.proxy_listen,
        status_listen=made.status_listen,
        trusted_ips=made.trusted_ips,
    )
    assert again == made


def test_port_zero_may_stand_twice_in_a_list() -> None:
    assert len(load(proxy_listen="127.0.0.1:0, 127.0.0.1:0 ssl").proxy_listen) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "0"),
        ("WORKERS", "65"),
        ("TRUSTED_IPS", ",".join(["10.0.0.1"] * 65)),
        ("PROXY_LISTEN", ",".join(["127.0.0.1:0"] * 17)),
        ("WORKERS", "two"),
        ("TOKEN_CACHE", "15"),
        ("MAX_SESSIONS", "0"),
        ("MAX_CONNECTIONS", "0"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "-1"),
        ("HANDSHAKE_RATE_PER_ADDRESS", "0.5"),
        ("MAX_SESSIONS_PER_CONSUMER", "many"),
        ("HEAD_BYTES", "1023"),
        ("HEAD_BYTES", "32769"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "nan"),
        ("DRAIN_SECONDS", "inf"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("TRUSTED_IPS", "10.0.0.0/33"),
        ("TRUSTED_IPS", "10.0.0.1, home"),
        ("STATUS_LISTEN", "127.0.0.1:8007 ssl"),
        ("STATUS_LISTEN", "8007"),
        ("LINK_URL", "http://127.0.0.1:8005"),
        ("LINK_URL", "ws://control.example:8005"),  # in clear over a network
        ("LINK_URL", "ws://192.0.2.1:8005"),
        ("LINK_URL", "wss://127.0.0.1:8005"),  # without certificates
        ("LINK_URL", "ws://127.0.0.1:port"),
        ("LINK_URL", "ws://[::1:8005"),
        ("LINK_URL", "ws://127.0.0.1:8005/?x=1"),
        ("LINK_URL", "8005"),
    ],
)
def test_settings_name_the_setting_its_value_and_what_was_expected(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"NARTHEX_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load()
    text = str(caught.value)
    assert text == f"NARTHEX_{name} is {value!r}; expected {caught.value.expected}"
    assert len(caught.value.expected) > 5
    assert "\n" not in text


@pytest.mark.parametrize("url", ["ws://localhost:1", "ws://[::1]:8005", "ws://127.0.0.2:8005/"])
def test_link_may_be_in_clear_on_this_machine(url: str) -> None:
    assert load(link_url=url).link_url == url


def test_link_takes_certificates_only_together_and_with_wss(tmp_path: Path) -> None:
    three: dict[str, Any] = {n: tmp_path / n for n in ("link_cert", "link_key", "link_ca")}
    url = "wss://control.example:8005"
    assert load(link_url=url, **three).link_ca == tmp_path / "link_ca"
    with pytest.raises(SettingsError, match=r"LINK_KEY is not set.*together"):
        load(link_url=url, **{**three, "link_key": None})
    with pytest.raises(SettingsError, match=r"LINK_URL"):
        load(**three)


def test_tls_certificate_is_refused_without_its_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TLS_KEY is not set"):
        load(tls_cert=tmp_path / "c.pem")


def test_settings_come_from_the_toml_file_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "n.toml").write_text(
        'WORKERS = 3\nnarthex_token_cache = 128\nproxy_listen = ["127.0.0.1:1", "[::1]:2 ssl"]\n'
        'trusted_ips = ["10.0.0.0/8"]\nadmin_listen = "127.0.0.1:8001"\nstatus_listen = "off"\n'
    )
    monkeypatch.setenv("NARTHEX_CONFIG", str(tmp_path / "n.toml"))
    monkeypatch.setenv("NARTHEX_WORKERS", "1")
    monkeypatch.setenv("NARTHEX_TOKEN_CACHE", "")  # empty is not set
    found = load()
    assert (found.workers, found.token_cache, found.status_listen) == (1, 128, None)
    assert found.proxy_listen == [Listener("127.0.0.1", 1), Listener("::1", 2, True)]
    assert found.trusted_prefixes == [(b"\0" * 10 + b"\xff\xff\x0a\0\0\0", 104)]


@pytest.mark.parametrize("value", ["7", "[7]", "{ a = 1 }"])
def test_settings_refuse_a_toml_value_of_another_kind(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("proxy_listen", "trusted_ips", "data_dir", "log_level", "status_listen"):
        (tmp_path / "n.toml").write_text(f"{name} = {value}\n")
        monkeypatch.setenv("NARTHEX_CONFIG", str(tmp_path / "n.toml"))
        if (name, value) == ("trusted_ips", "[7]"):
            continue  # an integer is an address to ipaddress; harmless
        with pytest.raises(SettingsError, match=name.upper()):
            load()


@pytest.mark.parametrize("text", ["WORKERS = ", None, b"\xff"])
def test_settings_name_the_file_when_it_is_not_readable_toml(
    text: str | bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "n.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setenv("NARTHEX_CONFIG", str(path))
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(f"NARTHEX_CONFIG is '{path}'; expected a readable TOML")


def test_trusted_ips_are_sixteen_bytes_and_prefix_bits() -> None:
    found = load(trusted_ips="192.0.2.7, 2001:db8::/32,10.1.2.3/8")
    assert found.trusted_prefixes == [
        (b"\0" * 10 + b"\xff\xff\xc0\x00\x02\x07", 128),
        (b"\x20\x01\x0d\xb8" + b"\0" * 12, 32),
        (b"\0" * 10 + b"\xff\xff\x0a\0\0\0", 104),
    ]


def test_link_secret_is_the_setting_else_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.secret").write_text(f"{SECRET}{SECRET}\n")
    assert load(data_dir=tmp_path).link_secret_bytes() == (SECRET * 2).encode()
    assert load(data_dir=tmp_path, link_secret=SECRET).link_secret_bytes() == SECRET.encode()


def test_link_secret_error_never_shows_the_secret(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"LINK_SECRET is .not shown.*16") as caught:
        load(link_secret="tooshort").link_secret_bytes()
    assert "tooshort" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"LINK_SECRET is not set.*link\.secret"):
        load(data_dir=tmp_path).link_secret_bytes()
    (tmp_path / "link.secret").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(SettingsError, match=r"LINK_SECRET is not set.*readable"):
        load(data_dir=tmp_path).link_secret_bytes()
    assert SECRET not in repr(load(link_secret=SECRET))


def test_every_setting_says_what_it_expects() -> None:
    assert all(field.description for field in module.Settings.model_fields.values())
