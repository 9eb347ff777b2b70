"""`run` and `doctor` over a protected link: their flags, checks and secrets."""

import datetime as dt
import json
import os
import socket
import sys
import time

import numpy as np
import pytest
from tools.secured import Authority, engine

from edge_runtime import CloudMisconfiguredError, CloudUnavailableError, Security, SettingError
from edge_runtime.cli import main
from edge_runtime.commands import doctor
from edge_runtime.commands.doctor import (
    ConcernError,
    DoctorSettings,
    check_certificates,
    check_clock,
    check_link,
)
from edge_runtime.commands.run import RunSettings

COMMANDS = {"run": RunSettings, "doctor": DoctorSettings}
SECRET = "s3cr3t-0f-the-device"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    pytest.importorskip("trustme")
    return Authority(tmp_path_factory.mktemp("authorities") / "ours")


@pytest.fixture(scope="module")
def token_file(ours):
    file = ours.folder / "token"
    file.write_text(SECRET)
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def client_pair(ours):
    return ours.issue("client", "device-7")


@pytest.fixture(scope="module")
def guarded(ours, token_file):
    """A server that requires a client certificate and a token."""
    pair = ours.issue("server", "localhost")
    with engine("digit", **pair, client_ca=ours.ca, token_file=token_file) as port:
        yield f"localhost:{port}"


@pytest.fixture
def security(ours, client_pair, token_file):
    return Security(ca=ours.ca, **client_pair, token_file=token_file)


@pytest.fixture
def flags(security):
    names = ("ca", "certificate", "key", "token_file")
    given = [f"--{name.replace('_', '-')}={getattr(security, name)}" for name in names]
    return ["--tls", *given]


@pytest.fixture
def dead():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"localhost:{port}"


@pytest.fixture
def command(capfd):
    def call(*words):
        """Return (status, standard output, standard error)."""
        capfd.readouterr()
        status = main("python -m edge_runtime", COMMANDS, argv=[str(word) for word in words])
        return status, *capfd.readouterr()

    return call


@pytest.fixture
def picture(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 3), np.uint8))
    return tmp_path / "a.npy"


@pytest.mark.slow
def test_run_asks_a_guarded_cloud(bundle, guarded, flags, picture, command):
    deferring = ["--threshold", "inf", "--deadline-s", "10"]
    asked = ["run", "--bundle", bundle, "--cloud", guarded, *deferring, "--json", picture]
    status, out, error = command(*asked, *flags)
    assert status == 0, error
    assert (json.loads(out)["source"], json.loads(out)["label"]) == ("cloud", "3")
    assert SECRET not in f"{out}{error}"
    status, out, error = command(*asked, *flags[:2])
    assert (status, out) == (1, "")
    assert "does not accept the client certificate, which was none" in error


@pytest.mark.slow
def test_run_prints_no_token_that_the_server_repeats(
    bundle, guarded, flags, picture, command, tmp_path
):
    wrong = tmp_path / "wrong"
    wrong.write_text("another-s3cr3t")
    wrong.chmod(0o600)
    asked = ["run", "--bundle", bundle, "--cloud", guarded, "--json", picture]
    status, out, error = command(*asked, *flags[:-1], f"--token-file={wrong}")
    assert (status, out) == (1, "")
    assert "check token" in error
    assert "s3cr3t" not in error


@pytest.mark.slow
def test_doctor_finds_a_guarded_cloud_in_order(bundle, guarded, flags, command):
    status, out, _ = command("doctor", "--bundle", bundle, "--cloud", guarded, *flags)
    assert status == 0, out
    assert "warn" not in out
    assert f"ok    link: {guarded} takes connections" in out
    assert "ok    certificates: the server's certificate has 300 days; client certificate" in out
    assert "ok    cloud: answered in" in out
    assert SECRET not in out


@pytest.mark.slow
def test_doctor_names_what_does_not_fit(bundle, guarded, dead, flags, command):
    asked = ["doctor", "--bundle", bundle, "--cloud"]
    status, out, _ = command(*asked, guarded)
    assert status == 1
    assert f"FAIL  certificates: {guarded}: the server speaks TLS" in out
    assert "FAIL  cloud" in out
    status, out, _ = command(*asked, dead, *flags)
    assert status == 1
    assert f"FAIL  link: expected a server at {dead}, got Connection refused: check address" in out
    assert f"FAIL  certificates: {dead} shows no certificate" in out


def test_doctor_goes_on_after_a_warning(bundle, command, monkeypatch):
    def warn(*_):
        raise ConcernError("renew it")

    monkeypatch.setattr("edge_runtime.commands.doctor.check_clock", warn)
    status, out, _ = command("doctor", "--bundle", bundle)
    assert status == 0
    assert "warn  clock: renew it" in out
    assert "ok    bundle: " in out


@pytest.mark.slow
@pytest.mark.parametrize(("module", "extra"), [("PIL", "image"), ("tokenizers", "text")])
def test_a_library_that_this_bundle_does_not_need_is_no_failure(
    module, extra, bundle, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, module, None)
    assert main("python -m edge_runtime", COMMANDS, argv=["doctor", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (warned,) = [line for line in lines if line.startswith("warn")]
    assert warned.startswith(f"warn  {module}: ")
    assert f"pip install 'gatekeeper-edge[{extra}]'" in warned


def test_a_certificate_that_expires_soon_is_a_concern(ours, token_file, client_pair):
    soon = ours.issue("soon", "localhost", end=12)
    with engine(**soon) as port:
        with pytest.raises(ConcernError, match=r"server's certificate has 12 days left: renew"):
            check_certificates(f"localhost:{port}", Security(ca=ours.ca), 5.0)
        security = Security(ca=ours.ca, **ours.issue("old-client", "device-7", end=3))
        with pytest.raises(ConcernError, match=r"old-client\.pem has 3 days left"):
            check_certificates(f"localhost:{port}", security, 5.0)


@pytest.mark.slow
def test_secrets_that_others_may_read_are_a_concern(guarded, ours, client_pair, tmp_path):
    token_file = tmp_path / "open"
    token_file.write_text(SECRET)
    token_file.chmod(0o640)
    security = Security(ca=ours.ca, **client_pair, token_file=token_file)
    with pytest.raises(ConcernError, match=f"chmod 600 {token_file}") as caught:
        check_certificates(guarded, security, 5.0)
    assert SECRET not in str(caught.value)


@pytest.mark.slow
def test_plaintext_on_both_sides_has_no_certificates():
    with engine() as port:
        assert "plaintext" in check_certificates(f"localhost:{port}", None, 5.0)


@pytest.mark.slow
def test_a_server_that_shows_the_wrong_certificate_fails(ours, guarded, tmp_path):
    other = Authority(tmp_path / "theirs")
    with pytest.raises(CloudMisconfiguredError, match="give the CA that signed"):
        check_certificates(guarded, Security(ca=other.ca), 5.0)


def test_a_link_through_a_proxy_is_a_concern_not_a_failure(dead, monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CloudUnavailableError, match="check address, network and firewall"):
        check_link("cloud.invalid:8001", 1.0)
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    with pytest.raises(ConcernError, match="uses the proxy in https_proxy"):
        check_link("cloud.invalid:8001", 1.0, use_proxy=True)
    for address, use_proxy in ((dead, True), ("cloud.invalid:8001", False)):
        with pytest.raises(CloudUnavailableError):
            check_link(address, 1.0, use_proxy=use_proxy)


def test_a_clock_that_is_behind_the_bundle_is_named(bundle, monkeypatch):
    assert check_clock(None).endswith(" UTC")
    assert check_clock(bundle).endswith(" UTC")
    monkeypatch.setattr(doctor, "_now", lambda: dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc))
    with pytest.raises(SettingError, match=r"got 1970-01-01 00:00 UTC: set the clock"):
        check_clock(None)


def test_a_bundle_from_tomorrow_tells_of_the_clock(tmp_path):
    file = tmp_path / "bundle.json"
    file.write_text("{}")
    later = time.time() + 3 * 86400
    os.utime(file, (later, later))
    with pytest.raises(SettingError, match=rf"the date of {file}"):
        check_clock(tmp_path)


def test_a_cloud_without_a_bundle_is_refused():
    with pytest.raises(SettingError, match="--cloud needs --bundle"):
        DoctorSettings(cloud="localhost:1")


@pytest.mark.slow
def test_plaintext_to_another_machine_needs_its_flag(bundle, picture, command):
    asked = ["run", "--bundle", bundle, "--cloud", "cloud.invalid:8001", "--threshold=inf", picture]
    status, _, error = command(*asked)
    assert status == 1
    assert "--allow-plaintext" in error
    status, out, _ = command(*asked, "--allow-plaintext")
    assert status == 0
    assert "edge_fallback" in out


def test_help_lists_a_commands_own_flags_first(capsys):
    with pytest.raises(SystemExit):
        main("python -m edge_runtime", COMMANDS, argv=["run", "--help"])
    out = capsys.readouterr().out
    assert out.index("--bundle") < out.index("--json") < out.index("--tls") < out.index("--ca ")
