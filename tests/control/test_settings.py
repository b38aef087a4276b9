"""control/settings.py: where values come from, and what a wrong one says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control.settings import Listen, Settings, SettingsError, is_loopback, load


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("NARTHEX_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    settings = load()
    assert settings.admin_listen == [Listen("127.0.0.1", 8001)]
    assert settings.link_listen == Listen("127.0.0.1", 8005)
    assert settings.issuer_listen is None
    assert settings.data_dir == Path("./narthex-data")
    assert settings.database == f"sqlite:///{tmp_path}/narthex-data/narthex.db"
    assert settings.keyring_file == Path("narthex-data/keyring")
    assert (settings.admin_hosts, settings.admin_origins) == ([], [])
    assert (settings.log_level, settings.log_format) == ("info", "json")


def test_each_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_environment_comes_before_the_file_and_the_file_before_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "narthex.toml"
    file.write_text(
        'ADMIN_LISTEN = "[::1]:1"\nadmin_hosts = ["a", "b"]\nlink_listen = "localhost:2"\n'
        'keyring = ""\nworkers = 3\nproxy_listen = ["x"]\n'
    )
    monkeypatch.setenv("NARTHEX_CONFIG", str(file))
    monkeypatch.setenv("NARTHEX_LINK_LISTEN", " 127.0.0.1:3 ")
    monkeypatch.setenv("NARTHEX_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("NARTHEX_ADMIN_ORIGINS", "https://a, https://b,")
    monkeypatch.setenv("NARTHEX_DATA_DIR", "")
    settings = load()
    assert settings.admin_listen == [Listen("::1", 1)]
    assert settings.link_listen == Listen("127.0.0.1", 3)
    assert settings.admin_hosts == ["a", "b"]
    assert settings.admin_origins == ["https://a", "https://b"]
    assert settings.log_level == "debug"
    assert settings.data_dir == Path("./narthex-data")
    assert settings.keyring is None


def test_overrides_come_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARTHEX_ADMIN_LISTEN", "127.0.0.1:1")
    assert load(admin_listen="127.0.0.1:2").admin_listen == [Listen("127.0.0.1", 2)]


def test_database_and_keyring_may_be_elsewhere() -> None:
    settings = load(database_url="sqlite:////srv/n.db", keyring="/srv/keys")
    assert (settings.database, settings.keyring_file) == ("sqlite:////srv/n.db", Path("/srv/keys"))


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql"])
def test_database_may_be_on_postgresql(driver: str) -> None:
    url = f"{driver}://u:p@h/d?sslmode=verify-full"
    assert load(database_url=url).database == url


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ADMIN_LISTEN", "8001", "address:port"),
        ("ADMIN_LISTEN", ":8001", "address:port"),
        ("ADMIN_LISTEN", "localhost:", "address:port"),
        ("ADMIN_LISTEN", "localhost:65536", "address:port"),
        ("ADMIN_LISTEN", "localhost:-1", "address:port"),
        ("ADMIN_LISTEN", "localhost:²", "address:port"),
        ("ADMIN_LISTEN", "::1:8001", "brackets"),
        ("ADMIN_LISTEN", "[]:8001", "address:port"),
        ("ADMIN_LISTEN", "0.0.0.0:8001", "ADMIN_TOKENS_FILE"),
        ("ADMIN_LISTEN", "[::]:8001", "a loopback address"),
        ("ADMIN_LISTEN", "admin.example:8001", "a loopback address"),
        ("ADMIN_LISTEN", "127.0.0.1:8001, [::]:8444 ssl", "ADMIN_TOKENS_FILE"),
        ("ADMIN_LISTEN", "127.0.0.1:8444 ssl", "ADMIN_TLS_CERT and ADMIN_TLS_KEY"),
        ("ADMIN_LISTEN", "127.0.0.1:8444 tls", "`ssl` after it"),
        ("ADMIN_LISTEN", "127.0.0.1:8444 ssl ssl", "`ssl` after it"),
        ("ADMIN_LISTEN", "127.0.0.1:1, 127.0.0.1:1", "each address once"),
        ("ADMIN_TLS_CERT", "/srv/cert", "ADMIN_TLS_CERT and ADMIN_TLS_KEY both set"),
        ("ADMIN_FAILURES", "0", "greater than or equal to 1"),
        ("AUDIT_DAYS", "0", "greater than 0"),
        ("AUDIT_ROWS", "10", "greater than or equal to 1000"),
        ("LINK_LISTEN", "0.0.0.0:8005", "LINK_CERT, LINK_KEY and LINK_CA"),
        ("LINK_CERT", "/srv/cert", "LINK_CERT, LINK_KEY and LINK_CA"),
        ("ISSUER_LISTEN", "0.0.0.0:8002", "TLS_CERT and TLS_KEY"),
        ("ISSUER_LISTEN", "x", "address:port"),
        ("ADMIN_HOSTS", "a b", "host names without port"),
        ("ADMIN_HOSTS", "admin.example, other:80", "host names without port"),
        ("ADMIN_ORIGINS", "admin.example", "`https://admin.example:8443`"),
        ("ADMIN_ORIGINS", "https://admin.example/", "`https://admin.example:8443`"),
        ("DATABASE_URL", "mysql://db/narthex", "sqlite:///"),
        ("DATABASE_URL", "mysql://db/narthex", "postgresql+psycopg://<user>:<password>@<host>"),
        ("DATABASE_URL", "postgresql+psycopg2://db/narthex", "postgresql+psycopg://"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'json' or 'console'"),
    ],
)
def test_wrong_value_names_setting_value_and_expectation(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"NARTHEX_{name}", value)
    with pytest.raises(SettingsError) as wrong:
        load()
    text = str(wrong.value)
    assert wrong.value.setting == name
    assert text.startswith(f"NARTHEX_{name} is {value!r}: expected ")
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("LINK_SECRET", "hunter2", "(not shown)"),
        ("DATABASE_URL", "mysql://u:hunter2@h/db", "'mysql://…@h/db'"),
        ("DATABASE_URL", "mysql://u:hunt@er2@h/db?password=hunter2", "'mysql://…@h/db?…'"),
    ],
)
def test_wrong_secret_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str
) -> None:
    monkeypatch.setenv(f"NARTHEX_{name}", value)
    with pytest.raises(SettingsError) as wrong:
        load()
    assert f"NARTHEX_{name} is {shown}: " in str(wrong.value)
    assert "hunt" not in str(wrong.value)


def test_settings_do_not_show_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(link_secret="hunter2-hunter2-hunter2")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "a readable TOML file (No such file or directory)"),
        (b"admin_hosts = [", "a TOML file ("),
        (b"admin_hosts = '\xff'", "a TOML file ("),
    ],
)
def test_file_that_cannot_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: bytes | None, expected: str
) -> None:
    file = tmp_path / "narthex.toml"
    if text is not None:
        file.write_bytes(text)
    monkeypatch.setenv("NARTHEX_CONFIG", str(file))
    with pytest.raises(SettingsError) as wrong:
        load()
    assert str(wrong.value).startswith(f"NARTHEX_CONFIG is {str(file)!r}: expected {expected}")


def test_value_of_another_type_in_the_file_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "narthex.toml"
    file.write_text("admin_listen = 8001\n")
    monkeypatch.setenv("NARTHEX_CONFIG", str(file))
    with pytest.raises(SettingsError, match="NARTHEX_ADMIN_LISTEN is 8001: expected address:port"):
        load()


def test_issuer_and_link_may_leave_loopback_with_their_certificates() -> None:
    settings = load(
        issuer_listen="0.0.0.0:8002",
        tls_cert="c",
        tls_key="k",
        link_listen="[::]:8005",
        link_cert="c",
        link_key="k",
        link_ca="a",
    )
    assert str(settings.issuer_listen) == "0.0.0.0:8002"
    assert str(settings.link_listen) == "[::]:8005"


@pytest.mark.parametrize(
    ("name", "loopback"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.255.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_is_told_from_other_names(name: str, loopback: bool) -> None:
    assert is_loopback(name) is loopback
