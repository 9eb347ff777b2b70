"""The command `python -m export retune`: another threshold for a bundle, without a new export."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.cli import field
from edge_runtime.contract import SecondLook
from edge_runtime.errors import BundleError, SettingError
from export.commands.goal import TaskGoalSettings

if TYPE_CHECKING:  # torch and scipy take their time to load
    from export.calibration import Goal, Sample
    from train.data import LabelledData


@dataclass(frozen=True, kw_only=True)
class RetuneSettings(TaskGoalSettings):
    """Give a bundle another threshold, chosen by hand or on data.

    --calibrate takes a data set, or of a language model's bundle a task, whose prompts the graph in
    the bundle answers.

    Example: python -m export retune --bundle bundle --calibrate digits --target-deferral 0.1
    """

    bundle: Path = field("bundle folder, rewritten in place")

    def run(self) -> None:
        """Rewrite threshold, record and hashes; the rest of the graph stays as it is."""
        import onnx

        from edge_runtime.bundle import read_bundle, role_of
        from export.bundle import write_bundle
        from export.calibration import band_note
        from export.classifier.gate import set_threshold
        from export.classifier.second_look import set_band
        from export.freshness import remarks

        role = role_of(self.bundle)
        bundle = read_bundle(self.bundle, role)
        model = onnx.load(str(bundle.graph), load_external_data=False)
        choose = self._answer if role == contract.ROLE_DECODER else self._choose
        threshold, record, look = choose(bundle)
        set_threshold(model, threshold)
        if look is not None:
            set_band(model, *look.limits)
        metadata = dataclasses.replace(
            bundle.metadata,
            threshold=threshold,
            calibration=record,
            second_look=dataclasses.asdict(look) if look else bundle.metadata.second_look,
        )
        write_bundle(
            self.bundle,
            model,
            metadata,
            bundle.verification,
            others=bundle.others,
            hashes=bundle.hashes,
            role=role,
        )
        change = f"threshold {bundle.metadata.threshold:.6g} -> {threshold:.6g}"
        certified = self.is_certified
        seen = remarks(metadata.extra, self.calibrate, self.split, certified=certified)
        print(f"{self.bundle}: {change}{band_note(threshold, look)}{seen}")
        if look is None and _has_limits(metadata.second_look):
            print(
                "the second look keeps its band, which was not chosen for this threshold: "
                "--calibrate moves both"
            )

    def _choose(self, bundle: Bundle) -> tuple[float, dict[str, Any] | None, SecondLook | None]:
        """Return threshold, calibration record, and the second look where it changes."""
        import numpy as np

        if self.data is not None or self.limit is not None:
            raise SettingError(
                f"expected no --data and no --limit for the classifier in {self.bundle}: "
                "--calibrate names the data"
            )
        if self.threshold is not None:
            return float(np.float32(self.threshold)), None, None
        from export import calibration
        from export.data import kind_of, load_split
        from export.freshness import require_fresh, was_chosen_on

        assert self.calibrate is not None  # noqa: S101 - checked on creation
        split = load_split(
            self.calibrate,
            self.split,
            labels=bundle.metadata.labels,
            owner=self.bundle,
            kind=kind_of(bundle.metadata),
        )
        goal = self.goal()
        made_with = bundle.metadata.extra
        if goal.is_certified:
            require_fresh(made_with, self.calibrate, self.split)
        sample, look = self._measure(bundle, split, goal)
        threshold, record = calibration.calibrate(
            goal, sample, data=self.calibrate, split=self.split
        )
        if goal.is_certified and was_chosen_on(made_with, self.calibrate, self.split):
            record[calibration.REUSED] = True
        return threshold, record, look

    def _answer(self, bundle: Bundle) -> tuple[float, dict[str, Any] | None, None]:
        """Return threshold and calibration record of a language model; it takes no second look."""
        from edge_runtime.language import Decoder
        from export.language.calibration import calibration_task, decide

        task = calibration_task(self)
        decided = decide(self, Decoder(bundle), task)  # holds the graph to the contract
        return decided.threshold, decided.record, None

    def _measure(
        self, bundle: Bundle, split: LabelledData, goal: Goal
    ) -> tuple[Sample, SecondLook | None]:
        from edge_runtime.edge_model import EdgeModel
        from export.calibration import Sample, calibrate_look
        from export.session import open_graph, run_bundle

        large_right = self.large_right(split)
        edge = EdgeModel(bundle)  # holds the graph to the contract

        def sample(session: Any = None) -> Sample:
            prediction, confidence, _ = run_bundle(edge, split.inputs, session)
            return Sample(confidence, prediction == split.labels, large_right)

        if bundle.metadata.second_look is None:
            return sample(), None
        import onnx

        from export.classifier.second_look import set_band

        before = SecondLook.from_fields(bundle.metadata.second_look)
        model = onnx.load(str(bundle.graph), load_external_data=False)

        def measure(low: float, high: float) -> Sample:
            set_band(model, low, high)
            return sample(open_graph(model, bundle.path))

        return calibrate_look(measure, view=before.view, goal=goal, band=before.band)


def _has_limits(described: dict[str, Any] | None) -> bool:
    if described is None:
        return False
    try:
        return not SecondLook.from_fields(described).is_of_every_input
    except BundleError:  # another toolkit's; its threshold can be set all the same
        return True
