"""What the front asks of a model, whatever computes its answers.

A backend is synchronous and knows nothing of gRPC, queues or clients: it is given a batch in a
thread of its own and yields answers. One that waits for others (a handle on a serving cluster, an
upstream server) says by `workers` how many batches it takes at once; one that answers bit by bit (a
generator of text) yields more than once.
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
"""Tensors by name, a row for each of the batch's; BYTES as an object array of `bytes`, BF16 as the
bit patterns in uint16."""
Takes: TypeAlias = Literal["image", "text", "tensors"]
FREE = -1


@dataclass(frozen=True)
class TensorSpec:
    """A tensor on the wire.

    Attributes:
        name: Its name.
        datatype: The protocol's name of its type, e.g. `FP32`.
        shape: One entry an axis; -1 is free.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """A whole number that a request may set, as a parameter of that name.

    Attributes:
        name: On the wire, and of the batch's column int64 [n] of what the rows' requests say.
        least: The least that is taken.
        most: The most, and what a request means that says nothing.
    """

    name: str
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        takes: `image`: one input of pictures, which may come encoded; `text`: one of texts;
            `tensors`: whatever the inputs say.
        inputs: By their names on the wire.
        outputs: Likewise; a request may ask for some of them.
        is_batched: Whether the first axis of every tensor counts rows, so that requests of
            several callers can be answered as one batch.
        platform: What runs the model, as the protocol's metadata name it.
        parameters: What a request may set beside the inputs.
        is_continuous: Whether batches at once are worked on together: then all of them have as many
            rows as one may have.
    """

    takes: Takes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_batched: bool
    platform: str
    parameters: tuple[Parameter, ...] = ()
    is_continuous: bool = False


def _everybody_waits(_row: int) -> bool:
    return True


@dataclass(frozen=True)
class Part:
    """An answer that is not the whole one: it is passed on at once.

    What is given as bare outputs could be the whole answer, and is passed on as a part of it only
    when more comes.

    Attributes:
        outputs: For all rows, as far as they are known.
        whole_rows: Rows of which nothing more comes: a call that has no others is answered.
    """

    outputs: Outputs
    whole_rows: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Batch:
    """Inputs to be answered together.

    Attributes:
        inputs: By name, the columns of the signature's parameters among them.
        rows: How many.
        timeout_s: Seconds until the last of their callers gives up; infinite where one never does.
        is_streamed: Whether any caller reads along; where none does, parts are seen by nobody.
        is_wanted: Told a row, says whether its caller still waits.
    """

    inputs: Mapping[str, Column]
    rows: int
    timeout_s: float
    is_streamed: bool = True
    is_wanted: Callable[[int], bool] = _everybody_waits


class Backend(Protocol):
    """A model.

    Attributes:
        signature: What it takes and gives.
        labels: Class names in the order of its predictions; empty where it has none.
        workers: Batches it can work on at once.
    """

    signature: Signature
    labels: tuple[str, ...]
    workers: int

    def infer(self, batch: Batch) -> Iterable[Outputs | Part]:
        """Answer a batch.

        Yields:
            The answer as far as it is known, for all rows; the last one is the whole answer. The
            iteration is given up when nobody waits for it any more.

        Raises:
            InputError: The model does not take these inputs.
            RefusedRowsError: It does not take some rows; the others are given to it again.
            CallError: The batch is refused with a status of its own.
        """

    def close(self) -> None:
        """Let go of what it holds."""


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
        takes: Which of the two.
        platform: What runs it.
        image_size: Fixed height and width of pictures, each None where free.
    """
    if takes == contract.TEXT:
        given = TensorSpec(contract.TEXT, BYTES, (FREE,))
    else:
        sides = [FREE if side is None else side for side in image_size]
        given = TensorSpec(contract.IMAGE, "UINT8", (FREE, *sides, 3))
    return Signature(
        takes=takes, inputs=(given,), outputs=CLASSIFIER_OUTPUTS, is_batched=True, platform=platform
    )


class Classes:
    """Class names as they go over the wire.

    Args:
        labels: In the order of the model's predictions.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._encoded = np.array([label.encode() for label in labels], dtype=object)

    def outputs(
        self, prediction: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32]
    ) -> Outputs:
        """Return a classifier's outputs.

        Raises:
            ModelFailureError: A prediction is none of the classes.
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
