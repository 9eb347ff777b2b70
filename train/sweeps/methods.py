"""The ways of training that a sweep compares, by name, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.errors import SettingError

UNTUNED = "untuned"
CONTROL = "control"
AVERAGE = "average"
"""The only row that is no model of its own: it can't be exported, so it is never recommended."""
FITTED = "small"
"""The folder of the model as it was fitted."""


@dataclass(frozen=True)
class Method:
    """One way of training in stage 2.

    Attributes:
        flags: alpha -> the settings of `train tune` that make it; None where nothing is trained.
        has_alpha: Whether it is trained at every alpha.
        source: Where it is described.
        is_path: Whether each alpha starts where the greater one ended, with its share of the
            epochs, so that one run gives the whole curve.
    """

    flags: Callable[[float], dict[str, Any] | None]
    has_alpha: bool
    source: str
    is_path: bool = False


METHODS: Mapping[str, Method] = {
    "gatekeeper": Method(
        lambda alpha: {"objective": "gatekeeper", "alpha": alpha},
        has_alpha=True,
        source="Rabanser et al. 2025, eq. 2",
    ),
    "auxiliary": Method(
        lambda alpha: {"objective": "gatekeeper", "alpha": alpha, "head": "auxiliary"},
        has_alpha=True,
        source="cross-entropy on the head, Gatekeeper on a second one of the same trunk",
    ),
    "crossfit": Method(
        lambda alpha: {"objective": "gatekeeper", "alpha": alpha, "stage2_data": "crossfit"},
        has_alpha=True,
        source="Gatekeeper, right or wrong by models that never saw the input",
    ),
    "path": Method(
        lambda alpha: {"objective": "gatekeeper", "alpha": alpha},
        has_alpha=True,
        source="Gatekeeper from the greatest alpha down, each warm-started by the one before",
        is_path=True,
    ),
    "label_smoothing": Method(
        lambda _: {"objective": "label_smoothing"},
        has_alpha=False,
        source="Szegedy et al. 2016, section 7",
    ),
    "cascade_aware": Method(
        lambda _: {"objective": "cascade_aware"},
        has_alpha=False,
        source="Wang et al. 2024, cascade-aware training",
    ),
    "deep_gamblers": Method(
        lambda _: {"objective": "deep_gamblers"},
        has_alpha=False,
        source="Liu et al. 2019, Deep Gamblers; gate by Feng et al. 2023",
    ),
    "self_adaptive": Method(
        lambda _: {"objective": "self_adaptive"},
        has_alpha=False,
        source="Huang, Zhang & Zhang 2020, self-adaptive training; gate by Feng et al. 2023",
    ),
    AVERAGE: Method(
        lambda _: None,
        has_alpha=False,
        source="the controls of two seeds as a deep ensemble; Lakshminarayanan et al. 2017",
    ),
}


@dataclass(frozen=True)
class Training:
    """One row of a sweep: a way of training at an alpha.

    Attributes:
        name: What it is called in files and tables.
        flags: The settings of `train tune`; None for the model as it was fitted and for the
            average of two controls.
        start: The folder of the checkpoint that it starts from.
        share: Its part of the epochs.
    """

    name: str
    flags: dict[str, Any] | None
    start: str = FITTED
    share: float = 1.0


def chains(rows: list[Training]) -> list[list[Training]]:
    """Return the trainings in groups, each to be done in its order: the steps of a path wait.

    The average is in none of them: it waits for the controls of two seeds.
    """
    found: list[list[Training]] = []
    for row in rows:
        if row.name == AVERAGE:
            continue
        if row.start == FITTED:
            found.append([row])
        else:
            next(chain for chain in found if chain[-1].name == row.start).append(row)
    return found


def trainings(methods: tuple[str, ...], alphas: tuple[float, ...]) -> list[Training]:
    """Return what a sweep trains: always the untuned model and the control, then the methods.

    Args:
        methods: Names of `METHODS`, at every alpha, or `NAME:ALPHA` at one.
        alphas: For methods that take an alpha and name none.

    Raises:
        SettingError: A name is unknown, or an alpha is out of range or of no use.
    """
    found = [Training(UNTUNED, None), Training(CONTROL, {"objective": "cross_entropy"})]
    for word in methods:
        name, _, own = word.partition(":")
        if name not in METHODS:
            raise SettingError(
                f"expected --methods among {', '.join(METHODS)}, each with :ALPHA where one is "
                f"wanted, got {word!r}"
            )
        method = METHODS[name]
        if not method.has_alpha:
            if own:
                raise SettingError(f"expected --methods {name} without an alpha, got {word!r}")
            found.append(Training(name, method.flags(0.0)))
            continue
        chosen = (_alpha(own),) if own else alphas
        found += _path(name, method, chosen) if method.is_path else _each(name, method, chosen)
    return found


def _each(name: str, method: Method, alphas: tuple[float, ...]) -> list[Training]:
    return [Training(f"{name}-{alpha:g}", method.flags(alpha)) for alpha in alphas]


def _path(name: str, method: Method, alphas: tuple[float, ...]) -> list[Training]:
    steps = _each(name, method, tuple(sorted(alphas, reverse=True)))
    starts = [FITTED, *(step.name for step in steps)]
    return [
        replace(step, start=start, share=1 / len(steps))
        for step, start in zip(steps, starts, strict=False)
    ]


def _alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = -1.0
    if not 0.0 <= alpha <= 1.0:
        raise SettingError(f"expected an alpha in [0, 1] after the colon, got {text!r}")
    return alpha
