"""The table of precisions: every row from a bundle as it ships; a missing one has a reason."""

import json
import re

import numpy as np
import pytest
from tools.foreign_models import Logits, write_onnx, write_program

from benchmarks.commands.figures import QuantizationSettings
from edge_runtime.errors import SettingError
from edge_runtime.metrics import max_softmax
from train.data import load
from train.models import open_checkpoint


@pytest.mark.slow
def test_each_precision_stands_beside_the_float_graph(small_checkpoint, tmp_path, capsys):
    out = tmp_path / "q.json"
    QuantizationSettings(checkpoint=small_checkpoint, rounds=2, out=out).run()
    content = json.loads(out.read_text())
    rows = {name.removeprefix("checkpoint "): row for name, row in content["rows"].items()}
    assert rows["none"]["faster"] == rows["none"]["smaller"] == 1
    assert rows["none"]["decisions_differing"] == 0
    assert rows["fp16"]["smaller"] > 1.5
    assert rows["int8"]["smaller"] > rows["fp16"]["smaller"]
    assert rows["fp16"]["confidence_difference_mean"] < rows["int8"]["confidence_difference_mean"]
    # SmallCNN has no matrix product of a size that 4 bits pay for.
    assert "--quantize int4" in content["left_out"]["checkpoint int4"]
    printed = capsys.readouterr().out
    size = f"{rows['int8']['megabytes']:.2f}"
    assert re.search(rf"\| checkpoint int8 +\| {size} ", printed)
    assert "left out: checkpoint int4" in printed


@pytest.mark.slow
def test_every_source_is_calibrated_for_every_goal(models, tmp_path, capsys):
    small = open_checkpoint(models[0])
    program = write_program(Logits(small), tmp_path / "m.pt2")
    onnx = write_onnx(Logits(small), tmp_path / "m.onnx")
    goals = ("target-deferral=0.2", "max-risk=0.3", "max-harm=0.2", "max-risk=0.001")
    out = tmp_path / "q.json"
    QuantizationSettings(
        checkpoint=models[0],
        program=program,
        onnx=onnx,
        large=models[1],
        kinds=("none",),
        goals=goals,
        rounds=2,
        out=out,
    ).run()
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["checkpoint none", "program none", "onnx none"]
    test = load("digits").test
    large = open_checkpoint(models[1]).predict(test.inputs).argmax(-1) == test.labels
    logits = small.predict(test.inputs)
    right, confidence = logits.argmax(-1) == test.labels, max_softmax(logits)
    for row in rows.values():
        assert list(row["goals"]) == list(goals)
        assert row["accuracy"] == right.mean()
        assert "at most 0.001" in row["goals"]["max-risk=0.001"]["refused"]
        found = row["goals"]["max-harm=0.2"]
        answered = confidence >= found["threshold"]
        joint = np.where(answered, right, large)
        assert found["answered"] == answered.sum()
        assert found["harm"] == pytest.approx(large.mean() - joint.mean())
    firsts = [row["goals"]["target-deferral=0.2"] for row in rows.values()]
    assert firsts[1] == pytest.approx(firsts[0])
    assert firsts[2] == pytest.approx(firsts[0])
    assert re.search(r"\| onnx none +\| answers ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("goals", "says"),
    [
        (("max-risk",), "target-deferral=0.3, of"),
        (("deferral=0.1",), "got deferral=0.1"),
        (("max-risk=2",), "a value in"),
        (("max-harm=0.1",), "--large CHECKPOINT"),
    ],
)
def test_goals_are_named_with_a_value(goals, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        QuantizationSettings(checkpoint=tmp_path, goals=goals)


@pytest.mark.parametrize("kinds", [("int8",), ("none", "int3")])
def test_kinds_need_the_float_graph_and_are_known(kinds, tmp_path):
    with pytest.raises(SettingError, match="expected --kinds among"):
        QuantizationSettings(checkpoint=tmp_path, kinds=kinds)
