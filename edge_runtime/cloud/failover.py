"""Several servers of one model: who does not answer is passed over."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.cloud.answers import CloudAnswers
from edge_runtime.cloud.model import CloudModel
from edge_runtime.errors import CloudError, CloudRejectedError, CloudUnavailableError, SettingError


class Failover:
    """Asks the first server whose circuit is closed, then the next; safe to share between threads.

    The deadline of a call is for all of them together: each may take an equal part of what is left,
    the last one all of it. A request that a server refused is not taken to the next one, which
    would refuse it as well.

    Args:
        models: The servers, the preferred one first.

    Raises:
        SettingError: There is none.
    """

    def __init__(self, models: Sequence[CloudModel]) -> None:
        if not models:
            raise SettingError("expected at least one cloud address, got none")
        self.models = tuple(models)
        self.model = models[0].model
        self.takes_files = models[0].takes_files
        self.deadline_s = models[0].deadline_s

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        confidences: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
        threshold: float | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> CloudAnswers:
        """Ask about a batch; see `CloudModel.infer`.

        Raises:
            CloudError: Why the last one gave no answer.
        """
        end_s = monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        closed = [model for model in self.models if not model.breaker.is_open]
        # Where all circuits are open, the first one says for how long and why.
        candidates = closed or self.models[:1]
        reasons: list[CloudError] = []
        for place, model in enumerate(candidates):
            left_s = (end_s - monotonic()) / (len(candidates) - place)
            if left_s <= 0:
                break
            try:
                return model.infer(
                    rows,
                    confidences=confidences,
                    threshold=threshold,
                    deadline_s=left_s,
                    request_id=request_id,
                )
            except CloudRejectedError:
                raise
            except CloudError as error:
                reasons.append(error)
        raise reasons[-1] if reasons else CloudUnavailableError("no time was left to ask a server")

    def close(self) -> None:
        """Close the connections to all of them."""
        for model in self.models:
            model.close()
