"""Brings what all checkpoints answered together into one per-sample file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from train.comparison.figures import Candidate
from train.comparison.samples import Samples
from train.comparison.scores import SPLITS
from train.errors import TrainError
from train.language.rivals import Asking, Doubt, Heard, Rival

MODELS, NOT_MEANINGFUL = "models", "not_meaningful"
UNPARSED = -1


def row_name(rival: str, kind: str) -> str:
    """Return what a row of the table is called."""
    return f"{rival} + {kind}"


def gather(
    rivals: Sequence[Rival],
    heard: Mapping[Asking, Sequence[Heard]],
    seeds: Sequence[int],
    *,
    from_scratch: bool,
) -> tuple[Samples, dict[str, str]]:
    """Make the candidates of every rival.

    Args:
        rivals: Whom to compare.
        heard: What each was answered: one a seed, in their order.
        seeds: The training seeds.
        from_scratch: Whether the checkpoints never saw an instruction: some rivals then mean
            nothing, and are marked so.

    Returns:
        The samples, and the rivals that could not be fitted at some seed, with the reason.
    """
    candidates: dict[str, dict[str, Candidate]] = {split: {} for split in SPLITS}
    extra: dict[str, Any] = {
        MODELS: np.array(list(dict.fromkeys(rival.asking.model for rival in rivals))),
        NOT_MEANINGFUL: np.array(
            [r.name for r in rivals if from_scratch and not r.is_meaningful_from_scratch], np.str_
        ),
    }
    left_out: dict[str, str] = {}
    for rival in rivals:
        runs = heard[rival.asking]
        extra |= said(rival.name, runs)
        try:
            doubts = [rival.doubts(run) for run in runs]
        except TrainError as error:  # a table without it is better than none
            left_out[f"{type(rival).__name__} of {rival.name}"] = str(error)
            continue
        for kind in doubts[0]:
            for split in SPLITS:
                name = row_name(rival.name, kind)
                candidates[split][name] = _candidate([d[kind] for d in doubts], runs, split)
    first = next(iter(heard.values()))[0]
    samples = Samples(
        ids={s: np.array(first.answers[s].ids) for s in SPLITS},
        large=first.large,
        candidates=candidates,
        seeds=tuple(seeds),
        extra=extra,
    )
    return samples, left_out


def _candidate(doubts: Sequence[Doubt], runs: Sequence[Heard], split: str) -> Candidate:
    return Candidate(
        uncertainty=np.stack([d.uncertainty[split] for d in doubts]).astype(np.float32),
        right=np.stack([run.answers[split].right for run in runs]),
        passes=1.0,
        is_probability=doubts[0].is_probability,
        is_logarithm=doubts[0].is_logarithm,
    )


def said(name: str, runs: Sequence[Heard]) -> dict[str, npt.NDArray[Any]]:
    """Return what is kept of the answers themselves, a row a seed.

    Which of them are the same (int32 [k, n]; `UNPARSED` where there is none), how many tokens they
    took (int32 [k, n]) and how long (float64 [k]), by split.
    """
    kept: dict[str, npt.NDArray[Any]] = {}
    for split in SPLITS:
        answers = [run.answers[split] for run in runs]
        kept[f"{split}/{name}/answer"] = np.stack([answer_codes(a.parsed) for a in answers])
        kept[f"{split}/{name}/tokens"] = np.stack([a.tokens for a in answers]).astype(np.int32)
        kept[f"{split}/{name}/seconds"] = np.array([a.seconds for a in answers])
    return kept


def answer_codes(parsed: Sequence[str | None]) -> npt.NDArray[np.int32]:
    """Return int32 [n]: equal where answers are, `UNPARSED` where there is none."""
    known = {
        answer: i for i, answer in enumerate(dict.fromkeys(p for p in parsed if p is not None))
    }
    return np.array([UNPARSED if p is None else known[p] for p in parsed], np.int32)


def most_frequent(codes: npt.NDArray[np.integer[Any]]) -> float:
    """Return the share of the most frequent answer among those that parse; NaN where none does.

    A collapsed model says the same to everything.

    Args:
        codes: Equal where the answers are; `UNPARSED` where there is none.
    """
    counts = np.unique_counts(codes[codes != UNPARSED]).counts
    return float(counts.max() / counts.sum()) if counts.size else float("nan")


def spoken(samples: Samples, split: str, name: str) -> dict[str, float]:
    """Return how a rival answers, the mean over the seeds.

    Args:
        samples: Of `gather`.
        split: Which one.
        name: Of the rival.
    """
    codes, tokens, seconds = (
        samples.extra[f"{split}/{name}/{what}"] for what in ("answer", "tokens", "seconds")
    )
    return {
        "unparsed": float((codes == UNPARSED).mean()),
        "most frequent answer": float(np.mean([most_frequent(row) for row in codes])),
        "tokens/s": float(np.mean(tokens.sum(axis=1) / seconds)),
    }
