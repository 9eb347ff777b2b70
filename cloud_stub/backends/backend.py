"""The interface between the server and a model.

A backend is synchronous and knows nothing of gRPC, queues or clients: it gets a batch in a thread
of its own and yields answers. A backend that waits for others (a handle on a serving cluster, an
upstream server) sets `workers` to the number of batches it takes at once. A backend that produces
its answer bit by bit (a text generator) yields more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from cloud_stub.errors import ModelFailureError
from edge_runtime import contract
from edge_runtime.wire.tensors import BYTES, Array

Column: TypeAlias = "Array | list[npt.NDArray[np.uint8]] | list[str]"
"""One input of a batch: a tensor, pictures uint8 [h, w, 3] of any sizes, or texts."""
Outputs: TypeAlias = Mapping[str, Array]
"""Tensors by name, one row per row of the batch; BYTES as an object array of `bytes`, BF16 as bit
patterns in uint16."""
Takes: TypeAlias = Literal["image", "text", "tensors"]
FREE = -1


@dataclass(frozen=True)
class TensorSpec:
    """A tensor on the wire.

    Attributes:
        name: Its name.
        datatype: The protocol's name of its type, e.g. `FP32`.
        shape: One size per axis; -1 is free.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """A whole number that a request may set, as a parameter of that name.

    Attributes:
        name: Name on the wire, and of the batch's column int64 [n] with the value of each row.
        least: Smallest value allowed.
        most: Greatest value allowed, and the default.
    """

    name: str
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Inputs and outputs of a model.

    Attributes:
        takes: `image`: one input of pictures, which may arrive encoded; `text`: one input of
            texts; `tensors`: the inputs as declared.
        inputs: The inputs under their names on the wire.
        outputs: The outputs under their names on the wire; a request may ask for some of them.
        is_batched: Whether the first axis of every tensor counts rows, so that requests of
            several callers can be answered as one batch.
        platform: Name of what runs the model, for the protocol's metadata.
        parameters: Numbers that a request may set besides the inputs.
        is_continuous: Whether concurrent batches are computed together; all of them together then
            have at most as many rows as a single one may have.
        is_reentrant: Whether one more batch may run beside the others: rows that take far longer
            than others then get a thread of their own.
    """

    takes: Takes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_batched: bool
    platform: str
    parameters: tuple[Parameter, ...] = ()
    is_continuous: bool = False
    is_reentrant: bool = False


def _always(_row: int) -> bool:
    return True


@dataclass(frozen=True)
class Part:
    """An incomplete answer, to be passed on at once.

    A backend that yields bare outputs instead may be giving the complete answer: they are passed
    on as a part only when more follows.

    Attributes:
        outputs: The outputs of all rows so far.
        whole_rows: Rows that are complete: a call with no other rows is answered.
    """

    outputs: Outputs
    whole_rows: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Batch:
    """Inputs to be answered together.

    Attributes:
        inputs: Columns by name, including those of the signature's parameters.
        rows: Number of rows.
        timeout_s: Seconds until the last caller gives up; infinite if one never does.
        is_streamed: Whether any caller reads the answer as it grows; otherwise nobody sees parts.
        is_wanted: Function of a row that returns whether its caller is still waiting.
    """

    inputs: Mapping[str, Column]
    rows: int
    timeout_s: float
    is_streamed: bool = True
    is_wanted: Callable[[int], bool] = _always


class Backend(Protocol):
    """A model.

    Attributes:
        signature: Its inputs and outputs.
        labels: Class names in the order of its predictions; empty if it has none.
        workers: Number of batches it can work on at once.
    """

    signature: Signature
    labels: tuple[str, ...]
    workers: int

    def infer(self, batch: Batch) -> Iterable[Outputs | Part]:
        """Answer a batch.

        Yields:
            The answer so far, for all rows; the last one is complete. The iteration is abandoned
            once no caller is waiting any more.

        Raises:
            InputError: The model does not accept these inputs.
            RefusedRowsError: It does not accept some rows; it will get the others again.
            CallError: The batch is refused with a status of its own.
        """

    def close(self) -> None:
        """Release what the backend holds."""


CLASSIFIER_OUTPUTS = (
    TensorSpec(contract.PREDICTION, "INT64", (FREE,)),
    TensorSpec(contract.LABEL, BYTES, (FREE,)),
    TensorSpec(contract.CONFIDENCE, "FP32", (FREE,)),
)


def classifier_signature(
    takes: Literal["image", "text"],
    platform: str,
    *,
    image_size: tuple[int | None, int | None] = (None, None),
) -> Signature:
    """Return the signature of a classifier of pictures or texts.

    Args:
        takes: Kind of its input.
        platform: Name of what runs it.
        image_size: Fixed height and width of pictures; None is free.
    """
    if takes == contract.TEXT:
        spec = TensorSpec(contract.TEXT, BYTES, (FREE,))
    else:
        sides = [FREE if side is None else side for side in image_size]
        spec = TensorSpec(contract.IMAGE, "UINT8", (FREE, *sides, 3))
    return Signature(
        takes=takes,
        inputs=(spec,),
        outputs=CLASSIFIER_OUTPUTS,
        is_batched=True,
        platform=platform,
        is_reentrant=takes == contract.IMAGE,  # a tokenizer may not be used twice at once
    )


class Classes:
    """Class names as they are sent over the wire.

    Args:
        labels: Class names in the order of the model's predictions.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._encoded = np.array([label.encode() for label in labels], dtype=object)

    def outputs(
        self, prediction: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> Outputs:
        """Return a classifier's outputs.

        Raises:
            ModelFailureError: A prediction is outside the classes.
        """
        if len(prediction) and not 0 <= prediction.min() <= prediction.max() < len(self._encoded):
            raise ModelFailureError(
                f"the model failed: it predicts class {prediction.min()} to {prediction.max()} of "
                f"{len(self._encoded)}"
            )
        return {
            contract.PREDICTION: prediction,
            contract.LABEL: self._encoded[prediction],
            contract.CONFIDENCE: confidence,
        }
