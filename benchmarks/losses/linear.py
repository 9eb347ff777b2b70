"""Measures memory and time of the linear Gatekeeper loss, relative to losses that hold logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Final, Literal

import torch
from torch import Tensor

from benchmarks.commands.figures import LinearLossSettings
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, write_figures
from benchmarks.losses.linear_case import (
    NO_LIGER,
    Case,
    Loss,
    Name,
    device_peak_bytes,
    is_counted,
    losses,
    peak_bytes,
    step,
)
from benchmarks.processes import NOT_COUNTED
from benchmarks.timing import time_each
from edge_runtime.environment import hardware

_PEAK_LIMIT: Final = 0.1
_TIME_LIMIT: Final = 1.15
_LIGER_LIMIT: Final = 1.2
_DIFFERENCE_LIMIT: Final = 1e-5
_DENSE: Final[tuple[Name, ...]] = ("dense", "cross-entropy")
_LIGER: Final[tuple[Name, ...]] = ("Liger", "Liger, one chunk")
_WORDS: Final[dict[Name, str]] = {
    "dense": "dense autograd",
    "cross-entropy": "dense cross-entropy",
    "Liger": "Liger's cross-entropy",
    "Liger, one chunk": "Liger's in one chunk",
}


def measure(settings: LinearLossSettings) -> None:
    """Print every figure, and write them to a file if one is named.

    Raises:
        BenchmarkError: There is no such device.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("expected a CUDA device, torch finds none: use --device cpu")
    machine = hardware()
    place = ", ".join(machine["gpus"]) if settings.device == "cuda" else machine["processor"]
    print(f"{place}; medians, alternating rounds")
    figures = []
    for figure in _figures(settings):
        print(figure.line(), flush=True)
        figures.append(figure)
    if settings.out is not None:
        write_figures(settings.out, figures)


def _figures(settings: LinearLossSettings) -> Iterator[Figure]:
    size = (settings.vocabulary, settings.hidden, settings.tokens, settings.seed)
    if settings.device == "cpu":
        case = Case("cpu", "float32", *size)
        yield from _memory_of_processes(case, settings.rounds)
        yield from _time_on_cpu(case, settings.rounds)
        yield _difference(case)
        return
    for dtype in ("bfloat16", "float32"):
        yield from _on_cuda(Case("cuda", dtype, *size), settings.rounds)


def _memory_of_processes(case: Case, rounds: int) -> Iterator[Figure]:
    if not is_counted():
        yield Figure("peak memory", None, _PEAK_LIMIT, "x", NOT_COUNTED)
        return
    peaks: dict[Name, list[float]] = {name: [] for name in losses(case)}
    for _ in range(rounds):
        for name, samples in peaks.items():
            samples.append(peak_bytes(name, case))
    for name in _DENSE:
        yield _ratio("peak memory", name, peaks, _PEAK_LIMIT, case)


def _ratio(
    measure: Literal["peak memory", "time"],
    name: Name,
    samples: Mapping[Name, Sequence[float]],
    limit: float | None,
    case: Case,
) -> Figure:
    """Compare our samples, in bytes or microseconds, with another loss's, round by round."""
    ours, theirs = samples["ours"], samples[name]
    if measure == "time":
        detail = f"{median(ours) / 1e3:.4g} and {median(theirs) / 1e3:.4g} ms with gradients"
    else:
        megabytes = f"{median(ours) / 1e6:.0f} and {median(theirs) / 1e6:.0f} MB"
        detail = f"{megabytes} above inputs and gradients"
    return Figure.of(
        _title(measure, name, case),
        [one / other for one, other in zip(ours, theirs, strict=True)],
        limit,
        "x",
        f"{detail}, {_sizes(case)}",
    )


def _title(measure: str, name: Name, case: Case) -> str:
    return f"{measure}, ours / {_WORDS[name]}{_suffix(case)}"


def _suffix(case: Case) -> str:
    return "" if case.device == "cpu" else f", {case.dtype}"


def _sizes(case: Case) -> str:
    return f"vocabulary {case.vocabulary}, hidden {case.hidden}, {case.tokens} tokens, {case.dtype}"


def _time_on_cpu(case: Case, rounds: int) -> Iterator[Figure]:
    inputs, found = case.inputs(), losses(case)
    times: dict[Name, list[float]] = {name: [] for name in found}
    for loss in found.values():
        step(loss, *case.small())  # as a warm-up, for which a whole call takes too long
    for _ in range(rounds):
        for name, loss in found.items():
            times[name] += [ns / 1e3 for ns in time_each(partial(step, loss, *inputs), 1)]
    for name in _DENSE:
        yield _ratio("time", name, times, _TIME_LIMIT, case)


def _difference(case: Case) -> Figure:
    """Compare value and gradients with autograd's, relative to the greatest value."""
    inputs = case.inputs()
    found = losses(case)
    ours, wanted = (_outcome(found[name], inputs) for name in ("ours", "dense"))
    # One pair at a time, so that memory holds only three arrays of the weight's size.
    share = max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(ours, wanted, strict=True)
    )
    return Figure(
        f"value and gradients, ours against dense{_suffix(case)}",
        share,
        _DIFFERENCE_LIMIT if case.dtype == "float32" else None,
        "",
        f"greatest difference over the greatest value, {_sizes(case)}",
    )


def _outcome(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    value = step(loss, *inputs)
    hidden, weight, _ = inputs
    return [value, *(one.grad for one in (hidden, weight) if one.grad is not None)]


def _on_cuda(case: Case, rounds: int) -> Iterator[Figure]:
    inputs, found = case.inputs(), losses(case)
    peaks = {name: [float(device_peak_bytes(loss, inputs))] for name, loss in found.items()}
    times: dict[Name, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, loss in found.items():
            times[name].append(_device_time_us(loss, inputs))
    for name in (*_DENSE, *_LIGER):
        limit = _LIGER_LIMIT if name in _LIGER else None
        if name not in found:
            yield Figure(_title("time", name, case), None, limit, "x", NO_LIGER)
            continue
        yield _ratio("peak memory", name, peaks, None, case)
        yield _ratio("time", name, times, limit, case)
    yield _difference(case)


def _device_time_us(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor], calls: int = 5) -> float:
    step(loss, *inputs)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        step(loss, *inputs)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / calls
