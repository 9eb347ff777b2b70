"""Fitting and tuning language models: targets, effects, and repeatable runs."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tools.processes import ROOT
from torch.nn import functional as F

from train.data.tasks import Example, load_task
from train.errors import DataError, TrainingError
from train.language.encoding import IGNORED, TokenData, answer_tokens
from train.language.guard import AnswerCollapse
from train.language.loop import train_language_model
from train.language.settings import FitLanguageSettings, TuneLanguageSettings
from train.language.stages import right_tokens, tuning_recipe
from train.language.trainer import HiddenStates, OutputLayer
from train.models import open_language_model

pytestmark = pytest.mark.slow
ARCHITECTURES = ("gemma", "gemma2", "llama", "gpt2")


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(one, two, atol=2e-5):
    one, two = weights(one), weights(two)
    assert one.keys() == two.keys()
    for name, wanted in one.items():
        torch.testing.assert_close(two[name], wanted, atol=atol, rtol=0, msg=name)


def record(folder):
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def accuracy(folder, task):
    model = open_language_model(folder)
    answers = model.generate([e.prompt for e in task.test], answer_tokens(model.tokenizer, task))
    return np.mean([task.is_right(t, e) for t, e in zip(answers.texts, task.test, strict=True)])


@pytest.fixture(scope="module")
def task(things):
    return load_task(str(things))


@pytest.fixture(scope="module")
def fitted(new_model, things, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted") / "small"
    FitLanguageSettings(
        checkpoint=new_model(), task=str(things), out=out, epochs=20, patience=20, batch_size=8
    ).run()
    return out


# Targets.


def test_only_answers_are_targets_unless_all_tokens_are_to_be_learned(new_model):
    model = open_language_model(new_model())
    example = Example("a", "not red but blue:", " blue", "blue")
    prompt = model.tokenizer(example.prompt)["input_ids"]
    answer = [*model.tokenizer(" blue", add_special_tokens=False)["input_ids"]]
    end = model.tokenizer.eos_token_id
    batch = TokenData(model, [example])[0]
    assert batch["input_ids"].tolist() == [*prompt, *answer, end]
    expected = [IGNORED] * (len(prompt) - 1) + [*answer, end, IGNORED]
    assert batch["labels"].tolist() == expected
    whole = TokenData(model, [example], "all")[0]
    assert whole["labels"].tolist() == [*prompt[1:], *answer, end, IGNORED]


def test_padding_counts_nowhere(new_model):
    model = open_language_model(new_model())
    short = Example("a", "red:", " red", "red")
    long = Example("b", "not green but white, not red but blue:", " blue", "blue")
    batch = TokenData(model, [short, long]).__getitems__([0, 1])
    alone = TokenData(model, [short])[0]
    size = len(alone["input_ids"])
    assert batch["attention_mask"][0].sum() == size < batch["input_ids"].shape[1]
    assert batch["labels"][0, :size].tolist() == alone["labels"].tolist()
    assert (batch["labels"][0, size:] == IGNORED).all()


def test_examples_over_the_context_are_left_out_with_a_note(new_model, capsys):
    model = open_language_model(new_model())
    fits = Example("fits", "red:", " red", "red")
    long = Example("too-long", "red " * 100, " red", "red")
    assert len(TokenData(model, [fits, long])) == 1
    assert "1 of 2 examples do not fit into 48 tokens" in (found := capsys.readouterr().err)
    assert "too-long" in found
    with pytest.raises(DataError, match=r"none of 1 does: use a model with a longer context"):
        TokenData(model, [long])


# The forward pass that ends at the hidden states.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states_times_the_output_layer_are_the_models_logits(architecture, new_model, task):
    model = open_language_model(new_model(architecture)).model
    layer, hidden = OutputLayer.of(model), HiddenStates(model)
    assert (layer.softcap is not None) == (architecture == "gemma2")
    batch = TokenData(open_language_model(new_model(architecture)), task.train).__getitems__([0, 5])
    batch.pop("labels")
    expected = model(**batch).logits
    with hidden.instead_of_logits():
        assert model(**batch).logits.shape[-1] == 16
        found = layer.logits(model(**batch).logits)
        with hidden.paused():
            assert model(**batch).logits.shape == expected.shape
    torch.testing.assert_close(found, expected)
    assert model(**batch).logits.shape == expected.shape


# The two stages.


def test_fitting_teaches_the_task(fitted, new_model, task):
    assert accuracy(new_model(), task) < 0.3
    assert accuracy(fitted, task) > 0.9
    written = record(fitted)
    assert written["validation_loss"] < 0.3
    assert written["learning_rate"] == 3e-3  # the default for random weights


def test_validation_loss_is_the_models_own_cross_entropy_per_token(fitted, task):
    model = open_language_model(fitted)
    batch = TokenData(model, task.validation).__getitems__(range(len(task.validation)))
    labels = batch.pop("labels")
    with torch.inference_mode():
        logits = model.model(**batch).logits
    own = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    # Two batches, with the same number of tokens per row.
    assert record(fitted)["validation_loss"] == pytest.approx(own.item(), rel=0.02)


def tune(start, things, out, **settings):
    settings = {"steps": 8, "batch_size": 8, **settings}
    TuneLanguageSettings(checkpoint=start, task=str(things), out=out, **settings).run()
    return out


def test_gatekeeper_lowers_the_confidence_of_wrong_tokens_and_the_control_does_not(
    new_model, things, task, tmp_path
):
    """Start from a half-taught model, which gets many tokens wrong."""
    start = tmp_path / "half"
    FitLanguageSettings(
        checkpoint=new_model(), task=str(things), out=start, epochs=8, batch_size=8
    ).run()
    settings = {"learning_rate": 1e-3, "steps": 30, "guard": False}
    tuned = tune(start, things, tmp_path / "tuned", alpha=0.1, **settings)
    control = tune(start, things, tmp_path / "c", objective="cross_entropy", **settings)

    def wrong_entropy(folder):
        model = open_language_model(folder)
        batch = TokenData(model, task.train).__getitems__(range(48))
        labels = batch.pop("labels")
        with torch.inference_mode():
            log_p = model.model(**batch).logits.log_softmax(-1)
        wrong = (labels != IGNORED) & (log_p.argmax(-1) != labels)
        assert wrong.any()
        return -(log_p.exp() * log_p).sum(-1)[wrong].mean().item()

    assert wrong_entropy(tuned) > wrong_entropy(control) + 0.1
    assert record(tuned)["steps_run"] == 30


def test_the_default_rate_is_a_tenth_of_stage_one(fitted, things, tmp_path):
    tuned = tune(fitted, things, tmp_path / "tuned", steps=4)
    assert record(tuned)["learning_rate"] == pytest.approx(0.1 * record(fitted)["learning_rate"])


def test_accumulated_steps_give_the_same_update(fitted, things, tmp_path):
    """1 x 8, 4 x 2 and 8 x 1: sequences of different lengths, divided by the sum over all steps."""
    for normalize in ("batch", "token"):
        outs = []
        for size, accumulation in ((8, 1), (2, 4), (1, 8)):
            out = tmp_path / f"{normalize}-{size}"
            settings = {"batch_size": size, "accumulation": accumulation, "steps": 4}
            outs.append(tune(fitted, things, out, normalize=normalize, **settings))
        assert_same_weights(outs[0], outs[1])
        assert_same_weights(outs[0], outs[2])


def test_two_processes_give_the_weights_of_one(fitted, things, tmp_path):
    one = tune(fitted, things, tmp_path / "one")
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "train"]
    line += ["tune-lm", "--checkpoint", str(fitted), "--task", str(things), "--device", "cpu"]
    line += ["--out", str(tmp_path / "two"), "--steps", "8", "--batch-size", "8"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_weights(one, tmp_path / "two")


def test_gradient_checkpointing_changes_no_weight(fitted, things, tmp_path):
    plain = tune(fitted, things, tmp_path / "plain", steps=4)
    spared = tune(fitted, things, tmp_path / "spared", steps=4, gradient_checkpointing=True)
    assert_same_weights(plain, spared, atol=1e-6)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_lora_changes_only_linear_layers_and_leaves_a_plain_checkpoint(
    architecture, new_model, things, tmp_path
):
    start, out = new_model(architecture), tmp_path / "tuned"
    FitLanguageSettings(
        checkpoint=start, task=str(things), out=out, lora=4, epochs=2, learning_rate=1e-2
    ).run()
    before, after = weights(start), weights(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("attn" in name or "mlp" in name for name in changed)
    open_language_model(out)


def test_bfloat16_trains(fitted, things, tmp_path):
    out = tune(fitted, things, tmp_path / "tuned", steps=4, precision="bf16")
    assert record(out)["precision"] == "bf16"
    assert all(values.dtype == torch.float32 for values in weights(out).values())


def test_lora_in_bfloat16_keeps_the_frozen_weights_in_it(fitted, things, tmp_path):
    out = tune(fitted, things, tmp_path / "tuned", steps=4, precision="bf16", lora=2)
    assert {values.dtype for values in weights(out).values()} == {torch.bfloat16}


def test_a_collapsing_run_is_ended_with_its_last_good_weights(fitted, things, tmp_path):
    out = tune(
        fitted, things, tmp_path / "t", objective="cross_entropy", learning_rate=0.5, steps=20
    )
    assert record(out)["stopped"].startswith("stopped after")
    assert_same_weights(fitted, out, atol=0)


def test_with_holdout_half_of_validation_replaces_the_training_split(
    fitted, things, tmp_path, capsys
):
    out = tune(fitted, things, tmp_path / "tuned", steps=4, stage2_data="holdout")
    assert record(out)["train_examples"] == 12
    assert "stage 2 on 12 held-out examples instead of 96" in capsys.readouterr().out


def test_a_model_that_is_hardly_ever_wrong_is_warned_about(fitted, things, tmp_path, capsys):
    tune(fitted, things, tmp_path / "tuned", steps=4)
    warned = capsys.readouterr().err
    assert "too few to learn doubt from. Try --stage2-data holdout" in warned


def test_right_tokens_are_those_that_the_model_predicts(fitted, task):
    model = open_language_model(fitted)
    right = right_tokens(model, task.train)
    assert right.size == sum(
        len(model.tokenizer(e.completion)["input_ids"])  # the end in place of the start
        for e in task.train
    )
    assert right.mean() > 0.9


def test_a_killed_run_goes_on_to_the_same_weights(fitted, things, tmp_path, monkeypatch):
    whole = tune(fitted, things, tmp_path / "whole")
    check = AnswerCollapse.on_step_end

    def killed(self, args, state, control, **rest):
        if state.global_step == 5:
            raise KeyboardInterrupt
        check(self, args, state, control, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerCollapse, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(fitted, things, tmp_path / "part")
    tune(fitted, things, tmp_path / "part", resume=True)
    assert_same_weights(whole, tmp_path / "part", atol=1e-6)


def test_other_data_are_refused_on_resume(fitted, things, tmp_path):
    work = tmp_path / ".tuned.training"
    work.mkdir()
    (work / "data.sha256").write_text("of another task")
    with pytest.raises(DataError, match="they have changed since"):
        tune(fitted, things, tmp_path / "tuned", resume=True)


# Refusals.


def test_a_loss_that_is_no_number_ends_the_run_with_advice(fitted, things, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf).*lower --learning-rate"):
        tune(fitted, things, tmp_path / "t", learning_rate=1e30, steps=40, guard=False)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_task_without_a_split_to_train_on_or_to_watch_is_refused(split, fitted, task, tmp_path):
    lacking = dataclasses.replace(task, **{split: ()})
    settings = TuneLanguageSettings(checkpoint=fitted, task="mine", out=tmp_path / "t", guard=False)
    with pytest.raises(DataError, match=f"no {split} split"):
        train_language_model(
            open_language_model(fitted),
            lacking,
            tuning_recipe(settings),
            out=settings.out,
            resume=False,
            overwrite=False,
            record={},
        )


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_a_gpu_trains_as_a_cpu_does(architecture, new_model, things, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    start = new_model(architecture)
    for device in ("cpu", "cuda"):
        settings = {"device": device, "precision": "fp32", "learning_rate": 1e-3}
        tune(start, things, tmp_path / device, steps=8, guard=False, **settings)
    assert_same_weights(tmp_path / "cpu", tmp_path / "cuda", atol=5e-3)
    halved = tune(start, things, tmp_path / "halved", steps=8, device="cuda", lora=2)
    assert record(halved)["precision"] == "bf16"
    assert record(halved)["device"].startswith("cuda")
