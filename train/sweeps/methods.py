"""The methods of training that a sweep compares, by name, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.errors import SettingError

UNTUNED = "untuned"
CONTROL = "control"
AVERAGE = "average"
"""The only row without a model of its own: it cannot be exported, so it is never recommended."""
FITTED = "small"
"""The folder of the fitted model, before stage 2."""


@dataclass(frozen=True)
class Method:
    """One way of training in stage 2.

    Attributes:
        source: The publication that describes it, or its own description.
        flags: The settings of `train tune` that select it; None if nothing is trained.
        has_alpha: Whether it is trained at every alpha.
        is_path: Whether each alpha starts where the greater one ended, with its share of the
            epochs, so that one run gives the whole curve.
    """

    source: str
    flags: Mapping[str, Any] | None
    has_alpha: bool = False
    is_path: bool = False

    def training(self, name: str, alpha: float | None = None) -> Training:
        """Return the training of this method, at an alpha if it has one."""
        if alpha is None:
            return Training(name, None if self.flags is None else dict(self.flags))
        return Training(f"{name}-{alpha:g}", {**(self.flags or {}), "alpha": alpha})


_GATEKEEPER = {"objective": "gatekeeper"}
METHODS: Mapping[str, Method] = {
    "gatekeeper": Method("Rabanser et al. 2025, eq. 2", _GATEKEEPER, has_alpha=True),
    "auxiliary": Method(
        "cross-entropy on the head, Gatekeeper on a second one of the same trunk",
        {**_GATEKEEPER, "head": "auxiliary"},
        has_alpha=True,
    ),
    "crossfit": Method(
        "Gatekeeper; models that never saw the input decide on right or wrong",
        {**_GATEKEEPER, "stage2_data": "crossfit"},
        has_alpha=True,
    ),
    "path": Method(
        "Gatekeeper from the greatest alpha down, each run starting from the one before",
        _GATEKEEPER,
        has_alpha=True,
        is_path=True,
    ),
    "label_smoothing": Method("Szegedy et al. 2016, section 7", {"objective": "label_smoothing"}),
    "cascade_aware": Method(
        "Wang et al. 2024, cascade-aware training", {"objective": "cascade_aware"}
    ),
    "deep_gamblers": Method(
        "Liu et al. 2019, Deep Gamblers; gate by Feng et al. 2023", {"objective": "deep_gamblers"}
    ),
    "self_adaptive": Method(
        "Huang, Zhang & Zhang 2020, self-adaptive training; gate by Feng et al. 2023",
        {"objective": "self_adaptive"},
    ),
    AVERAGE: Method(
        "the controls of two seeds as a deep ensemble; Lakshminarayanan et al. 2017", None
    ),
}


@dataclass(frozen=True)
class Training:
    """One row of a sweep: a way of training at an alpha.

    Attributes:
        name: Name in files and tables.
        flags: The settings of `train tune`; None for the fitted model and for the average of two
            controls.
        start: Folder of the checkpoint that it starts from.
        share: Its part of the epochs.
    """

    name: str
    flags: dict[str, Any] | None
    start: str = FITTED
    share: float = 1.0


def chains(rows: list[Training]) -> list[list[Training]]:
    """Return the trainings in groups, each to be run in order: the steps of a path.

    The average is in no group: it waits for the controls of two seeds.
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
    """Return the trainings of a sweep: the untuned model, the control, then the methods.

    Args:
        methods: Names of `METHODS`, for every alpha, or `NAME:ALPHA` for one.
        alphas: For methods that have an alpha and name none.

    Raises:
        SettingError: A name is unknown, or an alpha is out of range or not used.
    """
    found = [Training(UNTUNED, None), Training(CONTROL, {"objective": "cross_entropy"})]
    for word in methods:
        name, _, own = word.partition(":")
        if name not in METHODS:
            raise SettingError(
                f"expected --methods among {', '.join(METHODS)}, with :ALPHA for a single alpha, "
                f"got {word!r}"
            )
        method = METHODS[name]
        if not method.has_alpha:
            if own:
                raise SettingError(f"expected --methods {name} without an alpha, got {word!r}")
            found.append(method.training(name))
            continue
        chosen = (_alpha(own),) if own else alphas
        if method.is_path:
            found += _path(name, method, chosen)
        else:
            found += [method.training(name, alpha) for alpha in chosen]
    return found


def _path(name: str, method: Method, alphas: tuple[float, ...]) -> list[Training]:
    steps = [method.training(name, alpha) for alpha in sorted(alphas, reverse=True)]
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
