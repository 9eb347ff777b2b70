"""The serving process with TLS, mutual TLS and bearer tokens, and its clients."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tools.secured import Authority

from edge_runtime import CloudMisconfiguredError, Security
from edge_runtime.cloud.model import CloudModel

pytestmark = [pytest.mark.slow, pytest.mark.once]

DARK = np.zeros((1, 4, 4, 3), np.uint8)
LABELS = ("dark", "middling", "bright")
FIRST, SECOND = "first-token-0123456789", "second-token-0123456789"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    pytest.importorskip("trustme")
    return Authority(tmp_path_factory.mktemp("authorities") / "ours")


@pytest.fixture(scope="module")
def theirs(ours):
    return Authority(ours.folder.parent / "theirs")


@pytest.fixture(scope="module")
def issued(ours):
    return ours.issue("server", "localhost", "127.0.0.1")


@pytest.fixture
def pair(issued, tmp_path):
    """The server's pair in a folder of its own, which a test may overwrite."""
    return {name: shutil.copy2(file, tmp_path / f"{name}.pem") for name, file in issued.items()}


@pytest.fixture(scope="module")
def tls_server(bundle, issued, start):
    """One server with TLS for all tests; none of them may harm it."""
    flags = [f"--{name}={file}" for name, file in issued.items()]
    running = start("--bundle", str(bundle), "--port", "0", *flags)
    running.address = running.address.replace("127.0.0.1", "localhost")
    yield running
    assert running.stop() == 0


@pytest.fixture
def tokens(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# of the fleet\n{FIRST}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def serve(bundle, launch):
    """Start a server with flags; its name is localhost."""

    def start(*words, **files):
        flags = [f"--{name.replace('_', '-')}={file}" for name, file in files.items()]
        running = launch("--bundle", str(bundle), "--port", "0", *flags, *words, "--log", "json")
        running.address = running.address.replace("127.0.0.1", "localhost")
        return running

    return start


def label(address, security):
    with CloudModel.open(address, labels=LABELS, security=security, deadline_s=10) as cloud:
        return cloud.infer(DARK).label[0]


def refusal(address, security):
    with pytest.raises(CloudMisconfiguredError) as caught:
        label(address, security)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def secret_file(path, text):
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def triton(address, headers=None, **ssl_files):
    client_module = pytest.importorskip("tritonclient.grpc")
    client = client_module.InferenceServerClient(address, ssl=True, **ssl_files)
    image = client_module.InferInput("image", list(DARK.shape), "UINT8")
    image.set_data_from_numpy(DARK)
    yield lambda: client.infer("large", [image], headers=headers).as_numpy("label")[0]
    client.close()


def serial_number(address, ours):
    """Return the serial number of the certificate that a new connection gets."""
    host, port = address.split(":")
    context = ssl.create_default_context(cafile=str(ours.ca))
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as link,
    ):
        return link.getpeercert()["serialNumber"]


def test_the_edge_runtime_and_tritonclient_connect_by_tls(tls_server, ours, theirs):
    assert label(tls_server.address, Security(ca=ours.ca)) == "dark"
    with triton(tls_server.address, root_certificates=str(ours.ca)) as infer:
        assert infer() == b"dark"
    assert "certificate" in refusal(tls_server.address, Security(ca=theirs.ca))
    assert "TLS" in refusal(tls_server.address, None)


def test_mutual_tls_requires_a_certificate_of_the_right_authority(serve, pair, ours, theirs):
    running = serve(**pair, client_ca=ours.ca)
    client = ours.issue("client", "device-7")
    assert label(running.address, Security(ca=ours.ca, **client)) == "dark"
    files = {"private_key": client["key"], "certificate_chain": client["certificate"]}
    with triton(
        running.address,
        root_certificates=str(ours.ca),
        **{name: str(file) for name, file in files.items()},
    ) as infer:
        assert infer() == b"dark"
    for security in (
        Security(ca=ours.ca),
        Security(ca=ours.ca, **theirs.issue("stranger", "device-7")),
        Security(ca=ours.ca, **ours.issue("expired", "device-7", end=-1)),
    ):
        assert "client certificate" in refusal(running.address, security)
    # Failed handshakes are not logged: a flood of them would fill the disk.
    assert running.errors == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ours, pair: pair | {"key": ours.issue("o", "a")["key"]}, "KEY_VALUES_MISMATCH"),
        (lambda ours, pair: {"token_file": "/dev/null"}, "an ordinary file"),
        (lambda ours, pair: {"token_file": pair["key"]}, "write one token per line"),
    ],
)
def test_a_mistake_in_the_files_is_reported_on_one_line(
    change, reason, ours, pair, bundle, run_command
):
    flags = [f"--{name.replace('_', '-')}={file}" for name, file in change(ours, pair).items()]
    done = run_command("--bundle", str(bundle), "--port", "0", *flags)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert reason in done.stderr


def test_tokens_in_plaintext_beyond_loopback_are_refused(bundle, tokens, run_command):
    words = ["--host", "0.0.0.0", "--token-file", str(tokens)]  # noqa: S104
    done = run_command("--bundle", str(bundle), "--port", "0", *words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "tokens would cross the network in plaintext" in done.stderr


def test_a_renewed_certificate_is_used_without_a_restart(serve, pair, ours, await_event, events):
    running = serve(**pair)
    security = Security(ca=ours.ca)
    with CloudModel.open(running.address, labels=LABELS, security=security, deadline_s=10) as cloud:
        assert cloud.infer(DARK).label == ["dark"]
        before = serial_number(running.address, ours)
        renewed = ours.issue("renewed", "localhost")
        shutil.copy2(renewed["certificate"], pair["certificate"])
        assert serial_number(running.address, ours) == before  # its key is not there yet
        reason = await_event(running, "certificate is not renewed")["reason"]
        assert "KEY_VALUES_MISMATCH" in reason
        shutil.copy2(renewed["key"], pair["key"])
        after = serial_number(running.address, ours)
        assert after != before
        assert cloud.infer(DARK).label == ["dark"]  # on the existing connection
    assert label(running.address, security) == "dark"
    await_event(running, "certificate is renewed")
    assert [line["level"] for line in events(running)] == ["ERROR", "INFO"]


def test_calls_without_an_accepted_token_are_refused(serve, pair, ours, tokens, tmp_path, scrape):
    running = serve(**pair, token_file=tokens, metrics_port=0)
    right, wrong = secret_file(tmp_path / "right", FIRST), secret_file(tmp_path / "wrong", SECOND)
    assert label(running.address, Security(ca=ours.ca, token_file=right)) == "dark"
    with triton(
        running.address, {"authorization": f"Bearer {FIRST}"}, root_certificates=str(ours.ca)
    ) as infer:
        assert infer() == b"dark"
    reason = refusal(running.address, Security(ca=ours.ca, token_file=wrong))
    assert "UNAUTHENTICATED: the bearer token is not accepted here" in reason
    assert "UNAUTHENTICATED: expected a bearer token, got none" in refusal(
        running.address, Security(ca=ours.ca)
    )
    assert scrape(running)["unauthenticated_calls_total",] >= 2
    assert running.stop() == 0
    assert FIRST not in "".join(running.errors)
    assert SECOND not in "".join(running.errors)


def test_a_rotated_token_is_used_without_a_restart(
    serve, pair, ours, tokens, tmp_path, await_event
):
    running = serve(**pair, token_file=tokens)
    first = Security(ca=ours.ca, token_file=secret_file(tmp_path / "first", FIRST))
    second = Security(ca=ours.ca, token_file=secret_file(tmp_path / "second", SECOND))
    assert "UNAUTHENTICATED" in refusal(running.address, second)
    tokens.write_text(f"{FIRST}\n{SECOND}\n")
    assert label(running.address, first) == label(running.address, second) == "dark"
    tokens.write_text(f"{SECOND}\n")
    assert "UNAUTHENTICATED" in refusal(running.address, first)
    tokens.unlink()
    assert label(running.address, second) == "dark"
    assert "UNAUTHENTICATED" in refusal(running.address, first)
    assert str(tokens) in await_event(running, "tokens are not renewed")["reason"]


@pytest.fixture(scope="module")
def token_channel(bundle, start, tmp_path_factory):
    """A connection in plaintext to one server with a token and small messages."""
    file = secret_file(tmp_path_factory.mktemp("tokens") / "tokens", FIRST)
    words = ["--token-file", str(file), "--max-message-mib", "1"]
    running = start("--bundle", str(bundle), "--port", "0", *words)
    with grpc.insecure_channel(running.address) as opened:
        yield opened
    assert running.stop() == 0


def test_health_needs_no_token_and_reflection_does(token_channel):
    health = health_pb2_grpc.HealthStub(token_channel)
    assert health.Check(health_pb2.HealthCheckRequest(service="large"), timeout=10).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        ProtoReflectionDescriptorDatabase(token_channel).get_services()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as caught:
        token_channel.unary_unary("/no.such.Service/Call")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_message_of_a_caller_without_a_token_is_not_received(token_channel):
    call = token_channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    # Over the limit: any other status than RESOURCE_EXHAUSTED shows that its size was not checked.
    with pytest.raises(grpc.RpcError) as caught:
        call(bytes(2 << 20), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as caught:
        call(bytes(2 << 20), timeout=10, metadata=[("authorization", f"Bearer {FIRST}")])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
