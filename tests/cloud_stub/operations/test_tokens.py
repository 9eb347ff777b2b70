"""Accepted tokens, and changes of the file that holds them."""

from __future__ import annotations

import logging
import os
import pickle

import pytest

from cloud_stub.operations.tokens import TokenGuard, Tokens
from edge_runtime.errors import SettingError, UseError

pytestmark = pytest.mark.once

FIRST, SECOND = "first-token-0123456789", "second-token-0123456789"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# of the fleet\n\n{FIRST}\n  {SECOND}  \r\n")
    return path


def reason(tokens, *sent):
    return TokenGuard(tokens)._reason(list(sent))


def test_only_the_tokens_of_the_file_are_accepted(file):
    tokens = Tokens(file)
    assert len(tokens) == 2
    assert tokens.accept(FIRST.encode())
    assert tokens.accept(SECOND.encode())
    for wrong in ("", FIRST[:-1], f"{FIRST}x", FIRST.upper(), "# of the fleet"):
        assert not tokens.accept(wrong.encode())


def test_the_scheme_is_read_in_any_case(file):
    tokens = Tokens(file)
    assert reason(tokens, f"Bearer {FIRST}") is None
    assert reason(tokens, f"bearer {FIRST}") is None
    assert reason(tokens, f"BEARER {FIRST}".encode()) is None


@pytest.mark.parametrize("value", [f"Bearer {FIRST} \t ", f" Bearer {FIRST}", f"Bearer  {FIRST}"])
def test_white_space_around_the_token_is_no_part_of_it(value, file):
    assert reason(Tokens(file), value) is None


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ((), "got none"),
        (("Basic c2VjcmV0",), "another scheme"),
        (("",), "another scheme"),
        (("Bearer c2VjcmV0c2VjcmV0c2VjcmV0",), "not accepted here"),
        (("Bearer ",), "not accepted here"),
        ((f"Bearer {FIRST}", f"Bearer {FIRST}"), "got several"),
        ((b"Bearer c2VjcmV0\xff",), "not accepted here"),
    ],
)
def test_a_refusal_gives_a_reason_and_repeats_nothing(sent, words, file):
    why = reason(Tokens(file), *sent)
    assert words in why
    assert "c2VjcmV0" not in why
    assert FIRST not in why


def test_a_rotated_file_is_read_again(file, caplog):
    caplog.set_level(logging.INFO)
    tokens = Tokens(file)
    file.write_text("third-token-0123456789\n")
    assert tokens.accept(b"third-token-0123456789")
    assert not tokens.accept(FIRST.encode())
    assert [record.getMessage() for record in caplog.records] == ["tokens are renewed"]
    assert "third" not in caplog.text


def test_a_file_that_replaces_the_other_is_read(file, tmp_path):
    tokens = Tokens(file)
    new = tmp_path / "new"
    # Same size and date as the old one: only the inode differs.
    new.write_text(file.read_text().replace("first", "third"))
    state = file.stat()
    os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns))
    new.replace(file)
    assert tokens.accept(b"third-token-0123456789")


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_text(""),
        lambda file: file.write_text("# all gone\n"),
        lambda file: file.write_text(f"{FIRST[:5]}\n"),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
    ],
)
def test_a_file_that_becomes_invalid_leaves_the_last_tokens_valid(damage, file, caplog):
    tokens = Tokens(file)
    damage(file)
    for _ in range(3):
        assert tokens.accept(FIRST.encode())
        assert not tokens.accept(b"")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(file) in caplog.records[0].reason
    assert FIRST[:5] not in caplog.records[0].reason
    file.write_text("third-token-0123456789\n")
    assert tokens.accept(b"third-token-0123456789")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got none: without a token every call is refused"),
        (b"\n# nothing but this\n", "got none"),
        (b"two words-0123456789\n", "line 1 of"),
        (FIRST.encode() + b"\nt\xc3\xb6ken-0123456789ab\n", "line 2 of"),
        (b"s3cr3t\n", "got 6: create a token that cannot be guessed"),
    ],
)
def test_a_file_without_valid_tokens_is_refused_and_not_repeated(content, words, tmp_path):
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(SettingError) as caught:
        Tokens(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "0123456789" not in str(caught.value)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file, words in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "ordinary file"),
        (tmp_path / "pipe", "ordinary file"),
    ):
        with pytest.raises(SettingError, match=words):
            Tokens(file)


def test_tokens_are_not_pickled(file):
    with pytest.raises(UseError, match="open the file"):
        pickle.dumps(Tokens(file))


def test_no_repr_holds_a_token(file):
    tokens = Tokens(file)
    assert FIRST not in f"{tokens!r}{TokenGuard(tokens)!r}"
