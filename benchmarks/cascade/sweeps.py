"""Recomputes the figures of a sweep from its per-sample file, and draws them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.documents import FINDINGS, Document, read_json
from train.comparison.figures import ACCURACY, joint_name
from train.comparison.samples import read_samples
from train.sweeps import results
from train.sweeps.methods import CONTROL, UNTUNED
from train.sweeps.results import RESULTS_FILE, SAMPLES_FILE, TABLE_FILE

mpl.use("Agg")  # files only: no display is needed

PARETO_FILE = "pareto.png"
ALPHAS_FILE = "alphas.png"
_METHODS = {"gatekeeper": "#d62728", "auxiliary": "#9467bd", "crossfit": "#8c564b"}
_COLORS = {UNTUNED: "#7f7f7f", CONTROL: "#1f77b4", **_METHODS}
_MARKERS = {"": "o", "mirror": "D", "mirror_band": "^"}
_PANELS = (ACCURACY, "AUROC", "s_d", "s_o")


def is_sweep(folder: Path) -> bool:
    """Return whether a result folder is one of a sweep."""
    return (folder / RESULTS_FILE).is_file()


def documents(folder: Path) -> Iterator[Document]:
    """Yield the results of a sweep with what follows from its samples.

    Raises:
        GatekeeperError: A file is missing or damaged.
    """
    content = read_json(folder / RESULTS_FILE)
    follows = results.derive_results(read_samples(folder / SAMPLES_FILE), content["deferral"])
    yield Document(
        file=folder / RESULTS_FILE,
        content=content,
        expected={**follows, FINDINGS: results.findings(content)},
        page=folder / TABLE_FILE,
        render=results.report,
        indent=1,
    )


def draw(folder: Path) -> list[Path]:
    """Write the Pareto picture, and the figures over alpha where several were trained."""
    content = read_json(folder / RESULTS_FILE)
    written = [_save(_pareto(content), folder / PARETO_FILE)]
    if len(_over_alpha(content)) > 1:
        written.append(_save(_alphas(content), folder / ALPHAS_FILE))
    return written


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return path


def _pareto(content: dict[str, Any]) -> Any:
    """Draw what the user gets over what M_S can do alone, and over s_d."""
    joint = joint_name(content["deferral"])
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for axis, over in zip(axes, (ACCURACY, "s_d"), strict=True):
        for name, row in content["test"].items():
            training, _, gate = name.partition(" + ")
            if gate not in _MARKERS:
                continue
            x, y = (row["figures"][k]["value"] for k in (over, joint))
            color = _COLORS.get(training.split("-")[0], "#2ca02c")
            axis.plot(x, y, _MARKERS[gate], color=color, ms=7, alpha=0.85)
            axis.annotate(
                training if not gate else "",
                (x, y),
                fontsize=7,
                xytext=(4, 3),
                textcoords="offset points",
            )
        axis.set_xlabel(over)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(joint)
    handles = [
        plt.Line2D([], [], ls="", marker=m, color="black", label=gate or "one view")
        for gate, m in _MARKERS.items()
    ]
    axes[0].legend(handles=handles, fontsize=8)
    figure.suptitle(f"What the user gets ({Path(content['data']).name}, test set)")
    return figure


def _over_alpha(content: dict[str, Any]) -> list[tuple[float, str]]:
    names = [n for n in content["test"] if n.startswith("gatekeeper-") and " + " not in n]
    return sorted((float(name.removeprefix("gatekeeper-")), name) for name in names)


def _alphas(content: dict[str, Any]) -> Any:
    """Draw each figure over alpha, with the untuned model and the control as lines."""
    panels = (*_PANELS, joint_name(content["deferral"]))
    figure, axes = plt.subplots(1, len(panels), figsize=(17, 3.6), layout="constrained")
    found = _over_alpha(content)
    for axis, name in zip(axes, panels, strict=True):
        rows = [content["test"][training]["figures"][name] for _, training in found]
        values = [row["value"] for row in rows]
        low, high = ([abs(row[side] - row["value"]) for row in rows] for side in ("low", "high"))
        axis.errorbar(
            [alpha for alpha, _ in found],
            values,
            [low, high],
            color=_COLORS["gatekeeper"],
            marker="o",
            capsize=3,
            label="Gatekeeper",
        )
        for base, style in ((UNTUNED, ":"), (CONTROL, "--")):
            level = content["test"][base]["figures"][name]["value"]
            axis.axhline(level, ls=style, color=_COLORS[base], label=base)
        axis.set(xlabel="alpha", title=name)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure
