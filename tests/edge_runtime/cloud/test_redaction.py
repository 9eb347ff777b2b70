"""No message shows a secret that this process ever held, and nothing carries one away."""

import copy
import json
import pickle
from urllib.parse import quote

import grpc
import pytest

from edge_runtime import Security, UseError
from edge_runtime.cloud import redaction
from edge_runtime.cloud.failures import translate
from edge_runtime.cloud.redaction import foreign, hold

OLD, NEW = "0ld-s3cr3t/with+all~kinds_of.marks==", "n3w-s3cr3t"


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch):
    monkeypatch.setattr(redaction, "_HELD", type(redaction._HELD)())


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(OLD)
    file.chmod(0o600)
    return file


class RefusalError(Exception):
    def __init__(self, details, rows=()):
        self._details, self._rows = details, rows

    def code(self):
        return grpc.StatusCode.INVALID_ARGUMENT

    def details(self):
        return self._details

    def trailing_metadata(self):
        return self._rows


def test_a_token_is_not_shown_after_its_renewal(token_file):
    token = Security(token_file=token_file).token()
    token_file.write_text(NEW)
    assert NEW in token.metadata()[0][1]
    words = f"neither {OLD} nor Bearer {NEW} is known"
    failure = translate(
        RefusalError(words, [("gatekeeper-refused-row", f"0 {words}")]), "cloud:1", 1.0
    )
    hidden = "neither [token] nor Bearer [token] is known"
    assert hidden in str(failure)
    assert all(hidden in why for why in failure.rows.values())


def test_a_token_is_not_shown_when_its_reader_is_gone(monkeypatch):
    monkeypatch.setenv("A_TOKEN", f"{OLD}\n")
    Security(token_env="A_TOKEN").token()
    assert foreign(f"who is {OLD}?") == "who is [token]?"


@pytest.mark.parametrize(
    "form",
    [quote(OLD, safe=""), quote(OLD, safe="").lower(), json.dumps(OLD).replace("/", "\\/")],
)
def test_escaped_forms_of_a_token_are_hidden(form):
    hold(OLD)
    assert foreign(form).strip('"') == "[token]"


def test_of_two_tokens_the_longer_one_is_hidden_whole():
    hold("abc")
    hold("abcdef")
    assert foreign("abcdef abc") == "[token] [token]"


def test_a_cut_message_ends_with_no_part_of_a_token():
    hold(NEW)
    assert foreign(f"12345{NEW}", 8) == "12345[to"


def test_the_number_of_remembered_tokens_is_bounded():
    for number in range(300):
        hold(f"token-{number}-of-many")
    assert foreign("token-299-of-many token-44-of-many") == "[token] [token]"
    assert len(redaction._HELD) == 256


def test_a_token_is_neither_pickled_nor_copied(token_file):
    security = Security(token_file=token_file)
    for carry in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UseError, match="open it from its Security"):
            carry(security.token())
    assert OLD.encode() not in pickle.dumps(security)
