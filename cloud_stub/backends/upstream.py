"""An OpenAI-compatible server behind the front: it serves the model, batches and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from cloud_stub.backends.backend import Batch, Outputs, Part
from cloud_stub.backends.completions import Completions
from cloud_stub.backends.generation import MAX_TOKENS, Answers, generation_signature
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
        said, answers = [_Said() for _ in texts], Answers(batch.rows)
        nothing = Part(answers.outputs())
        for event in self._completions.events(body, batch.timeout_s, lambda: batch.is_wanted(0)):
            for row in _put(said, event):
                one = said[row]
                answers.put(row, one.text, one.confidence(self._kind), is_whole=one.is_whole)
            yield Part(answers.outputs()) if batch.is_streamed else nothing
        if not all(one.is_whole for one in said):
            raise ModelFailureError("the upstream failed: it ended before all answers did")
        yield answers.outputs()

    def close(self) -> None:
        """Every call closes its own connection."""


class _Said:
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


def _put(said: list[_Said], event: Any) -> Iterator[int]:
    """Add what an event says, and yield of which rows."""
    by_index = dict(enumerate(said))  # a list would take a negative index as well
    try:
        if "error" in event:
            raise ModelFailureError(f"the upstream failed: {str(event['error'])[:200]}")
        for choice in event["choices"]:
            index = choice.get("index", 0)
            by_index[index].put(choice)
            yield index
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelFailureError(
            "the upstream failed: expected choices with index, text and logprobs.token_logprobs "
            f"in an event, got {str(event)[:200]}"
        ) from None
