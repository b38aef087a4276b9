"""decK's files as read from disk, their variables filled in."""

import io
from pathlib import Path

import pytest

from narthex.config_file import fill_in, read
from narthex.fault import Fault


@pytest.mark.parametrize(
    "text", ['${{ env "DECK_X" }}', "${{env 'DECK_X'}}", '${{   env   "DECK_X"   }}']
)
def test_fill_in_replaces_variable_however_it_is_written(text: str) -> None:
    assert fill_in(f"a: {text}!", {"DECK_X": "ä$1"}) == "a: ä$1!"


def test_fill_in_leaves_other_text_alone() -> None:
    text = "a: ${env} $DECK_X {{ env }} ${DECK_X}"
    assert fill_in(text, {"DECK_X": "x"}) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('${{ env "HOME" }}', "only variables that start with DECK_"),
        ('${{ env "DECK_MISSING" }}', "the environment variable DECK_MISSING is not set"),
        ("${{ vault://x }}", "can be filled in"),
        ("${{ }}", "can be filled in"),
    ],
)
def test_fill_in_refuses_in_words(text: str, said: str) -> None:
    with pytest.raises(Fault, match=said):
        fill_in(text, {"HOME": "/root"})


def test_read_takes_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("a: ü")
    assert read(str(tmp_path / "a.yaml")) == "a: ü"
    monkeypatch.setattr("sys.stdin", io.StringIO("b: 1"))
    assert read("-") == "b: 1"


def test_read_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="No such file"):
        read(str(tmp_path / "none.yaml"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(Fault, match="not UTF-8"):
        read(str(tmp_path / "bytes"))
