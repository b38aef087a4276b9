"""control/guard/tokens.py: the file of the Admin API's tokens, read again when it changes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
import structlog

from control.guard.callers import Caller, Role
from control.guard.tokens import (
    BYTES_MAX,
    TOKENS_MAX,
    TokensFile,
    TokensFileError,
    append,
    make_token,
    parse,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def write(path: Path, *lines: str, mode: int = 0o600) -> None:
    """As an editor does: a new file in the place of the old one."""
    aside = path.with_name("aside")
    aside.write_text("\n".join(lines))
    aside.chmod(mode)
    aside.rename(path)


def line(name: str, role: str, token: str) -> str:
    return f"{name} {role} sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def test_token_is_recognisable_long_and_another_each_time() -> None:
    made = {make_token("ci", Role.OPERATOR)[0] for _ in range(50)}
    assert len(made) == 50
    assert all(re.fullmatch("nxa_[A-Za-z0-9]{40}", token) for token in made)


def test_line_holds_the_digest_and_not_the_token(path: Path) -> None:
    token, made = make_token("ci", Role.OPERATOR)
    assert made == line("ci", "operator", token)
    assert token not in made
    write(path, made)
    assert TokensFile(path).find(token) == Caller("ci", Role.OPERATOR)


@pytest.mark.parametrize("name", ["", "a b", "-x", ".", "a/b", "ä", "x" * 65, "a\n", "#x"])
def test_name_that_would_break_the_line_is_refused(name: str) -> None:
    with pytest.raises(TokensFileError, match="no name for a token"):
        make_token(name, Role.SUPER)


def test_comments_blanks_and_upper_case_digests_are_taken(path: Path) -> None:
    upper = line("bob", "super", "b").replace("sha256:", "SHA256:").upper().split()[2]
    write(
        path, "# who", "", "  " + line("al", "read-only", "a") + "  ", f"bob\tsuper {upper}", " #"
    )
    tokens = TokensFile(path)
    assert tokens.find("a") == Caller("al", Role.READ_ONLY)
    assert tokens.find("b") == Caller("bob", Role.SUPER)
    for wrong in ("", "c", "al", "A", "a ", "x" * 10_000, hashlib.sha256(b"a").hexdigest()):
        assert tokens.find(wrong) is None


def test_name_may_have_two_tokens_while_one_is_exchanged(path: Path) -> None:
    write(path, line("ci", "operator", "old"), line("ci", "operator", "new"))
    tokens = TokensFile(path)
    assert tokens.find("old") == tokens.find("new") == Caller("ci", Role.OPERATOR)


@pytest.mark.parametrize(
    "bad",
    [
        "alice super",
        "alice super sha256:" + "0" * 63,
        "alice super sha256:" + "g" * 64,
        "alice super sha512:" + "0" * 64,
        "alice root sha256:" + "0" * 64,
        "alice super nxa_S3cretS3cretS3cretS3cretS3cretS3cretS3cr",
        "alice super sha256:" + "0" * 64 + " # her laptop",
        "a/b super sha256:" + "0" * 64,
    ],
)
def test_wrong_line_is_named_by_its_number_and_not_shown(path: Path, bad: str) -> None:
    write(path, "# one", line("al", "super", "a"), bad)
    with pytest.raises(TokensFileError) as wrong:
        TokensFile(path)
    text = str(wrong.value)
    assert text.startswith(f"{path} line 3: expected `name role sha256:")
    assert "S3cret" not in text and "0000" not in text


def test_same_digest_twice_is_refused(path: Path) -> None:
    write(path, line("al", "super", "a"), line("bob", "read-only", "a"))
    with pytest.raises(TokensFileError, match="line 2: the same digest stands above"):
        TokensFile(path)


def test_more_tokens_or_bytes_than_there_may_be_are_refused(path: Path) -> None:
    lines = [line("x", "super", str(number)) for number in range(TOKENS_MAX + 1)]
    assert len(parse(path, "\n".join(lines[:-1]))) == TOKENS_MAX
    with pytest.raises(TokensFileError, match=f"more than {TOKENS_MAX} tokens"):
        parse(path, "\n".join(lines))
    write(path, "#" * (BYTES_MAX + 1))
    with pytest.raises(TokensFileError, match="larger than 1024 KiB"):
        TokensFile(path)


def test_file_that_is_missing_not_text_or_open_to_others_is_refused(path: Path) -> None:
    with pytest.raises(TokensFileError, match="cannot be read: No such file"):
        TokensFile(path)
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(TokensFileError, match="not UTF-8"):
        TokensFile(path)
    for mode in (0o620, 0o602):
        write(path, line("al", "super", "a"), mode=mode)
        with pytest.raises(TokensFileError, match="run `chmod 600"):
            TokensFile(path)
    write(path, line("al", "super", "a"), mode=0o444)
    assert len(TokensFile(path)) == 1


def test_changed_file_is_read_again(path: Path) -> None:
    write(path, line("al", "super", "a"))
    tokens = TokensFile(path)
    assert tokens.find("a") and not tokens.find("b")
    write(path, line("bob", "super", "b"))
    assert not tokens.find("a") and tokens.find("b")
    write(path, "# nobody any more")
    assert not tokens.find("b")


def test_change_in_place_that_looks_the_same_is_seen(path: Path) -> None:
    """Same inode, size and times: two writes within one tick of the file system's clock."""
    write(path, line("al", "super", "a"))
    tokens = TokensFile(path)
    about = path.stat()
    path.write_text(line("al", "super", "b"))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert tokens.find("b") and not tokens.find("a")


def test_file_that_rests_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, line("al", "super", "a"))
    os.utime(path, (1, 1))
    tokens = TokensFile(path)
    monkeypatch.setattr("control.guard.tokens._read", None)
    assert tokens.find("a")


@pytest.mark.parametrize("broken", ["half a li", None])
def test_broken_file_leaves_the_last_good_one_and_is_logged_once(
    path: Path, broken: str | None
) -> None:
    write(path, line("al", "super", "a"))
    tokens = TokensFile(path)
    write(path, broken or "")
    if broken is None:
        path.unlink()
    with structlog.testing.capture_logs() as logged:
        assert tokens.find("a") and tokens.find("a") and not tokens.find("b")
    assert [(one["event"], one["log_level"]) for one in logged] == [("admin.tokens_file", "error")]
    assert str(path) in logged[0]["why"] and "half" not in str(logged)
    write(path, line("bob", "super", "b"))
    assert not tokens.find("a") and tokens.find("b")


def test_append_makes_the_file_for_its_owner_alone_and_keeps_what_it_holds(path: Path) -> None:
    append(path, line("al", "super", "a"))
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text().rstrip("\n"))  # an editor that ends no line
    append(path, line("bob", "operator", "b"))
    assert path.read_text().splitlines() == [line("al", "super", "a"), line("bob", "operator", "b")]
    assert len(TokensFile(path)) == 2


def test_append_leaves_a_broken_file_as_it_is(path: Path) -> None:
    write(path, "half a li")
    with pytest.raises(TokensFileError, match="line 1"):
        append(path, line("al", "super", "a"))
    assert path.read_text() == "half a li"
    with pytest.raises(TokensFileError, match="cannot be written: No such file"):
        append(path.parent / "nowhere" / "tokens", line("al", "super", "a"))
