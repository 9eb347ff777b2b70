"""A cascade as the cloud of another: M_S -> M_M -> M_L, all but the last on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.cloud.answers import CloudAnswers
from edge_runtime.errors import CloudRejectedError, InputError, SettingError

if TYPE_CHECKING:
    from edge_runtime.cascade import Cascade


class Tier:
    """Answers what a smaller model deferred, with a cascade of its own.

    Its deadlines are those of that cascade. What M_M answers because M_L is out of reach counts as
    answered, and the reason goes along.

    Args:
        cascade: M_M and what stands behind it; closed with this.
        labels: M_S's class names; M_M's are mapped to them by name.

    Raises:
        SettingError: The two know different classes.
    """

    def __init__(self, cascade: Cascade, labels: Sequence[str]) -> None:
        self.cascade = cascade
        self.takes_files = False
        self.deadline_s = None
        self.model = cascade.edge.bundle.path.name
        self._index = {name: position for position, name in enumerate(labels)}
        odd = sorted(set(labels) ^ set(cascade.edge.labels))
        if odd:
            raise SettingError(
                "expected the middle cascade to know the same classes, they differ in "
                f"{', '.join(odd[:5])}: export both from models of one data set"
            )

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        confidences: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,  # noqa: ARG002 - the next gate has its own
        threshold: float | None = None,  # noqa: ARG002 - the same
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> CloudAnswers:
        """Answer a batch with the middle model, or with what stands behind it.

        Raises:
            CloudRejectedError: The middle model does not take such inputs.
            CloudError: Where the middle cascade is to raise.
        """
        try:
            answers = self.cascade.batch(rows, deadline_s=deadline_s, request_id=request_id)
        except InputError as error:
            raise CloudRejectedError(f"{self.model}: {error}", is_divisible=True) from None
        names = [answer.label for answer in answers]
        return CloudAnswers(
            np.fromiter((self._index[name] for name in names), np.int64, len(names)),
            names,
            np.fromiter((answer.confidence for answer in answers), np.float32, len(names)),
            sent_bytes=0,  # that link has a budget of its own
            compute_s=answers[0].timings.edge_s + answers[0].timings.cloud_s,
            errors=tuple(answer.error for answer in answers),
        )

    def close(self) -> None:
        """Close the middle cascade."""
        self.cascade.close()
