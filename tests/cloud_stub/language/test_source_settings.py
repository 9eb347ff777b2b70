"""Flags of what generates text."""

from pathlib import Path

import pytest

from cloud_stub.backends.open import open_backend
from cloud_stub.model_settings import KEY_VARIABLE
from cloud_stub.settings import ModelSettings
from edge_runtime.errors import SettingError

HERE = "http://127.0.0.1:8000/v1"
MODEL = {"upstream_model": "m"}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"checkpoint": Path("x"), "max_new_tokens": 0}, "--max-new-tokens from 1 to"),
        ({"checkpoint": Path("x"), "confidence": "bleu"}, "--confidence as one of neg_entropy, "),
        ({"checkpoint": Path("x"), "upstream_model": "x"}, "--upstream beside --upstream-model"),
        ({"bundle": Path("x"), "max_new_tokens": 8}, "--max-new-tokens for what generates text"),
        ({"onnx": Path("x"), "confidence": "min_prob"}, "--confidence for what generates text"),
        ({"checkpoint": Path("x"), "upstream": HERE}, "expected one of --checkpoint, "),
        ({"upstream": HERE}, "expected --upstream-model beside --upstream"),
        (
            {**MODEL, "upstream": HERE, "upstream_timeout": 0.0},
            "--upstream-timeout as seconds over 0",
        ),
        ({**MODEL, "upstream": HERE, "confidence": "neg_entropy"}, "tells no entropies"),
        (
            {**MODEL, "upstream": HERE, "upstream_ca": Path("x")},
            "expected https beside --upstream-ca",
        ),
        ({**MODEL, "upstream": "http://far.example/v1"}, "expected https for far.example"),
        ({**MODEL, "upstream": "https://far/v1", "upstream_plaintext": True}, "got both"),
        ({**MODEL, "upstream": "https://a:secret@far/v1"}, "without a user"),
        ({**MODEL, "upstream": "https://far/v1?key=secret"}, "without a user, query"),
        ({**MODEL, "upstream": "far.example:80"}, "expected --upstream as https://"),
        ({**MODEL, "upstream": "https://far:http/v1"}, "expected --upstream as https://"),
        ({**MODEL, "upstream": "https://far/v1\r\nX: y"}, "expected --upstream as https://"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, why):
    with pytest.raises(SettingError) as caught:
        ModelSettings(**flags)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_classifier_s_checkpoint_takes_no_flags_of_a_generator(small_checkpoint):
    with pytest.raises(SettingError, match="beside a classifier's checkpoint"):
        open_backend(ModelSettings(checkpoint=small_checkpoint, max_new_tokens=8))
    assert open_backend(ModelSettings(checkpoint=small_checkpoint)).labels[0] == "0"


def test_plaintext_to_another_machine_has_to_be_named():
    settings = ModelSettings(
        upstream="http://far.example/v1", upstream_model="m", upstream_plaintext=True
    )
    assert settings.upstream_url().hostname == "far.example"


def test_the_key_comes_from_the_file_or_else_the_environment(tmp_path, monkeypatch):
    def key_of(**flags):
        token = (
            ModelSettings(upstream=HERE, upstream_model="m", **flags).upstream_security().token()
        )
        return token and dict(token.metadata())["authorization"]

    file = tmp_path / "key"
    file.write_text("of-the-file\n")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert key_of() is None
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    assert key_of() == "Bearer of-the-environment"
    assert key_of(upstream_key_file=file) == "Bearer of-the-file"


def test_a_key_goes_to_no_other_machine_in_plaintext(tmp_path, monkeypatch):
    far = {"upstream": "http://far.example/v1", "upstream_model": "m", "upstream_plaintext": True}
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert ModelSettings(**far).upstream_security().token() is None
    with pytest.raises(SettingError, match="expected https for the key"):
        ModelSettings(**far, upstream_key_file=tmp_path / "key").upstream_security()
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    with pytest.raises(SettingError, match="expected https for the key"):
        ModelSettings(**far).upstream_security()


def test_the_usual_confidence_is_what_each_can_tell():
    assert ModelSettings(checkpoint=Path("x")).confidence_kind == "neg_entropy"
    assert ModelSettings(upstream=HERE, upstream_model="m").confidence_kind == "mean_logprob"
