"""Makes up the results of a cascade."""

import copy
import functools

import numpy as np

from benchmarks.cascade import report
from benchmarks.cascade.samples import Samples
from benchmarks.cascade.summary import figures

VARIANTS = ("untuned", "control", "tuned")
DESCRIBED = {
    "command": "python -m benchmarks demo",
    "git_revision": "abc",
    "hardware": {"cores": 2, "processor": "a processor"},
    "data": "digits",
    "small": "small-cnn",
    "large": "resnet-20",
    "seeds": [0],
    "test_size": 1000,
    "wall_time_s": 12.3,
}


def make_results(*, small, large, joint, gain=(0.0, 0.0), s_d=(0.0, 0.0), **more):
    """Return the content of `results.json` for 1,000 inputs, of which 300 are deferred.

    Args:
        small: Accuracy of M_S.
        large: Accuracy of M_L.
        joint: Accuracy of the cascade.
        gain: Interval of the gain in area under joint accuracy over the control.
        s_d: Interval of the gain in s_d over the control.
        more: Further entries.
    """
    content = copy.deepcopy(figures_of(small, large, joint))
    control = content["tuned_minus"]["control"]
    for name, (low, high) in (("area under joint accuracy", gain), ("s_d", s_d)):
        control[name] = {"value": (low + high) / 2, "low": low, "high": high}
    for column in content["variants"].values():
        column["bytes_sent"] = 60.0
    return {**DESCRIBED, **content, **more}


@functools.cache
def figures_of(small, large, joint):
    return figures(dict.fromkeys(VARIANTS, make_samples(small, large, joint)))


def make_samples(small, large, joint):
    """Return samples in which each side is right on its first inputs."""
    rows = np.arange(1000)
    is_first = [(rows < 1000 * share).astype(float)[:, None] for share in (small, large, joint)]
    return Samples(
        ids=tuple(map(str, rows)),
        seeds=(0,),
        confidence=1 - rows[:, None] / 2000,
        small_quality=is_first[0],
        large_quality=is_first[1],
        deferred=(rows >= 700).astype(float)[:, None],
        answer_quality=is_first[2],
        source=np.where(rows >= 700, "cloud", "edge")[:, None],
        total_ms=np.where(rows >= 700, 2.8, 0.041)[:, None],
    )


def write_results(folder):
    """Write a result folder as a demo does."""
    samples = make_samples(0.7, 0.9, 0.8)
    report.write(folder, DESCRIBED, dict.fromkeys(VARIANTS, samples), dict.fromkeys(VARIANTS, 60.0))
    return folder
