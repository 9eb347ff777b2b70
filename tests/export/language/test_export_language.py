"""`python -m export lm` writes a bundle that answers as the checkpoint does, or nothing."""

import json
import shutil

import numpy as np
import pytest

from edge_runtime.errors import SettingError
from edge_runtime.language.decoder import Decoder
from export.commands.language import LanguageSettings
from export.errors import OutputError
from train.data.tasks import load_task
from train.errors import CheckpointError, DataError
from train.models import open_language_model

pytestmark = pytest.mark.slow


def test_the_bundle_answers_as_the_checkpoint_does(lm_bundle, half_taught, things):
    task = load_task(things)
    prompts = [example.prompt for example in task.test]
    model = open_language_model(half_taught)
    answers = Decoder.open(lm_bundle).generate(prompts, stop_when_certain=False)
    limit = json.loads((lm_bundle / "bundle.json").read_text())["metadata"]["generation"]
    wanted = model.generate(prompts, limit["max_new_tokens"])
    assert [answer.text for answer in answers] == list(wanted.texts)
    confidence = np.array([answer.confidence for answer in answers])
    np.testing.assert_allclose(confidence, wanted.confidence("neg_entropy"), atol=1e-5)


def test_the_threshold_defers_the_share_it_was_chosen_for(lm_bundle, things):
    record = json.loads((lm_bundle / "bundle.json").read_text())["metadata"]
    assert record["task"] == "text-generation"
    calibration = record["calibration"]
    assert (calibration["goal"], calibration["n"]) == ("target_deferral", 24)
    assert calibration["achieved"] <= 0.25
    prompts = [example.prompt for example in load_task(things).validation]
    deferred = sum(answer.defer for answer in Decoder.open(lm_bundle).generate(prompts))
    assert deferred / 24 == pytest.approx(calibration["achieved"])


def test_ending_where_deferral_is_certain_changes_no_decision(lm_bundle, things):
    prompts = [example.prompt for example in load_task(things).train]
    decoder = Decoder.open(lm_bundle)
    whole = decoder.generate(prompts, stop_when_certain=False)
    ended = decoder.generate(prompts)
    assert [a.defer for a in ended] == [a.defer for a in whole]
    assert any(answer.defer for answer in whole)


@pytest.mark.parametrize("kind", ["sum_logprob", "min_prob"])
def test_another_confidence_is_verified_against_the_model(kind, half_taught, things, tmp_path):
    out = tmp_path / "bundle"
    LanguageSettings(
        checkpoint=half_taught, calibrate=things, target_deferral=0.25, confidence=kind, out=out
    ).run()
    record = json.loads((out / "bundle.json").read_text())
    assert record["metadata"]["confidence_kind"] == kind
    assert record["verification"]["graph"]["prompts"] == 24
    assert record["verification"]["graph"]["confidence_error"] < 1e-4
    low, high = record["metadata"]["confidence_range"]
    assert low <= record["metadata"]["threshold"] <= high


@pytest.mark.parametrize("kind", ["fp16", "int8-dynamic"])
def test_a_quantized_model_is_calibrated_on_its_own_answers(kind, exported, things):
    out = exported(kind)
    record = json.loads((out / "bundle.json").read_text())
    found = record["verification"]["quantization"]
    assert found["bytes"] < found["bytes_float"]
    assert record["metadata"]["quantization"] == kind
    prompts = [example.prompt for example in load_task(things).validation]
    deferred = sum(answer.defer for answer in Decoder.open(out).generate(prompts))
    assert deferred / 24 == pytest.approx(record["metadata"]["calibration"]["achieved"])


def test_a_threshold_by_hand_needs_no_data_and_all_ends_of_the_model_are_the_bundles(
    half_taught, tmp_path
):
    folder = shutil.copytree(half_taught, tmp_path / "lm")
    model = open_language_model(folder)
    end, first = model.tokenizer.eos_token_id, int(model.generate(["the sky:"], 1).tokens[0, 0])
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [end, first]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    LanguageSettings(checkpoint=folder, threshold=-0.5, out=tmp_path / "bundle").run()
    record = json.loads((tmp_path / "bundle" / "bundle.json").read_text())["metadata"]
    assert record["generation"]["eos_token_ids"] == sorted((end, first))
    (answer,) = Decoder.open(tmp_path / "bundle").generate(["the sky:"])
    assert (answer.tokens, answer.text, answer.ended) == ((first,), "", "eos")
    assert answer.defer == (not answer.confidence >= np.float32(-0.5))


def test_a_refused_export_writes_nothing(half_taught, things, small_checkpoint, tmp_path):
    out = tmp_path / "bundle"
    goal = {"calibrate": things, "target_deferral": 0.25, "out": out}
    with pytest.raises(CheckpointError, match="expected a causal language model"):
        LanguageSettings(checkpoint=small_checkpoint, **goal).run()
    with pytest.raises(DataError, match="expected a task"):
        LanguageSettings(checkpoint=half_taught, **goal | {"calibrate": "nonsense"}).run()
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="expected nothing at"):
        LanguageSettings(checkpoint=half_taught, **goal).run()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def truncated(folder):
    whole = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(whole[: len(whole) // 2])


def without_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def without_end(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text().replace('"eos_token": "<eos>"', '"eos_token": null'))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def of_a_larger_model(folder):
    tokenizer = open_language_model(folder).tokenizer
    tokenizer.add_tokens([f"<{n}>" for n in range(9)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "expected a language model and its tokenizer"),
        (without_tokenizer, "tokenizer"),
        (without_end, "expected an end-of-sequence token"),
        (of_a_larger_model, "expected at most the model's 304 tokens .* it has 309"),
    ],
)
def test_a_checkpoint_with_another_tokenizer_or_none_is_refused(
    damage, says, half_taught, tmp_path
):
    folder = shutil.copytree(half_taught, tmp_path / "lm")
    damage(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        LanguageSettings(checkpoint=folder, threshold=-1.0, out=tmp_path / "bundle").run()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_prompt_over_the_context_is_refused_on_the_device_and_by_the_model(
    lm_bundle, half_taught
):
    long = "the sky: " * 48
    (answer,) = Decoder.open(lm_bundle).generate([long])
    model = open_language_model(half_taught).generate([long], 2)
    assert (answer.ended, answer.defer, answer.reason) == ("refused", True, model.refused[0])
    assert "the context of 48 has no room for an answer" in answer.reason


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"quantize": "int4"}, "--calibrate with --quantize"),
        ({"data": "x"}, "--calibrate TASK with --data"),
    ],
)
def test_invalid_settings_are_refused(settings, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        LanguageSettings(checkpoint=tmp_path, threshold=0.0, out=tmp_path / "b", **settings)
