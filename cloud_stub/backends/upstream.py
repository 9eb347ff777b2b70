"""An OpenAI-compatible server behind the front: it serves the model, batches and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from cloud_stub.backends.backend import Batch, Outputs, Part
from cloud_stub.backends.completions import Completions
from cloud_stub.backends.generation import (
    MAX_TOKENS,
    generation_outputs,
    generation_signature,
    without_half,
)
from cloud_stub.errors import ModelFailureError, RefusedRowsError
from cloud_stub.settings import ModelSettings
from edge_runtime import contract, metrics

_WORKERS: Final = 32
_LOGARITHMS: Final = (contract.MEAN_LOGPROB, contract.SUM_LOGPROB)


class UpstreamBackend:
    """Passes texts on; every call is a request of its own, which the upstream puts into batches.

    Args:
        settings: Which server, which model, and how much of it.

    Raises:
        SettingError: A file of certificates or the key cannot be used.
    """

    # The calls wait for the network and compute nothing.
    workers = _WORKERS
    labels: tuple[str, ...] = ()

    def __init__(self, settings: ModelSettings) -> None:
        url, security = settings.upstream_url(), settings.upstream_security()
        security.warn_of_exposed_files()
        context = None
        if url.scheme == "https":
            context = security.ssl_context()
            context.set_alpn_protocols(["http/1.1"])
        self._kind, self._model = settings.confidence_kind, settings.upstream_model
        self._completions = Completions(
            url,
            context=context,
            token=security.token(),
            silence_s=settings.upstream_timeout,
        )
        self.signature = generation_signature(
            "gatekeeper_upstream", settings.max_new_tokens, is_batched=False
        )

    def infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        """Answer texts; see `Backend.infer`."""
        texts: Any = list(batch.inputs[contract.TEXT])
        empty = {row: "the prompt is empty" for row, text in enumerate(texts) if not text.strip()}
        if empty:
            raise RefusedRowsError(empty)
        body = {
            "model": self._model,
            "prompt": texts[0] if len(texts) == 1 else texts,
            "max_tokens": int(np.asarray(batch.inputs[MAX_TOKENS])[0]),
            "temperature": 0,
            "logprobs": 1,
            "stream": True,
        }
        answers = [_Answer() for _ in texts]
        events = self._completions.events(body, batch.timeout_s, lambda: batch.is_wanted(0))
        for event in events:
            _put(answers, event)
            yield Part(self._outputs(answers))
        if not all(answer.is_whole for answer in answers):
            raise ModelFailureError("the upstream failed: it ended before all answers did")
        yield self._outputs(answers)

    def close(self) -> None:
        """Every call closes its own connection."""

    def _outputs(self, answers: list[_Answer]) -> Outputs:
        texts = [
            answer.text if answer.is_whole else without_half(answer.text) for answer in answers
        ]
        return generation_outputs(texts, np.array([a.confidence(self._kind) for a in answers]))


class _Answer:
    """One answer as far as it is known."""

    def __init__(self) -> None:
        self.text = ""
        self.is_whole = False
        self._logprob: list[float] = []

    def put(self, choice: Any) -> None:
        """Add what an event says of it.

        Raises:
            KeyError, TypeError, ValueError: That is malformed.
        """
        text, logprobs = choice["text"], choice.get("logprobs")
        if not isinstance(text, str):
            raise TypeError
        self.text += text
        if logprobs is not None:
            self._logprob += [float(value) for value in logprobs["token_logprobs"]]
        elif text:
            raise KeyError("logprobs")
        self.is_whole = choice.get("finish_reason") is not None

    def confidence(self, kind: str) -> float:
        """Return the confidence; of an answer without a token the lowest there is."""
        if not self._logprob:
            return float(np.finfo(np.float32).min) if kind in _LOGARITHMS else 0.0
        found = metrics.sequence_confidence(
            kind,
            neg_entropy=np.zeros(len(self._logprob)),
            logprob=self._logprob,
            counted=np.ones(len(self._logprob), bool),
        )
        return float(found)


def _put(answers: list[_Answer], event: Any) -> None:
    by_index = dict(enumerate(answers))
    try:
        if "error" in event:
            raise ModelFailureError(f"the upstream failed: {str(event['error'])[:200]}")
        for choice in event["choices"]:
            # A list would take a negative index as well.
            by_index[choice.get("index", 0)].put(choice)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelFailureError(
            "the upstream failed: expected choices with index, text and logprobs.token_logprobs "
            f"in an event, got {str(event)[:200]}"
        ) from None
