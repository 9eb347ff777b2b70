"""The guarantee holds on populations of known risk, and a broken one is noticed."""

import json

import numpy as np
import pytest

from benchmarks.calibration.guarantee import Population
from benchmarks.commands.figures import GuaranteeSettings
from benchmarks.errors import CheckError
from export.calibration.certificates import RiskCertificate


@pytest.mark.slow
def test_the_guarantee_holds_and_is_written(tmp_path):
    GuaranteeSettings(draws=60, size=2000, out=tmp_path / "g.json").run()
    figures = json.loads((tmp_path / "g.json").read_text())["figures"]
    assert len(figures) == 3
    for row in figures.values():
        assert row["p_value"] > 1e-3
        assert 0 < row["coverage"] < row["coverage_oracle"]
        assert row["coverage"] <= row["coverage_uncorrected"] + 0.01


@pytest.mark.slow
def test_a_certificate_that_promises_too_much_is_caught(monkeypatch):
    # Tests at 60 % instead of 5 %: the true risk is then over its bound far too often.
    monkeypatch.setattr(RiskCertificate, "pass_at", property(lambda self: 0.6))
    with pytest.raises(CheckError, match="does not hold for"):
        GuaranteeSettings(draws=60, size=2000).run()


def test_the_true_risk_is_that_of_the_population():
    population = Population.of(np.array([0.2, 0.9, 0.5, 0.5]), np.array([True, True, False, True]))
    assert population.answered(np.float32(0.5)) == 3
    assert population.answered(np.float32(0.51)) == 1
    np.testing.assert_allclose(population.risks(), [0, 1 / 2, 1 / 3, 1 / 4])
