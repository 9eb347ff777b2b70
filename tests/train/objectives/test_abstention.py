"""Objectives with an abstention logit: their losses by hand, and that the logit goes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from edge_runtime.cli import main
from edge_runtime.errors import SettingError
from train.__main__ import COMMANDS
from train.classifier.settings import TuneSettings
from train.errors import CheckpointError
from train.models import build
from train.objectives import DeepGamblers, SelfAdaptive, Step
from train.objectives.abstention import ROW

OBJECTIVES = {
    "deep_gamblers": lambda: DeepGamblers(1.5),
    "self_adaptive": lambda: SelfAdaptive(8, 0.5),
}
LN3 = math.log(3)


class Plain(nn.Module):
    """A head alone, which gives its inputs [n, 2] as logits."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_labels=2)
        self.head = nn.Linear(2, 2)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs):
        return self.head(inputs)


def attached(objective):
    """Return a step's logits under an abstention logit of ln 4: p = (3, 1, 4) / 8 in both rows."""
    model = Plain().train()
    objective.attach(model)
    nn.init.constant_(model.abstention_unit.bias, math.log(4))
    return model, model(torch.tensor([[LN3, 0.0], [LN3, 0.0]]))


def test_the_gamblers_loss_by_hand():
    objective = DeepGamblers(1.5)
    _, logits = attached(objective)
    # 3/2 of 3/8 and 1/2 held back: 17/16; of 1/8: 11/16.
    loss = objective.loss(Step(logits, torch.tensor([0, 1]), {}, 2))
    assert loss.item() == pytest.approx(-(math.log(17 / 16) + math.log(11 / 16)) / 2)
    unlabelled = objective.loss(Step(logits, torch.tensor([0, -100]), {}, 2))
    assert unlabelled.item() == pytest.approx(-math.log(17 / 16) / 2)


def test_self_adaptive_targets_move_before_each_loss_by_hand():
    objective = SelfAdaptive(4, 0.5)
    model, logits = attached(objective)
    step = Step(logits, torch.tensor([0, 1]), {ROW: torch.tensor([3, 1])}, 2)
    # Of the classes alone q = (3/4, 1/4): 1 becomes 7/8 and 5/8, then 13/16 and 7/16.
    for first, second in ((7 / 8, 5 / 8), (13 / 16, 7 / 16)):
        row_0 = first * math.log(3 / 8) + (1 - first) * math.log(1 / 2)
        row_1 = second * math.log(1 / 8) + (1 - second) * math.log(1 / 2)
        assert objective.loss(step).item() == pytest.approx(-(row_0 + row_1) / 2)
        kept = model.abstention_unit.of_label
        torch.testing.assert_close(kept, torch.tensor([1.0, second, 1.0, first]))
    unlabelled = Step(logits, torch.tensor([-100, -100]), {ROW: torch.tensor([0, 2])}, 2)
    assert objective.loss(unlabelled).item() == 0.0


def loss_of(objective, dtype):
    made = OBJECTIVES[objective]()
    _, logits = attached(made)
    step = Step(logits.to(dtype), torch.tensor([0, 1]), {ROW: torch.tensor([3, 1])}, 2)
    return made.loss(step)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_half_precision_logits_are_summed_in_full(objective):
    half, full = (loss_of(objective, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert half.dtype == torch.float32
    # bfloat16 has eight bits: ln 3 is off by less than 1/256 of itself.
    assert half.item() == pytest.approx(full.item(), abs=LN3 / 256)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("architecture", ["small-cnn", "resnet-20", "mobilenetv3-small"])
def test_the_abstention_logit_teaches_the_trunk_and_goes(architecture, objective):
    model = build(architecture, labels=list("abcd"), image_size=(32, 32)).model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = OBJECTIVES[objective]()
    made.attach(model)
    assert model.abstention_unit.weight.abs().sum() == 0
    nn.init.constant_(model.abstention_unit.weight, 0.01)
    generator = torch.Generator().manual_seed(0)
    logits = model(pixel_values=torch.randn(8, 3, 32, 32, generator=generator)).logits
    assert logits.shape == (8, 4)
    # Of the detached logits no gradient comes: what there is has come through the abstention logit.
    made.loss(Step(logits.detach(), torch.arange(8) % 4, {ROW: torch.arange(8)}, 8)).backward()
    trunk = next(model.parameters())
    assert trunk.grad.abs().sum() > 0
    assert model.abstention_unit.bias.grad.abs().sum() > 0
    made.detach(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert not any(module._forward_pre_hooks for module in model.modules())


def text_classifier(kind):
    # Sizes that all of them know by one name or another.
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "n_layer": 1}
    sizes |= {"intermediate_size": 8, "vocab_size": 30, "num_labels": 3, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    return transformers.AutoModelForSequenceClassification.from_config(config).train()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_text_classifier_takes_an_abstention_logit(objective):
    model, made = text_classifier("bert"), OBJECTIVES[objective]()
    made.attach(model)
    logits = model(input_ids=torch.tensor([[2, 3, 4], [5, 6, 0]])).logits
    loss = made.loss(Step(logits, torch.tensor([0, 2]), {ROW: torch.tensor([0, 1])}, 2))
    loss.backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_a_head_that_reads_every_token_is_refused():
    model, objective = text_classifier("gpt2"), DeepGamblers(1.5)
    objective.attach(model)
    with pytest.raises(CheckpointError, match=r"reads features \[n, D\], that of GPT2For"):
        model(input_ids=torch.tensor([[2, 3, 4], [5, 6, 0]]))


def test_what_has_no_sense_is_refused():
    for payoff in (1.0, -2.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="expected a payoff above 1"):
            DeepGamblers(payoff)
    for momentum in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"momentum in \[0, 1\)"):
            SelfAdaptive(4, momentum)
    DeepGamblers(2.0).attach(Plain())
    with pytest.raises(SettingError, match=r"--payoff above 1 and at most 2, .* got 2\.01"):
        DeepGamblers(2.01).attach(Plain())
    model = Plain()
    model.config.num_labels = 3
    with pytest.raises(CheckpointError, match="it cannot take a second head"):
        DeepGamblers(2.0).attach(model)
    with pytest.raises(RuntimeError, match="a forward pass in train mode"):
        DeepGamblers(2.0).loss(Step(torch.zeros(2, 2), torch.tensor([0, 1]), {}, 2))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"head": "auxiliary", "objective": "deep_gamblers"}, "--head shared with"),
        ({"head": "auxiliary", "objective": "self_adaptive"}, "--head shared with"),
        ({"objective": "cascade_aware"}, "--large with --objective cascade_aware"),
        ({"objective": "cross_entropy", "correctness": "eval"}, "--objective gatekeeper with"),
        ({"augment": "shift", "stage2_data": "holdout"}, "--stage2-data augment with --augment"),
    ],
)
def test_flags_that_contradict_one_another_are_refused(settings, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        TuneSettings(checkpoint=tmp_path, out=tmp_path, **settings)


@pytest.mark.slow
def test_a_payoff_over_the_number_of_classes_is_one_line(small_checkpoint, tmp_path, capsys):
    line = ["tune", "--checkpoint", str(small_checkpoint), "--out", str(tmp_path / "out")]
    line += ["--objective", "deep_gamblers", "--payoff", "10.5", "--limit", "50"]
    assert main("python -m train", COMMANDS, argv=line) == 1
    assert "at most 10, the number of classes, got 10.5" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def tuned(start, out, objective, **settings):
    TuneSettings(
        checkpoint=start,
        out=out,
        objective=objective,
        epochs=3,
        limit=60,
        augment="none",
        **settings,
    ).run()
    return load_file(out / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_is_repeatable_and_leaves_the_model_alone(objective, small_checkpoint, tmp_path):
    first = tuned(small_checkpoint, tmp_path / "first", objective)
    torch.manual_seed(99)  # whatever was drawn before
    again = tuned(small_checkpoint, tmp_path / "again", objective)
    control = tuned(small_checkpoint, tmp_path / "control", "cross_entropy")
    start = load_file(small_checkpoint / "model.safetensors")
    assert first.keys() == start.keys()
    weight = "classifier.3.weight"
    assert first[weight].shape == (10, 64)
    for name, value in first.items():
        torch.testing.assert_close(again[name], value, atol=0, rtol=0)
    assert not np.allclose(first[weight], control[weight], atol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_targets(small_checkpoint, tmp_path, monkeypatch):
    settings = {"objective": "self_adaptive", "momentum": 0.5}
    whole = tuned(small_checkpoint, tmp_path / "whole", **settings)
    computed, calls = SelfAdaptive.loss, []

    def loss(objective, step):
        calls.append(len(step.labels))
        if sum(calls) > 2 * 60:  # in the third epoch
            raise KeyboardInterrupt
        return computed(objective, step)

    monkeypatch.setattr(SelfAdaptive, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        tuned(small_checkpoint, tmp_path / "killed", **settings)
    (epoch,) = (tmp_path / ".killed.training").glob("checkpoint-*")
    targets = load_file(epoch / "model.safetensors")["abstention_unit.of_label"]
    # Seen twice by a model that knows next to nothing, each has gone down towards a quarter.
    assert targets.shape == (60,)
    assert 0.25 <= targets.min() <= targets.max() < 0.9
    monkeypatch.setattr(SelfAdaptive, "loss", computed)
    resumed = tuned(small_checkpoint, tmp_path / "killed", resume=True, **settings)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=0)
