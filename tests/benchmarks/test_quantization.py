"""The table of precisions: every row from a bundle as it ships, what cannot be is said."""

import json

import pytest

from benchmarks.quantization import QuantizationSettings
from edge_runtime.errors import SettingError


@pytest.mark.slow
def test_each_precision_stands_beside_the_float_graph(small_checkpoint, tmp_path, capsys):
    out = tmp_path / "q.json"
    QuantizationSettings(checkpoint=small_checkpoint, rounds=2, out=out).run()
    content = json.loads(out.read_text())
    rows = content["rows"]
    assert rows["none"]["faster"] == rows["none"]["smaller"] == 1
    assert rows["none"]["decisions_differing"] == 0
    assert rows["fp16"]["smaller"] > 1.5
    assert rows["int8"]["smaller"] > rows["fp16"]["smaller"]
    assert rows["fp16"]["confidence_difference_mean"] < rows["int8"]["confidence_difference_mean"]
    # SmallCNN has no matrix product of a size that 4 bits pay for.
    assert "--quantize int4" in content["left_out"]["int4"]
    printed = capsys.readouterr().out
    assert f"| int8 | {rows['int8']['megabytes']:.2f} |" in printed
    assert "left out: int4" in printed


@pytest.mark.parametrize("kinds", [("int8",), ("none", "int3")])
def test_kinds_need_the_float_graph_and_are_known(kinds, tmp_path):
    with pytest.raises(SettingError, match="expected --kinds among"):
        QuantizationSettings(checkpoint=tmp_path, kinds=kinds)
