"""Which pairs of the comparison are shipped, and what their cascades say to the test prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calls import DEADLINE_S, TIMED_CALLS, as_shipped
from benchmarks.demo import DemoSettings
from benchmarks.language.asked import Asked
from benchmarks.language.models import checkpoint
from edge_runtime import Answer, Cascade, contract, metrics
from edge_runtime.decoding import Decoder, Generation
from export.commands.language import LanguageSettings
from train.data.tasks import Task
from train.language.answers import Answers
from train.language.gathering import row_name
from train.language.rivals import CONTROL


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
