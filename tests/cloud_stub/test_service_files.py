"""The deployment files use only what the server, systemd and a container engine know."""

import configparser
import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tools.secured import Authority

from cloud_stub.settings import ServeSettings
from edge_runtime.cli.command import flag_name
from edge_runtime.reading import read_toml

pytestmark = [pytest.mark.slow, pytest.mark.once]
ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "deploy" / "gatekeeper-cloud.service"
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
HEALTH = ROOT / "deploy" / "health.py"
PYTHON = "/opt/gatekeeper/bin/python"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)
# An engine's default wait for a container after the signal.
STOPPED_AFTER_S = 10


def read_unit():
    class Unit(configparser.RawConfigParser):
        optionxform = staticmethod(str)

    unit = Unit(strict=False)  # a key may occur several times; the last one is kept here
    unit.read_string(UNIT.read_text().replace("\\\n", " "))
    return unit["Service"]


def unit_command():
    return shlex.split(read_unit()["ExecStart"])


def read_instructions():
    """Return a Containerfile's instructions and their arguments, in order."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments(name):
    return [argument for instruction, argument in read_instructions() if instruction == name]


def container_command():
    (entry,), (words,) = arguments("ENTRYPOINT"), arguments("CMD")
    return json.loads(entry) + json.loads(words)


def value_of(command, flag):
    return command[command.index(flag) + 1]


@pytest.mark.parametrize("command", [unit_command, container_command])
def test_every_flag_is_a_flag_of_the_server(command):
    words = command()
    assert words[:3] == [PYTHON, "-m", "cloud_stub"]
    known = {flag_name(item) for item in dataclasses.fields(ServeSettings)}
    flags = {word for word in words if word.startswith("--")}
    assert "--bundle" in flags
    assert flags - known == set()


@pytest.mark.parametrize("command", [unit_command, container_command])
def test_a_reachable_server_is_encrypted_and_needs_a_token(command):
    words = command()
    assert value_of(words, "--host") == "0.0.0.0"  # noqa: S104 - the point of the test
    assert {"--certificate", "--key", "--token-file"} <= set(words)


def test_a_server_that_stops_in_time_is_never_killed():
    unit, words = read_unit(), unit_command()
    assert (unit["KillSignal"], unit["Restart"]) == ("SIGTERM", "on-failure")
    assert float(value_of(words, "--grace-s")) + 5 <= float(unit["TimeoutStopSec"])
    assert float(value_of(container_command(), "--grace-s")) < STOPPED_AFTER_S
    assert arguments("STOPSIGNAL") == ["SIGTERM"]


def test_secrets_are_passed_as_credentials():
    text, directory = UNIT.read_text(), "${CREDENTIALS_DIRECTORY}/"
    loaded = set(re.findall(r"^LoadCredential=(\w+):/etc/gatekeeper/", text, re.MULTILINE))
    used = {word.removeprefix(directory) for word in unit_command() if word.startswith(directory)}
    assert loaded == used == {"certificate", "key", "token"}


@pytest.fixture
def installed_unit(tmp_path):
    """The unit as systemd would find it, with an interpreter that exists."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PYTHON, sys.executable))
    return unit


@needs_systemd
def test_systemd_accepts_the_unit_without_a_warning(installed_unit):
    command = ["systemd-analyze", "verify", "--man=no", str(installed_unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    about_it = [line for line in done.stderr.splitlines() if UNIT.stem in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


@needs_systemd
def test_systemd_rates_the_unit_as_little_exposed(installed_unit):
    # In tenths: the worst is 100, a service without protection has 96, and OK ends at 50.
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20"]
    done = subprocess.run(
        [*command, str(installed_unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_the_image_copies_existing_files_and_installs_existing_extras():
    sources = [words.split() for words in arguments("COPY")]
    for *files, _ in (words for words in sources if not words[0].startswith("--from")):
        assert [source for source in files if not (ROOT / source).exists()] == []
    packages = read_toml(ROOT / "pyproject.toml")
    copied = {source for words in sources for source in words[:-1]}
    assert set(packages["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    (installing,) = arguments("RUN")
    extras = re.search(r'"\.\[([a-z,]+)\]"', installing)[1].split(",")
    known = packages["project"]["optional-dependencies"]
    assert set(extras) <= set(known)
    assert not [extra for extra in extras if any("torch" in needed for needed in known[extra])]


def test_the_image_runs_one_process_as_an_ordinary_user():
    kinds = [kind for kind, _ in read_instructions()]
    assert set(kinds) == {
        *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE"),
        *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
    assert all(
        words.startswith("docker.io/library/python:3.11-slim") for words in arguments("FROM")
    )
    (user,) = arguments("USER")
    assert all(int(number) >= 1000 for number in user.split(":"))
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    (check,) = arguments("HEALTHCHECK")
    words = json.loads(check[check.index("[") :])
    assert words[:2] == [PYTHON, "/opt/gatekeeper/health.py"]
    asked_port, command = words[2].rpartition(":")[2], container_command()
    assert asked_port == value_of(command, "--port") == arguments("EXPOSE")[0]
    assert value_of(words, "--certificate") == value_of(command, "--certificate")


def check_health(address, *words):
    """Run the health check; return its status and its message."""
    command = [sys.executable, str(HEALTH), address, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_the_health_check_distinguishes_serving_from_not_serving(launch, bundle):
    running = launch("--bundle", str(bundle), "--port", "0", "--model", "big")
    assert check_health(running.address) == (0, "")
    assert check_health(running.address, "--service", "big") == (0, "")
    status, reason = check_health(running.address, "--service", "small")
    assert (status, reason.count("\n")) == (1, 1)
    assert "NOT_FOUND" in reason
    running.stop()
    status, reason = check_health(running.address)
    assert (status, reason.count("\n")) == (1, 1)


@contextlib.contextmanager
def healthy_server(certificate, key):
    """Serve grpc's own health service over TLS; yield the address and the servicer."""
    server, servicer = grpc.server(ThreadPoolExecutor(2)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(0).wait()


def test_the_health_check_accepts_the_certificate_under_any_name(tmp_path):
    authority = Authority(tmp_path / "ours")
    files = authority.issue("server", "models.example.org")
    other = Authority(tmp_path / "theirs").issue("server", "models.example.org")
    with healthy_server(**files) as (address, servicer):
        assert check_health(address, "--certificate", files["certificate"]) == (0, "")
        status, reason = check_health(address, "--certificate", other["certificate"])
        assert (status, reason.count("\n")) == (1, 1)
        assert "CERTIFICATE_VERIFY_FAILED" in reason
        assert check_health(address)[0] == 1
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        status, reason = check_health(address, "--certificate", files["certificate"])
        assert (status, reason) == (1, f"{address}: NOT_SERVING\n")


def test_the_command_of_the_unit_serves_over_tls(tmp_path, launch, bundle):
    files = Authority(tmp_path / "ca").issue("server", "models.example.org")
    shutil.copy(files["certificate"], tmp_path / "certificate")
    shutil.copy(files["key"], tmp_path / "key")
    (tmp_path / "token").write_text("a-token-of-forty-letters-as-a-tool-makes\n")
    (tmp_path / "token").chmod(0o600)
    here = {"--host": "127.0.0.1", "--port": "0", "--bundle": str(bundle), "--log": "text"}
    command = unit_command()[3:]
    for flag, value in here.items():
        command[command.index(flag) + 1] = value
    words = [word.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)) for word in command]
    running = launch(*words)
    assert check_health(running.address, "--certificate", tmp_path / "certificate") == (0, "")
    assert running.stop() == 0
