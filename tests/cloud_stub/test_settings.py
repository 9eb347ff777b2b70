"""Settings: every mistake on the command line or in the file of models is reported on one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools.processes import ROOT, refused_here

from cloud_stub.__main__ import COMMANDS
from cloud_stub.language.upstream import link_security
from cloud_stub.model_settings import KEY_VARIABLE, ModelSettings
from cloud_stub.settings import ServeSettings, read_models
from edge_runtime.errors import SettingError

pytestmark = pytest.mark.once

HERE = "http://127.0.0.1:8000/v1"
UPSTREAM = {"upstream": HERE, "upstream_model": "m"}
ONE = '[[model]]\nonnx = "a.onnx"\n'
KEYS = "expected keys of checkpoint, bundle, onnx, model, "


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "expected a TOML file of models in {path}: 'utf-8' codec"),
        ("[[model]\n", "expected a TOML file of models in {path}: Expected"),
        (ONE + 'onnx = "b.onnx"', "Cannot overwrite a value"),
        ("model = " + "[" * 100_000, "nested deeper than 64 levels"),
        ("[" + "a." * 30_000 + "a]", "nested deeper than 64 levels"),
        ("", "expected [[model]] tables and nothing else in {path}, got none"),
        ("# nothing yet\n", "got none"),
        ("model = []", "expected [[model]] tables"),
        ('model = "large"', "expected [[model]] tables"),
        ('[model]\nonnx = "a.onnx"', "expected [[model]] tables"),
        ('model = ["a.onnx"]', "expected [[model]] tables"),
        ("port = 8001\n" + ONE, "nothing else in {path}, got 'port', 'model'"),
        ("[[models]]\nonnx = 'a.onnx'", "nothing else in {path}, got 'models'"),
        (
            "[[model]]",
            "{path}, model 1: expected one of --checkpoint, --bundle, ",
        ),
        (ONE + "[[model]]\nmodel = 'b'", "{path}, model 2: expected one of"),
        (ONE + "bundle = 'b'", "{path}, model 1: expected one of"),
        (ONE + "prot = 1", KEYS),
        (ONE + "max-batch = 1", KEYS),
        (ONE + "port = 8002", KEYS),
        (ONE + "models = 'other.toml'", KEYS),
        (ONE + f"{'k' * 9999} = 1", KEYS),
        ("[[model]]\nonnx = 1", "expected onnx in {path}, model 1 as a path, got 1"),
        ("[[model]]\nonnx = ''", "expected onnx in {path}, model 1 as a path, got ''"),
        ("[[model]]\nonnx = 'a\\u0000'".replace("'", '"'), "as a path, got 'a\\x00'"),
        ("[[model]]\nonnx = ['a.onnx']", "as a path, got ['a.onnx']"),
        (ONE + "max_batch = '8'", "expected max_batch in {path}, model 1 as int, got '8'"),
        (ONE + "max_batch = 8.0", "as int, got 8.0"),
        (ONE + "max_batch = true", "as int, got True"),
        (ONE + f"max_batch = '{'8' * 9999}'", "as int, got '888"),
        (ONE + "stall = '60'", "expected stall_s in {path}, model 1 as float, got '60'"),
        (ONE + "stall = false", "as float, got False"),
        (ONE + "model = 7", "as str, got 7"),
        (ONE + "model = ''", "expected --model as one or more printable characters, got ''"),
        (
            ONE + 'model = "a\\nb"',
            "expected --model as one or more printable characters, got 'a\\nb'",
        ),
        (ONE + "threads = -1", "expected --threads in [0, 4096], got -1"),
        (ONE + "threads = 1000000000000", "expected --threads in [0, 4096], got 1000000000000"),
        (ONE + "max_batch = 0", "expected --max-batch in [1, 2147483647], got 0"),
        (ONE + "max_batch = 2147483648", "expected --max-batch in [1, 2147483647], got 2147483648"),
        (ONE + "max_delay_ms = -1", "expected --max-delay-ms at least 0, got -1"),
        (ONE + "max_delay_ms = 60000", "below the stall limit, got 60 s and 60 s"),
        (ONE + "stall = nan", "expected --stall-s above 0, got nan"),
        (ONE + "cloud = '127.0.0.1:1'", "--cloud needs --bundle: "),
        (ONE + "cloud_deadline = inf", "expected --cloud-deadline-s above 0, got inf"),
        (ONE + ONE, "expected models with different names in {path}, got 'large' twice"),
    ],
)
def test_a_mistake_in_the_file_of_models_is_reported_on_one_line(tmp_path, content, why):
    path = tmp_path / "models.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingError) as caught:
        read_models(path)
    message = str(caught.value)
    assert why.replace("{path}", str(path)) in message
    assert message.isprintable()  # so it has no line break
    assert str(path) in message
    assert len(message) < 700 + len(str(path))


def test_keys_are_flags_and_paths_are_relative_to_the_file(tmp_path):
    path = tmp_path / "models.toml"
    path.write_text(
        '[[model]]\nbundle = "small"\ncloud = "127.0.0.1:1"\ncloud_deadline = 2\n'
        '[[model]]\nmodel = "other"\nonnx = "/there/a.onnx"\nmax_batch = 8\nmax_delay_ms = 2.5\n'
    )
    first, second = ServeSettings(models=path).each_model()
    assert (first.model, first.bundle) == ("large", tmp_path / "small")
    assert (first.cloud, first.cloud_deadline_s) == ("127.0.0.1:1", 2)
    assert (second.model, str(second.onnx)) == ("other", "/there/a.onnx")
    assert (second.limits().max_batch, second.limits().max_delay_s) == (8, 0.0025)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"onnx": "a.onnx"}, r"\(--onnx\)"),
        ({"model": "other"}, r"\(--model\)"),
        ({"threads": 2, "max_batch": 8}, r"\(--threads, --max-batch\)"),
        ({"cloud": "127.0.0.1:1"}, r"\(--cloud\)"),
    ],
)
def test_flags_of_one_model_next_to_a_file_of_models_are_refused(tmp_path, flags, why):
    with pytest.raises(SettingError, match=f"expected --models or the flags of one model.*{why}"):
        ServeSettings(models=tmp_path / "models.toml", **flags)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "expected a command (serve, deploy) or a flag, got nothing"),
        (["--port", "1"], "expected one of --checkpoint, --bundle"),
        (["--checkpoint", "a", "--bundle", "b"], "expected one of"),
        (["--bundle", "b", "--prot", "1"], "unknown flag --prot"),
        (["--bundle", "b", "--host="], "expected --host and --metrics-host to be non-empty"),
        (["--bundle", "b", "--max-memory-mib", "9"], "expected --max-memory-mib to hold a message"),
        (["--bundle", "b", "--key", "k"], "--key needs --certificate"),
        (["--bundle", "b", "--cloud", "far.example:1"], "expected --cloud-tls for far.example:1"),
        (["--bundle", "b", "--cloud-ca", "x"], "--cloud-ca needs --cloud-tls"),
        (["--bundle", "b", "--cloud-tls"], "--cloud-tls needs --cloud"),
        (["--bundle", "b", "--cloud-tls", "--cloud-plaintext"], "got both"),
    ],
)
def test_a_mistake_on_the_command_line_is_reported_on_one_line(capfd, words, why):
    refused_here("cloud_stub", COMMANDS, words, capfd, says=why, status=2, default=ServeSettings)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"checkpoint": Path("x"), "confidence": "bleu"}, "--confidence as one of neg_entropy, "),
        ({"checkpoint": Path("x"), "upstream_model": "x"}, "--upstream-model needs --upstream"),
        ({"onnx": Path("x"), "max_new_tokens": 8}, "--max-new-tokens needs a model that gener"),
        (
            {"onnx": Path("x"), "confidence": "min_prob"},
            "--confidence needs a model that generates",
        ),
        ({"checkpoint": Path("x"), "upstream": HERE}, "expected one of --checkpoint, "),
        ({"upstream": HERE}, "--upstream needs --upstream-model"),
        ({**UPSTREAM, "confidence": "neg_entropy"}, "reports no entropies"),
        ({**UPSTREAM, "upstream_ca": Path("x")}, "--upstream-ca needs https"),
        ({**UPSTREAM, "upstream": "http://far.example/v1"}, "expected https for far.example"),
        ({**UPSTREAM, "upstream": "https://far/v1", "upstream_plaintext": True}, "got both"),
        ({**UPSTREAM, "upstream": "https://a:secret@far/v1"}, "without a user"),
        ({**UPSTREAM, "upstream": "https://far/v1?key=secret"}, "without a user, query"),
        ({**UPSTREAM, "upstream": "far.example:80"}, "expected --upstream as https://"),
        ({**UPSTREAM, "upstream": "https://far:http/v1"}, "expected --upstream as https://"),
        ({**UPSTREAM, "upstream": "https://far/v1\r\nX: y"}, "expected --upstream as https://"),
    ],
)
def test_flags_of_text_generation_that_contradict_one_another_are_refused(flags, why):
    with pytest.raises(SettingError) as caught:
        ModelSettings(**flags)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


def test_plaintext_to_another_machine_must_be_allowed_explicitly():
    settings = ModelSettings(
        **UPSTREAM | {"upstream": "http://far.example/v1"}, upstream_plaintext=True
    )
    assert settings.upstream_url().hostname == "far.example"


def test_the_key_comes_from_the_file_or_otherwise_from_the_environment(tmp_path, monkeypatch):
    def key(**flags):
        token = link_security(ModelSettings(**UPSTREAM, **flags)).token()
        return token and dict(token.metadata())["authorization"]

    file = tmp_path / "key"
    file.write_text("of-the-file\n")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert key() is None
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    assert key() == "Bearer of-the-environment"
    assert key(upstream_key_file=file) == "Bearer of-the-file"


def test_a_key_is_never_sent_to_another_machine_in_plaintext(tmp_path, monkeypatch):
    far = UPSTREAM | {"upstream": "http://far.example/v1", "upstream_plaintext": True}
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert link_security(ModelSettings(**far)).token() is None
    with pytest.raises(SettingError, match="expected https for the key"):
        link_security(ModelSettings(**far, upstream_key_file=tmp_path / "key"))
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    with pytest.raises(SettingError, match="expected https for the key"):
        link_security(ModelSettings(**far))


def test_the_default_confidence_is_one_that_the_model_can_report():
    assert ModelSettings(checkpoint=Path("x")).confidence_kind == "neg_entropy"
    assert ModelSettings(**UPSTREAM).confidence_kind == "mean_logprob"


@pytest.mark.slow
def test_only_a_checkpoint_needs_torch():
    modules = "cloud_stub.__main__, cloud_stub.server, cloud_stub.language.upstream"
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"torch", "transformers", "onnx", "onnxruntime"} & set(done.stdout.split())
