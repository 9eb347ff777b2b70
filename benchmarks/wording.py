"""Prints results: the table, and in words what it means."""

from __future__ import annotations

import math
from typing import Any

Figures = dict[str, dict[str, float]]

_SATURATED = 0.98
_SMALL_GAP = 0.08
_LATENCIES = ("p50_ms", "p90_ms", "p99_ms")


def table(results: dict[str, Any]) -> str:
    """Render the results as a Markdown table, one column a variant."""
    variants = results["variants"]
    head = ["", *variants]
    rows = [head, ["---"] * len(head)]
    names = next(iter(variants.values()))["figures"]
    rows += [[name, *(_cell(v["figures"][name]) for v in variants.values())] for name in names]
    rows += _of_calls(variants) if "latency" in next(iter(variants.values())) else []
    rows += _of_tokens(variants) if "tokens_per_s" in next(iter(variants.values())) else []
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of_calls(variants: dict[str, Any]) -> list[list[str]]:
    rows = []
    for source in ("edge", "deferred"):
        cells = [_latency_cell(v["latency"][source]) for v in variants.values()]
        rows.append([f"{source} latency p50 / p90 / p99, ms", *cells])
    rows.append(["bytes sent an input", *(f"{v['bytes_sent']:.0f}" for v in variants.values())])
    return rows


def _of_tokens(variants: dict[str, Any]) -> list[list[str]]:
    return [["tokens/s of M_S", *(f"{v['tokens_per_s']:.0f}" for v in variants.values())]]


def _cell(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _latency_cell(times: dict[str, float]) -> str:
    return " / ".join(f"{times[name]:.2f}" for name in _LATENCIES)


def findings(results: dict[str, Any]) -> list[str]:
    """Say in words what was found, win or not."""
    lines = _gap(next(iter(results["variants"].values()))["figures"])
    lines += [
        _sentence(name, base, figure)
        for base, figures in results["tuned_minus"].items()
        for name, figure in figures.items()
    ]
    if results.get("training_accuracy", 0.0) > _SATURATED:
        lines.append(
            f"Before tuning M_S was right on {results['training_accuracy']:.1%} of its training "
            "pictures: the loss finds next to no wrong samples to teach from."
        )
    control = results["tuned_minus"]["control"]
    area, s_d = control["area under joint accuracy"], control["s_d"]
    if s_d["low"] > 0 and area["high"] < 0:
        lines.append("s_d rose while the user lost joint accuracy: do not ship this tuning.")
    elif area["low"] > 0:
        lines.append("Against the control, the user gains joint accuracy.")
    elif area["high"] < 0:
        lines.append("Against the control, the user loses joint accuracy: ship the control.")
    else:
        lines.append("Against the control, the user's joint accuracy is the same within the noise.")
    return lines


def _gap(figures: Figures) -> list[str]:
    small, large = figures["acc(M_S)"]["value"], figures["acc(M_L)"]["value"]
    gap = f"M_L is right on {large:.1%} of the test, M_S before tuning on {small:.1%}"
    if large <= small:
        return [f"{gap}: deferring can only lose, and s_d is not defined. Take a better M_L."]
    if large - small < _SMALL_GAP:
        return [f"{gap}: less than {_SMALL_GAP:.0%} apart, there is little to gain by deferring."]
    return []


def _sentence(name: str, base: str, figure: dict[str, float]) -> str:
    if math.isnan(figure["value"]):
        return f"{name}: not defined for tuned or {base}."
    if figure["low"] > 0:
        verdict = "higher than"
    elif figure["high"] < 0:
        verdict = "lower than"
    else:
        verdict = "not distinguishable from"
    return (
        f"{name}: tuned is {verdict} {base} "
        f"({figure['value']:+.4f}, 95 % interval {figure['low']:+.4f} to {figure['high']:+.4f})."
    )
