"""What both planes read: one environment or one file must mean the same to each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control.keyring import load_keyring as keyring_of_control
from control.settings import SettingsError as ControlError
from control.settings import load as load_control
from control.startup import link_secret
from dataplane.settings import SettingsError as DataplaneError
from dataplane.settings import load as load_dataplane
from dataplane.startup import load_keyring as keyring_of_dataplane

SECRET = "twenty characters..."


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("NARTHEX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def both_agree() -> tuple[Path, Path, bytes]:
    """DATA_DIR, KEYRING and LINK_SECRET, found to be the same on both planes."""
    control, dataplane = load_control(), load_dataplane()
    of_control = (
        control.data_dir.absolute(),
        control.keyring_file.absolute(),
        link_secret(control, control.data_dir),
    )
    of_dataplane = (dataplane.data_dir, dataplane.keyring_file, dataplane.link_secret_bytes())
    assert of_control == of_dataplane
    assert (control.tls_cert, control.tls_key) == (dataplane.tls_cert, dataplane.tls_key)
    return of_control


def test_home_and_spaces_mean_the_same_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NARTHEX_DATA_DIR", "~/data")
    monkeypatch.setenv("NARTHEX_KEYRING", "~/keys")
    monkeypatch.setenv("NARTHEX_LINK_SECRET", f" {SECRET}\n")
    monkeypatch.setenv("NARTHEX_TLS_CERT", "~/tls.crt")
    monkeypatch.setenv("NARTHEX_TLS_KEY", "~/tls.key")
    home = tmp_path / "home"
    assert both_agree() == (home / "data", home / "keys", SECRET.encode())


@pytest.mark.parametrize("name", ["NARTHEX_DATA_DIR", "NARTHEX_CONFIG"])
def test_home_of_nobody_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "~no-such-user-here/x")
    for load, refused in ((load_control, ControlError), (load_dataplane, DataplaneError)):
        with pytest.raises(refused, match=f"{name} is '~no-such-user-here/x'. expected a"):
            load()


def test_prefix_case_and_empty_values_mean_the_same_in_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "n.toml").write_text(
        f'NARTHEX_DATA_DIR = "~/data"\nkeyring = ""\nLink_Secret = "{SECRET} "\n'
    )
    monkeypatch.setenv("NARTHEX_CONFIG", "~/n.toml")
    data = tmp_path / "home" / "data"
    assert both_agree() == (data, data / "keyring", SECRET.encode())


def test_half_written_secret_of_a_killed_process_with_our_pid_is_replaced(tmp_path: Path) -> None:
    """In a container each start has the same pid."""
    for number, load in enumerate((keyring_of_control, keyring_of_dataplane)):
        path = tmp_path / f"keyring{number}"
        (tmp_path / f".keyring{number}.{os.getpid()}").write_text("half")
        assert load(path).encrypt(b"x")
    (tmp_path / f".link.secret.{os.getpid()}").write_text("half")
    assert len(link_secret(load_control(), tmp_path)) == 64
