"""Which pairs of the comparison are shipped, and what their cascades say to the test prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cascade.trial import DEADLINE_S, TIMED_CALLS, as_shipped
from benchmarks.commands.cascade import DemoSettings
from benchmarks.errors import CheckError

# MERGEDOC benchmarks/language/asked.py: 'The per-sample file of cascades that were really asked: bundle, runtime and server.'
from benchmarks.language.demo.models import checkpoint
from edge_runtime import Answer, Cascade, contract, metrics
from edge_runtime.files import write_atomically
from edge_runtime.language import Decoder, Generation
from export.commands.language import LanguageSettings
from train.data.tasks import Task
from train.language.answers import Answers
from train.language.gathering import row_name
from train.language.rivals import CONTROL

FILE = "cascade-samples.npz"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """What a bundle is made of.

    Attributes:
        model: The checkpoint's name.
        kind: Of the confidence.
    """

    model: str
    kind: str

    @property
    def name(self) -> str:
        """What it is called in tables; its row in the comparison is the checkpoint in PyTorch."""
        return row_name(self.model, self.kind)

    @property
    def folder(self) -> str:
        """What its bundle is called."""
        return f"bundle-{self.model}-{self.kind}"


def shipped(tuned: str, chosen: Mapping[str, str]) -> tuple[Shipped, ...]:
    """Return the control, the tuned model, and what validation chooses among everything.

    The last not where no graph holds its confidence: a rule that was learned.

    Args:
        tuned: Which tuned model is best on validation by the paper's confidence.
        chosen: Of the comparison.
    """
    found = [Shipped(model=m, kind=contract.NEG_ENTROPY) for m in (CONTROL, tuned)]
    model, _, kind = chosen["best"].partition(" + ")
    if kind in metrics.SEQUENCE_KINDS:
        found.append(Shipped(model=model, kind=kind))
    return tuple(dict.fromkeys(found))


def export(settings: DemoSettings, one: Shipped, folder: Path) -> Path:
    """Write the bundle of a checkpoint in a seed's folder; return its place."""
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    confidence: Any = one.kind
    LanguageSettings(
        checkpoint=checkpoint(settings, one.model, folder),
        calibrate=settings.task,
        data=settings.task_data,
        limit=settings.limit,
        target_deferral=settings.target_deferral,
        confidence=confidence,
        out=folder / one.folder,
    ).run()
    return folder / one.folder


def ask(
    bundle: Path, task: Task, address: str, small: Answers, large: Answers
) -> tuple[Asked, float]:
    """Ask a cascade for the test set; return what it says, and the bytes sent a prompt.

    Args:
        bundle: M_S.
        task: Whose test set is asked.
        address: `host:port` of M_L.
        small: What M_S says to the test set in PyTorch.
        large: The same of M_L.

    Raises:
        BenchmarkError: M_L did not answer something that was deferred.
    """
    prompts = [example.prompt for example in task.test]
    with Decoder.open(bundle) as decoder:
        whole = decoder.generate(prompts, stop_when_certain=False)
        ended = decoder.generate(prompts)
        first = [decoder.generate([prompt])[0] for prompt in prompts[:TIMED_CALLS]]
    with Cascade.open(bundle, cloud=address, deadline_s=DEADLINE_S) as cascade:
        answers = as_shipped(cascade, prompts)
        sent = cascade.sent_bytes / len(prompts)
    deferred = np.array([answer.deferred for answer in answers])
    said = np.where(deferred, large.texts, small.texts)
    rows: dict[str, Any] = {
        "confidence": np.array([one.confidence for one in whole], np.float32),
        "deferred": deferred,
        "whole_deferred": [one.defer for one in whole],
        "right": [task.is_right(a.text, e) for a, e in zip(answers, task.test, strict=True)],
        "same_small": [one.text == text for one, text in zip(whole, small.texts, strict=True)],
        "same": [one.text == text for one, text in zip(answers, said.tolist(), strict=True)],
        "tokens": np.array([one.token_count for one in ended], np.int32),
        "whole_tokens": np.array([one.token_count for one in whole], np.int32),
        **_times_ms(answers, first),
    }
    return Asked(**{name: np.asarray(values)[None] for name, values in rows.items()}), sent


def _times_ms(answers: list[Answer], first: list[Generation]) -> dict[str, Any]:
    # What went in a batch took no time of its own.
    text_s = np.array([answer.timings.total_s for answer in answers])
    verdict_s = np.array(
        [answer.timings.preprocess_s + answer.timings.edge_s for answer in answers]
    )
    first_s = np.full(len(answers), np.nan)
    first_s[: len(first)] = [one.timings.first_token_s for one in first]
    times = {
        "first_token_ms": first_s,
        "verdict_ms": np.where(np.isnan(text_s), np.nan, verdict_s),
        "text_ms": text_s,
    }
    return {name: (values * 1e3).round(4).astype(np.float32) for name, values in times.items()}


@dataclass(frozen=True, eq=False)
class Asked:
    """What a cascade said to n test prompts; arrays are [k, n], a row a training seed.

    Attributes:
        confidence: The bundle's own, of the whole answer, float32.
        deferred: Whether the graph's gate asked for M_L, bool.
        whole_deferred: The decision where M_S generates its whole answer in any case, bool.
        right: Whether the text that the user got is right, judged by the task, bool.
        same_small: Whether M_S says what it says in PyTorch, bool.
        same: Whether the text that the user got is what its model says in PyTorch, bool.
        tokens: How many M_S generated: a deferral that is certain ends it, int32.
        whole_tokens: How many without that, int32.
        first_token_ms: M_S alone, from the call to its first token; NaN where it was not timed.
        verdict_ms: From the call to the decision, likewise.
        text_ms: From the call to the text, M_L's where it was deferred, likewise.
    """

    confidence: npt.NDArray[np.float32]
    deferred: npt.NDArray[np.bool_]
    whole_deferred: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    same_small: npt.NDArray[np.bool_]
    same: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int32]
    whole_tokens: npt.NDArray[np.int32]
    first_token_ms: npt.NDArray[np.float32]
    verdict_ms: npt.NDArray[np.float32]
    text_ms: npt.NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Asked]) -> Asked:
        """Put the rows of several seeds under each other."""
        return cls(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in _ARRAYS})


_ARRAYS = tuple(field.name for field in fields(Asked))


def save_asked(path: Path, asked: Mapping[str, Asked]) -> None:
    """Write what every cascade said, in one step."""
    arrays: dict[str, Any] = {"names": np.array(list(asked))}
    for i, one in enumerate(asked.values()):
        arrays |= {f"{i}/{name}": getattr(one, name) for name in _ARRAYS}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read_asked(path: Path) -> dict[str, Asked]:
    """Read what `save_asked` wrote.

    Raises:
        CheckError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {
                str(name): Asked(**{array: file[f"{i}/{array}"] for array in _ARRAYS})
                for i, name in enumerate(file["names"])
            }
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise CheckError(f"expected the samples of running cascades in {path}: {error}") from None
