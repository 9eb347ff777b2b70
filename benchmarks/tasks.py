"""Checks that tasks are read and scored as published: counts, right answers, and a shuffle."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import sqrt
from typing import Final, NamedTuple

import numpy as np

from benchmarks.commands.language import TasksSettings
from benchmarks.figures import Figure, measure_groups
from train.data.tasks import TASKS, Task, load_task

_DEVIATIONS: Final = 3.3  # on either side; a sound scorer exceeds it in one of a thousand runs


class Sizes(NamedTuple):
    """Published numbers of examples; validation examples taken from train count as train."""

    train: int
    validation: int
    test: int


PUBLISHED: Final[dict[str, Sizes]] = {
    "arc-easy": Sizes(2_251, 0, 2_376),
    "arc-challenge": Sizes(1_119, 0, 1_172),
    "mmlu": Sizes(0, 0, 14_042),
    "gsm8k": Sizes(7_473, 0, 1_319),
    "svamp": Sizes(3_138, 0, 1_000),
    "clinc150": Sizes(15_000, 3_000, 4_500),
    "banking77": Sizes(10_003, 0, 3_080),
}


class Chance(NamedTuple):
    """The score of right completions that were shuffled among the examples.

    Attributes:
        right: Number of examples whose shuffled completion is right.
        expected: Number expected of a random order: an answer that is right for `k` of `n`
            examples reaches each of them with a probability of `k / n`.
        deviation: Standard deviation of as many independent draws.
    """

    right: int
    expected: float
    deviation: float

    @property
    def deviations(self) -> float:
        """Distance from the expected number, in standard deviations."""
        return abs(self.right - self.expected) / self.deviation


def measure(settings: TasksSettings) -> None:
    """Print the figures of every task, and write them to a file if one is named."""
    measure_groups({name: partial(_figures, name, settings.seed) for name in TASKS}, settings.out)


def _figures(name: str, seed: int) -> list[Figure]:
    return task_figures(load_task(name, seed=seed), seed)


def task_figures(task: Task, seed: int) -> list[Figure]:
    """Return the figures of one task."""
    examples = [example for part in task.splits().values() for example in part]
    right = [float(task.is_right(example.completion, example)) for example in examples]
    return [
        _count(task),
        Figure(
            f"{task.name}: right answers that no parser reads",
            float(len(task.left_out)),
            0,
            "",
            f"of {len(examples) + len(task.left_out):,}",
        ),
        Figure(
            f"{task.name}: score of the right completions",
            sum(right) / len(right),
            1,
            "",
            f"{int(sum(right)):,} of {len(right):,}",
            at_least=True,
        ),
        _shuffled(task, seed),
    ]


def _count(task: Task) -> Figure:
    published = PUBLISHED[task.name]
    sizes = Sizes(len(task.train), len(task.validation), len(task.test))
    carved = sizes.validation if not published.validation else 0
    found = Sizes(sizes.train + carved, sizes.validation - carved, sizes.test)
    return Figure.of(
        f"{task.name}: examples more or fewer than published",
        [abs(ours - theirs) for ours, theirs in zip(found, published, strict=True)],
        0,
        "",
        f"{sizes.train:,} train, {sizes.validation:,} validation, {sizes.test:,} test; sha256 "
        f"{task.fingerprint()[:16]}",
        statistic="sum",
    )


def _shuffled(task: Task, seed: int) -> Figure:
    chance, count = shuffled_score(task, seed), len(task.test)
    return Figure(
        f"{task.name}: score of shuffled completions off chance",
        chance.deviations,
        _DEVIATIONS,
        "standard deviations",
        f"{chance.right / count:.4f}, chance {chance.expected / count:.4f}, {count:,} test",
    )


def shuffled_score(task: Task, seed: int) -> Chance:
    """Score the right completions of the test split after a random shuffle."""
    order = np.random.default_rng(seed).permutation(len(task.test))
    right = sum(
        task.is_right(task.test[other].completion, example)
        for example, other in zip(task.test, order, strict=True)
    )
    shares = [
        count / len(task.test) for count in Counter(example.gold for example in task.test).values()
    ]
    chance = sum(share**2 for share in shares)
    spread = sqrt(len(task.test) * chance * (1 - chance))
    return Chance(right, len(task.test) * chance, spread)
