"""The server's certificate and key: one line for every mistake, renewal without a restart."""

from __future__ import annotations

import datetime as dt
import logging
import shutil

import pytest
from tools.secured import Authority

from cloud_stub.operations import security as security_module
from cloud_stub.operations.security import ServerCertificates, ServerSecurity
from edge_runtime.errors import SettingError

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    pytest.importorskip("trustme")
    return Authority(tmp_path_factory.mktemp("authorities") / "ours")


@pytest.fixture
def pair(ours, tmp_path):
    """A pair in a folder of its own, which a test may overwrite."""
    issued = ours.issue("server", "localhost")
    return {name: shutil.copy2(file, tmp_path / name) for name, file in issued.items()}


def opened(pair, client_ca=None):
    return ServerCertificates(pair["certificate"], pair["key"], client_ca)


def replace(pair, issued, *names):
    for name in names or ("certificate", "key"):
        shutil.copy2(issued[name], pair[name])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"certificate": "a"}, "--certificate needs --key"),
        ({"key": "a"}, "--key needs --certificate"),
        ({"client_ca": "a"}, "--client-ca needs --certificate and --key"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        ServerSecurity(**settings)


def test_tokens_in_plaintext_are_refused_beyond_loopback(tmp_path):
    security = ServerSecurity(token_file=tmp_path / "tokens")
    for host in ("127.0.0.1", "::1", "localhost"):
        security.check_host(host)
    for host in ("0.0.0.0", "::", "192.0.2.1", "cloud.example.org"):  # noqa: S104
        with pytest.raises(SettingError, match="tokens would cross the network in plaintext"):
            security.check_host(host)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "from other machines, in plaintext and without authentication: serve"),
        ({"certificate": "c", "key": "k"}, "from other machines and without authentication: "),
        ({"certificate": "c", "key": "k", "client_ca": "a"}, None),
        ({"certificate": "c", "key": "k", "token_file": "t"}, None),
    ],
)
def test_an_unprotected_server_beyond_loopback_logs_a_warning(settings, words, tmp_path, caplog):
    files = {name: tmp_path / file for name, file in settings.items()}
    ServerSecurity(**files).check_host("0.0.0.0")  # noqa: S104
    assert bool(caplog.records) == (words is not None)
    assert (words or "") in caplog.text


def test_secret_files_that_others_may_read_log_a_warning(pair, caplog):
    security = ServerSecurity(**pair)
    security.check_host("127.0.0.1")
    assert not caplog.records
    pair["key"].chmod(0o640)
    security.check_host("127.0.0.1")
    assert f"chmod 600 {pair['key']}" in caplog.records[0].reason


def test_files_that_do_not_fit_are_refused_on_one_line(ours, pair, tmp_path):
    other = ours.issue("other", "localhost")
    expired = ours.issue("expired", "localhost", end=-1)
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("garbage")
    for changed, client_ca, words in (
        ({"certificate": tmp_path / "none"}, None, "expected a readable file as certificate"),
        ({"key": tmp_path / "none"}, None, "expected a readable file as key, got No such file"),
        ({"key": tmp_path}, None, "expected a readable file as key, got Is a directory"),
        ({"key": other["key"]}, None, "got KEY_VALUES_MISMATCH"),
        ({"certificate": no_pem}, None, "expected a pair in PEM"),
        ({}, tmp_path / "none", "expected a readable file as client-ca"),
        ({}, no_pem, "got 0 that can be read: name the CA's file as client-ca"),
        (expired, None, "expected a certificate that has not expired"),
    ):
        with pytest.raises(SettingError) as caught:
            opened(pair | changed, client_ca)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    end = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    assert f"{end:%Y-%m-%d}" in str(caught.value)


def test_an_encrypted_key_is_refused_without_a_password_prompt(pair):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key(pair["key"].read_bytes(), None)
    pair["key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(SettingError, match="unencrypted"):
        opened(pair)


def test_unchanged_files_are_not_read_again(pair):
    assert opened(pair)._renew() is None


def test_a_renewed_pair_is_used(ours, pair, caplog):
    caplog.set_level(logging.INFO)
    current = opened(pair)
    before = current.validity
    replace(pair, ours.issue("renewed", "localhost", end=200))
    assert current._renew() is not None
    assert current._renew() is None
    assert current.validity.end < before.end
    assert [record.getMessage() for record in caplog.records] == ["certificate is renewed"]


def test_a_half_renewed_pair_is_used_once_it_is_complete(ours, pair, caplog):
    current = opened(pair)
    renewed = ours.issue("renewed", "localhost")
    replace(pair, renewed, "certificate")
    assert current._renew() is None
    assert current._renew() is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "KEY_VALUES_MISMATCH" in caplog.records[0].reason
    replace(pair, renewed, "key")
    assert current._renew() is not None


def test_an_expired_pair_does_not_replace_a_valid_one(ours, pair, caplog):
    current = opened(pair)
    before = current.validity
    replace(pair, ours.issue("expired", "localhost", end=-1))
    assert current._renew() is None
    assert current.validity == before
    assert "has not expired" in caplog.records[0].reason


def test_missing_files_leave_the_last_pair_in_use(pair, caplog):
    current = opened(pair)
    pair["key"].unlink()
    assert current._renew() is None
    assert current._renew() is None
    assert len(caplog.records) == 1


def test_a_renewed_authority_of_the_clients_is_used(ours, pair, tmp_path):
    ca = tmp_path / "ca.pem"
    shutil.copy2(ours.ca, ca)
    current = opened(pair, ca)
    assert current._renew() is None
    shutil.copy2(Authority(tmp_path / "theirs").ca, ca)
    assert current._renew() is not None


def test_a_certificate_that_ends_soon_logs_a_warning_once_a_day(ours, pair, caplog, monkeypatch):
    replace(pair, ours.issue("ending", "localhost", end=10))
    now = dt.datetime.now(dt.timezone.utc)
    current = opened(pair)
    assert len(caplog.records) == 1
    assert "renew the files in place" in caplog.text
    for hours, count in ((1, 1), (23, 1), (25, 2), (26, 2), (24 * 11, 3)):
        later = now + dt.timedelta(hours=hours)
        monkeypatch.setattr(security_module, "utc_now", lambda later=later: later)
        current._renew()
        assert len(caplog.records) == count, hours


def test_a_certificate_that_is_not_valid_yet_logs_a_warning(ours, pair, caplog):
    replace(pair, ours.issue("early", "localhost", begin=1))
    opened(pair)
    assert "this machine's clock says" in caplog.text
