"""The link to the cloud is protected, or refused with the reason."""

import contextlib
import datetime as dt
import logging
import socket
import ssl
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from tools.secured import Authority, engine

from edge_runtime import (
    CloudMisconfiguredError,
    CloudModel,
    CloudUnavailableError,
    Security,
    SettingError,
)
from edge_runtime.cloud import security as security_module
from edge_runtime.cloud.certificates import read_validity
from edge_runtime.cloud.diagnosis import find_mistake
from edge_runtime.cloud.failures import translate
from edge_runtime.cloud.security import system_roots
from edge_runtime.errors import CloudError

IMAGES = np.zeros((1, 4, 5, 3), np.uint8)
SECRET = "s3cr3t-0f-the-device"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    pytest.importorskip("trustme")
    return Authority(tmp_path_factory.mktemp("authorities") / "ours")


@pytest.fixture(scope="module")
def theirs(ours):
    return Authority(ours.folder.parent / "theirs")


@pytest.fixture(scope="module")
def server_pair(ours):
    return ours.issue("server", "localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def client_pair(ours):
    return ours.issue("client", "device-7")


@pytest.fixture(scope="module")
def plain():
    with engine() as port:
        yield f"localhost:{port}"


@pytest.fixture(scope="module")
def tls(server_pair):
    with engine(**server_pair) as port:
        yield f"localhost:{port}"


@pytest.fixture(scope="module")
def mutual(server_pair, ours):
    with engine(**server_pair, client_ca=ours.ca) as port:
        yield f"localhost:{port}"


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    write_secret(file, SECRET)
    return file


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """The file with the token that the guarded server accepts."""
    return tmp_path_factory.mktemp("guard") / "accepted"


@pytest.fixture(scope="module")
def guarded(server_pair, guard):
    guard.write_text(SECRET)
    with engine(**server_pair, token_file=guard) as port:
        yield f"localhost:{port}"


@pytest.fixture(autouse=True)
def _server_accepts_the_first_token(request, guard):
    guard.write_text(SECRET)


def write_secret(file, text):
    file.write_text(f"{text}\n")
    file.chmod(0o600)


def open_cloud(address, security=None, **settings):
    settings = {"deadline_s": 10, "probe_s": 5} | settings
    return CloudModel.open(address, labels=("bird", "cat", "dog"), security=security, **settings)


def label(cloud):
    return cloud.infer(IMAGES).label[0]


def refusal(address, security=None):
    """Return the one-line error of opening a model."""
    with pytest.raises(CloudMisconfiguredError) as caught:
        open_cloud(address, security)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{address}: ")
    return str(caught.value)


@pytest.mark.slow
def test_the_right_authority_lets_calls_through(tls, ours):
    with open_cloud(tls, Security(ca=ours.ca)) as cloud:
        assert label(cloud) == "cat"


@pytest.mark.slow
def test_a_path_may_be_a_text(tls, ours):
    with open_cloud(tls, Security(ca=str(ours.ca))) as cloud:
        assert cloud.check()


@pytest.mark.slow
def test_a_name_in_the_certificate_can_be_set(ours):
    pair = ours.issue("tunnel", "large.example.org")
    with engine(**pair) as port:
        address = f"localhost:{port}"
        assert "but for large.example.org" in refusal(address, Security(ca=ours.ca))
        named = Security(ca=ours.ca, server_name="large.example.org")
        with open_cloud(address, named) as cloud:
            assert label(cloud) == "cat"
        assert find_mistake("localhost", port, named, 5.0) is None


@pytest.mark.slow
def test_a_wrong_authority_is_named(tls, theirs):
    words = refusal(tls, Security(ca=theirs.ca))
    assert f"issuer certificate in {theirs.ca}: give the CA that signed" in words


@pytest.mark.slow
def test_the_systems_authorities_are_the_default(tls):
    assert "in the store of the system: give the CA" in refusal(tls, Security())


@pytest.mark.slow
def test_an_authority_that_the_system_trusts_needs_no_naming(tls, ours, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.ca))
    with open_cloud(tls, Security()) as cloud:
        assert label(cloud) == "cat"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "end", "words", "advice"),
    [
        (-20, -1, "certificate has expired", "or set this device's clock if it is wrong"),
        (5, 20, "certificate is not yet valid", "set this device's clock, which is behind"),
    ],
)
def test_a_certificate_out_of_date_is_named_with_its_dates(begin, end, words, advice, ours):
    pair = ours.issue(f"dated{begin}", "localhost", begin=begin, end=end)
    now = dt.datetime.now(dt.timezone.utc)
    with engine(**pair) as port:
        came = refusal(f"localhost:{port}", Security(ca=ours.ca))
    first, last = (f"{now + dt.timedelta(days=day):%Y-%m-%d}" for day in (begin, end))
    assert f": {words}: valid {first} " in came
    assert f" to {last} " in came
    assert f" UTC, this device's clock says {now:%Y-%m-%d} " in came
    assert came.endswith(advice)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "of another authority", "expired"])
def test_a_client_certificate_that_does_not_fit_is_named(kind, mutual, ours, theirs):
    pair = {
        "none": {},
        "of another authority": theirs.issue("client", "device-7"),
        "expired": ours.issue("old-client", "device-7", begin=-20, end=-1),
    }[kind]
    words = refusal(mutual, Security(ca=ours.ca, **pair))
    expected = {
        "none": "does not accept the client certificate, which was none",
        "of another authority": f"the client certificate, which was {theirs.folder}",
        "expired": f"client certificate {ours.folder}/old-client.pem: valid ",
    }[kind]
    assert expected in words


@pytest.mark.slow
def test_the_right_client_certificate_lets_calls_through(mutual, ours, client_pair):
    with open_cloud(mutual, Security(ca=ours.ca, **client_pair)) as cloud:
        assert label(cloud) == "cat"


@pytest.mark.slow
def test_plaintext_against_tls_is_named(tls, mutual):
    for address in (tls, mutual):
        assert "the server speaks TLS, but this client uses plaintext" in refusal(address)


@pytest.mark.slow
def test_tls_against_plaintext_is_named(plain, ours):
    assert "the server speaks no TLS there" in refusal(plain, Security(ca=ours.ca))


@pytest.mark.slow
def test_without_a_probe_the_call_reports_it(tls, theirs):
    with (
        open_cloud(tls, Security(ca=theirs.ca), probe_s=None) as cloud,
        pytest.raises(CloudMisconfiguredError, match="give the CA that signed"),
    ):
        label(cloud)


def accept_all(listener, context):
    """Accept connections with OpenSSL instead of gRPC."""
    with contextlib.suppress(OSError), listener:
        while True:
            plain, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as link:
                link.recv(1000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_refuses_by_an_alert_is_named(version, ours, server_pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(server_pair["certificate"], server_pair["key"])
    context.load_verify_locations(ours.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept_all, args=(listener, context), daemon=True).start()
        address = f"localhost:{listener.getsockname()[1]}"
        assert "client certificate" in refusal(address, Security(ca=ours.ca))
        assert "the server speaks TLS" in refusal(address)


def test_a_server_of_another_protocol_is_named(ours, server_pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_pair["certificate"], server_pair["key"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept_all, args=(listener, context), daemon=True).start()
        words = refusal(f"localhost:{listener.getsockname()[1]}", Security(ca=ours.ca))
    assert "not HTTP/2" in words


@pytest.mark.slow
def test_a_server_absent_at_open_is_used_once_it_comes(ours, server_pair):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with open_cloud(f"localhost:{port}", Security(ca=ours.ca)) as cloud:
        with pytest.raises(CloudUnavailableError):
            label(cloud)
        with engine(**server_pair, port=port):
            until = time.monotonic() + 10
            while time.monotonic() < until:
                with contextlib.suppress(CloudError):
                    assert label(cloud) == "cat"
                    return
                time.sleep(0.1)
    pytest.fail("the server was not found")


def test_a_server_that_hangs_up_is_no_mistake_of_certificates(ours):
    def hang_up(listener):
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up, args=(listener,), daemon=True).start()
        address = f"localhost:{listener.getsockname()[1]}"
        for security in (None, Security(ca=ours.ca)):
            with open_cloud(address, security) as cloud, pytest.raises(CloudUnavailableError):
                label(cloud)


def test_a_silent_server_delays_opening_no_longer_than_the_probe(ours):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        address = f"localhost:{listener.getsockname()[1]}"
        open_cloud(address, Security(ca=ours.ca), probe_s=0.3).close()
    assert time.monotonic() - begin < 1.0


@pytest.mark.slow
def test_an_expired_client_certificate_is_named_while_running(
    mutual, ours, client_pair, monkeypatch
):
    security = Security(ca=ours.ca, **client_pair)
    with open_cloud(mutual, security) as cloud:
        assert label(cloud) == "cat"
        assert cloud._connections.replace(cloud._link.connect())
        later = dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=400)
        monkeypatch.setattr("edge_runtime.cloud.diagnosis.utc_now", lambda: later)
        error = FakeError("failed to connect to all addresses; last error: Socket closed")
        failure = cloud._link.translate(error, 1.0)
    assert isinstance(failure, CloudMisconfiguredError)
    assert "renew it, or set the clock" in str(failure)


class FakeError:
    """An error of gRPC with the text of version 1.85."""

    def __init__(self, details, code=grpc.StatusCode.UNAVAILABLE):
        self._details, self._code = details, code

    def code(self):
        return self._code

    def details(self):
        return self._details


HANDSHAKE = "ipv4:127.0.0.1:1: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1:"


@pytest.mark.parametrize(
    ("details", "advice"),
    [
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "renew the server"),
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: certificate is not yet valid: OK", "clock"),
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "--ca"),
        (f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: self signed certificate: OK", "--ca"),
        (f"{HANDSHAKE}WRONG_VERSION_NUMBER: Invalid certificate verification context", "no TLS"),
        (f"{HANDSHAKE}SSLV3_ALERT_CERTIFICATE_EXPIRED: OK", "check the client certificate"),
        (f"{HANDSHAKE}TLSV1_ALERT_CERTIFICATE_REQUIRED: OK", "check the client certificate"),
        ("ipv4:1.2.3.4:1: Unwrap failed (TSI_DATA_CORRUPTED)", "check the client certificate"),
        ("UNAUTHENTICATED: Hostname Verification Check failed.", "--server-name"),
        ("Peer name localhost is not in peer certificate", "--server-name"),
        ("Cannot check peer: missing selected ALPN property.", "both sides speak TLS"),
        ("Failed to create security handshaker.", "check certificate, key"),
        ("Ssl handshake failed: SSL_ERROR_SSL: error:1416F086", "check certificate, key"),
        ("ipv4:127.0.0.1:1: Handshake read failed (Socket closed)", None),
        ("ipv4:127.0.0.1:1: Handshake read failed (recvmsg:Connection reset by peer (104))", None),
        ("ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused", None),
        ("errors resolving tls-certificate.example:1: [field:hostname lookup error:no]", None),
    ],
)
def test_words_of_grpc_tell_a_mistake_from_an_outage(details, advice):
    failure = translate(FakeError(details), "cloud:1", 1.0)
    assert isinstance(failure, CloudMisconfiguredError) == (advice is not None)
    assert (advice or "is the server running") in str(failure)


@pytest.mark.slow
def test_the_token_reaches_the_server(guarded, ours, token_file, monkeypatch):
    with open_cloud(guarded, Security(ca=ours.ca, token_file=token_file)) as cloud:
        assert label(cloud) == "cat"
    monkeypatch.setenv("CLOUD_TOKEN", SECRET)
    with open_cloud(guarded, Security(ca=ours.ca, token_env="CLOUD_TOKEN")) as cloud:
        assert label(cloud) == "cat"


@pytest.mark.slow
def test_a_wrong_token_is_refused_at_open_and_shown_nowhere(guarded, ours, token_file, caplog):
    caplog.set_level(logging.DEBUG)
    write_secret(token_file, "another-s3cr3t")
    security = Security(ca=ours.ca, token_file=token_file)
    words = refusal(guarded, security)
    # This server repeats what it was sent.
    assert "UNAUTHENTICATED: who is Bearer [token]?" in words
    assert "check token" in words
    assert "s3cr3t" not in f"{words}{caplog.text}{security!r}{security.token()!r}"
    assert "UNAUTHENTICATED: who is none?" in refusal(guarded, Security(ca=ours.ca))


@pytest.mark.slow
def test_a_rotated_token_is_taken_from_its_file(guarded, guard, ours, token_file):
    with open_cloud(guarded, Security(ca=ours.ca, token_file=token_file)) as cloud:
        assert label(cloud) == "cat"
        guard.write_text("the-next")
        with pytest.raises(CloudMisconfiguredError, match="UNAUTHENTICATED"):
            label(cloud)
        write_secret(token_file, "the-next")
        assert label(cloud) == "cat"
        assert SECRET not in repr(vars(cloud))


def test_a_token_file_that_is_being_replaced_leaves_the_old_token(token_file):
    token = Security(token_file=token_file).token()
    before = token.metadata()
    for change in (token_file.unlink, lambda: token_file.write_text("")):
        change()
        assert token.metadata() == before
    token_file.write_text("new")
    assert token.metadata() == (("authorization", "Bearer new"),)


@pytest.mark.parametrize("content", ["", "two words", "näme", "a\r\nb"])
def test_a_malformed_token_is_refused_without_showing_it(content, token_file):
    token_file.write_text(content, encoding="utf-8")
    security = Security(token_file=token_file)
    with pytest.raises(SettingError, match=f"expected a bearer token in {token_file}") as caught:
        open_cloud("localhost:1", security)
    assert content == "" or content not in str(caught.value)


def test_a_missing_token_is_refused(monkeypatch):
    monkeypatch.delenv("CLOUD_TOKEN", raising=False)
    with pytest.raises(SettingError, match="the environment variable CLOUD_TOKEN, got nothing"):
        open_cloud("localhost:1", Security(token_env="CLOUD_TOKEN"))
    with pytest.raises(SettingError, match="/no/such/token, got nothing"):
        open_cloud("localhost:1", Security(token_file="/no/such/token"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"certificate": "a.pem"}, "certificate needs key"),
        ({"key": "a.pem"}, "key needs certificate"),
        ({"token_file": "a", "token_env": "A"}, "from one place"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, why):
    with pytest.raises(SettingError, match=why):
        Security(**settings)


def test_files_that_do_not_fit_are_refused_in_one_line(ours, theirs, client_pair, tmp_path):
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("garbage")
    other = theirs.issue("client2", "device-7")
    for settings, why in (
        ({"ca": "/no/such/ca.pem"}, "expected a readable file as ca, got No such file"),
        ({"ca": no_pem}, f"expected certificates in PEM in {no_pem}, got 0"),
        (client_pair | {"key": "/no/such/key"}, "expected a readable file as key"),
        (client_pair | {"key": other["key"]}, "got KEY_VALUES_MISMATCH"),
        (client_pair | {"key": no_pem}, "expected a pair in PEM"),
    ):
        with pytest.raises(SettingError) as caught:
            open_cloud("localhost:1", Security(**{"ca": ours.ca} | settings), probe_s=None)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_encrypted_key_is_refused_without_a_password_prompt(ours, tmp_path):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    pair = ours.issue("locked", "device-7")
    key = serialization.load_pem_private_key(pair["key"].read_bytes(), None)
    pair["key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(SettingError, match="unencrypted"):
        open_cloud("localhost:1", Security(ca=ours.ca, **pair), probe_s=None)


def test_secret_files_that_others_may_read_are_warned_of(ours, client_pair, token_file, caplog):
    def opened():
        caplog.clear()
        security = Security(ca=ours.ca, **client_pair, token_file=token_file)
        open_cloud("localhost:1", security, probe_s=None).close()
        return caplog.text

    assert not opened()
    token_file.chmod(0o644)
    words = opened()
    assert f"chmod 600 {token_file}" in words
    assert SECRET not in words


def test_certificates_that_are_renewed_are_taken_by_the_next_connection(ours, tmp_path, caplog):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(ours.ca.read_bytes())
    with open_cloud("localhost:1", Security(ca=ca), probe_s=None) as cloud:
        before = cloud._link._credentials
        cloud._link.connect().close()
        renewed = cloud._link._credentials
        assert renewed is not before
        ca.write_text("half writ")
        cloud._link.connect().close()
        assert cloud._link._credentials is renewed
    assert "stay in use" in caplog.text


def test_the_systems_store_is_read():
    assert b"-----BEGIN CERTIFICATE-----" in system_roots()


def test_a_store_in_a_folder_is_read_and_grpcs_own_is_the_last_resort(ours, tmp_path, monkeypatch):
    (tmp_path / "0a1b2c3d.0").write_bytes(ours.ca.read_bytes())
    paths = ssl.get_default_verify_paths()._replace(cafile=None, capath=str(tmp_path))
    monkeypatch.setattr(security_module.ssl, "get_default_verify_paths", lambda: paths)
    assert system_roots() == ours.ca.read_bytes()
    (tmp_path / "0a1b2c3d.0").unlink()
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(security_module.ssl, "create_default_context", lambda: empty)
    assert b"-----BEGIN CERTIFICATE-----" in system_roots()


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2120])
def test_dates_are_those_that_cryptography_reads(year, ours):
    x509 = pytest.importorskip("cryptography.x509")
    days = (year - dt.datetime.now(dt.timezone.utc).year) * 366
    file = ours.issue(f"until{year}", "localhost", begin=-13_000, end=days)["certificate"]
    expected = x509.load_pem_x509_certificate(file.read_bytes())
    block = file.read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    came = read_validity(ssl.PEM_cert_to_DER_cert(block))
    assert (came.begin, came.end) == (expected.not_valid_before_utc, expected.not_valid_after_utc)


@pytest.mark.parametrize("der", [b"", b"\x30", b"garbage and more of it", b"\x30\x82\xff\xff" * 9])
def test_bytes_other_than_a_certificate_are_refused(der):
    with pytest.raises(SettingError, match="expected a certificate"):
        read_validity(der)


def test_nobody_at_the_address_is_no_mistake(ours):
    for security in (None, Security(ca=ours.ca)):
        assert find_mistake("localhost", 1, security, 1.0) is None


def test_no_repr_holds_a_secret(ours, token_file):
    security = Security(ca=ours.ca, token_file=token_file)
    with open_cloud("localhost:1", security, probe_s=None) as cloud:
        shown = f"{cloud!r}{cloud._link!r}{vars(cloud._link)!r}{security!r}"
    assert SECRET not in shown
    assert str(Path(token_file)) in repr(security)
