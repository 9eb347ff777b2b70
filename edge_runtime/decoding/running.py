"""Two ways to run a graph whose outputs are the next run's inputs; neither copies them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_runtime.providers import CUDA


class Runs(Protocol):
    """Runs a graph on values that stay where it runs."""

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return an array as a value to feed."""

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return a value as an array."""

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> dict[str, Any]:
        """Run once; return the outputs by name, those that are read as arrays.

        Args:
            feeds: Values by name.
            options: ONNX Runtime's, or None.
        """


class ArrayRuns:
    """Runs on the CPU, on arrays.

    Since version 1.19 ONNX Runtime gives arrays over its own memory and works on arrays where they
    are, so that nothing is copied; binding does the same and took 50 us a step longer (two layers).

    Args:
        session: ONNX Runtime's session.
        outputs: The outputs to return.
    """

    def __init__(self, session: Any, outputs: Sequence[str]) -> None:
        self._session = session
        self._outputs = list(outputs)

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return the array itself."""
        return array

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return the array itself."""
        return np.asarray(value)

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> dict[str, Any]:
        """Run once."""
        given = self._session.run(self._outputs, feeds, options)
        return dict(zip(self._outputs, given, strict=True))


class BoundRuns:
    """Runs on a device: what is fed back is bound there, only what is read comes to the host.

    Args:
        session: ONNX Runtime's session.
        outputs: The outputs to return.
        read: Those of them that are read.
        device: ONNX Runtime's name of the device.
    """

    def __init__(
        self, session: Any, outputs: Sequence[str], read: Collection[str], device: str
    ) -> None:
        self._session = session
        self._places = {name: "cpu" if name in read else device for name in outputs}
        self._read = frozenset(read)
        self._device = device

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return a copy on the device."""
        return ort.OrtValue.ortvalue_from_numpy(array, self._device)

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return a copy on the host."""
        return np.asarray(value.numpy() if isinstance(value, ort.OrtValue) else value)

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> dict[str, Any]:
        """Run once; what was read and is fed back goes to the device again: a few bytes a row."""
        binding = self._session.io_binding()
        # Held to the end of the run: not every version of ONNX Runtime does.
        bound = {
            name: value if isinstance(value, ort.OrtValue) else self.value(value)
            for name, value in feeds.items()
        }
        for name, value in bound.items():
            binding.bind_ortvalue_input(name, value)
        for name, place in self._places.items():
            binding.bind_output(name, place)
        self._session.run_with_iobinding(binding, options)
        given = dict(zip(self._places, binding.get_outputs(), strict=True))
        return {n: v.numpy() if n in self._read else v for n, v in given.items()}


def fastest_runs(session: Any, outputs: Sequence[str], read: Collection[str]) -> Runs:
    """Return the way that suits where the session runs."""
    if session.get_providers()[0] == CUDA:
        return BoundRuns(session, outputs, read, "cuda")
    return ArrayRuns(session, outputs)
