"""The small model on the device: an ONNX Runtime session that is held to the gate contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.errors import BundleError, InputError, SettingError

_ERROR_LEVEL = 3  # ONNX Runtime warns of every initializer that may be fed, which is our threshold
_ORT_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_OUTPUT_TYPES = {
    contract.PREDICTION: "tensor(int64)",
    contract.CONFIDENCE: "tensor(float)",
    contract.DEFER: "tensor(bool)",
}


class Gated(NamedTuple):
    """What the gated graph says of a batch.

    Attributes:
        prediction: int64 [batch], class index.
        confidence: float32 [batch], higher is surer.
        defer: bool [batch], True where M_L should answer.
    """

    prediction: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    defer: npt.NDArray[np.bool_]


class EdgeModel:
    """M_S with its gate, ready to run.

    Args:
        bundle: A checked bundle.
        threshold: Overrides the baked threshold; any float, infinities included, but not NaN.
        threads: Threads of one run; ONNX Runtime's default (all cores) when None.

    Raises:
        BundleError: The graph does not load, or does not follow the contract.
        SettingError: A setting is out of range.
    """

    def __init__(
        self, bundle: Bundle, *, threshold: float | None = None, threads: int | None = None
    ) -> None:
        self.bundle = bundle
        self.metadata = bundle.metadata
        self.labels = bundle.metadata.labels
        self.session = _open_session(bundle.graph, threads)
        _check_contract(self.session, bundle)
        self._dtype = np.dtype(self.metadata.input.dtype)
        self._shape = self.metadata.input.shape
        self._feeds: dict[str, Any] = {}
        self.threshold = self.metadata.threshold
        if threshold is not None:
            self._feed_threshold(threshold)

    @classmethod
    def open(
        cls, path: Path | str, *, threshold: float | None = None, threads: int | None = None
    ) -> EdgeModel:
        """Check the bundle at `path` and load its graph; see the class for arguments and errors."""
        return cls(read_bundle(path), threshold=threshold, threads=threads)

    def __call__(self, batch: npt.NDArray[Any]) -> Gated:
        """Run a batch.

        Args:
            batch: The graph's input, e.g. uint8 [batch, height, width, 3]; batch >= 1.

        Raises:
            InputError: Type, rank or size differ from what the graph takes.
        """
        if batch.dtype != self._dtype or not self._fits(batch.shape):
            raise InputError(
                f"expected {self._dtype} {list(self._shape)} with at least one row, "
                f"got {batch.dtype} {list(batch.shape)}: convert or resize the input"
            )
        feeds = {self.metadata.input.name: batch, **self._feeds}
        return Gated(*self.session.run(contract.GATE_OUTPUTS, feeds))

    def _fits(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != len(self._shape) or 0 in shape:
            return False
        # Free axes are named by strings.
        return all(w == c for w, c in zip(self._shape, shape, strict=True) if w.__class__ is int)

    def _feed_threshold(self, threshold: float) -> None:
        if np.isnan(threshold):
            raise SettingError("expected a number as threshold, got NaN: it would defer everything")
        # ONNX Runtime takes a zero-dimensional array here and nothing else.
        self._feeds = {contract.THRESHOLD: np.array(threshold, np.float32)}
        self.threshold = float(np.float32(threshold))


def _open_session(graph: Path, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ERROR_LEVEL
    if threads is not None:
        if threads < 1:
            raise SettingError(f"expected at least 1 thread, got {threads}")
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        reason = str(error).splitlines()[0][:200]
        raise BundleError(
            f"{graph} does not load in ONNX Runtime {ort.__version__} ({reason}): "
            "export the bundle again, or update onnxruntime"
        ) from None


def _check_contract(session: Any, bundle: Bundle) -> None:
    """Hold the graph to the contract and to what `bundle.json` says of it."""
    text = session.get_modelmeta().custom_metadata_map.get(contract.METADATA_KEY)
    if text is None:
        raise BundleError(f"{bundle.graph} has no gate metadata: export it with `python -m export`")
    if contract.GateMetadata.from_json(text) != bundle.metadata:
        raise BundleError(f"the metadata in {bundle.graph} and bundle.json differ: export again")
    types = {node.name: node.type for node in session.get_outputs()}
    for name, kind in _OUTPUT_TYPES.items():
        if types.get(name) != kind:
            raise BundleError(f"expected the output {name!r} {kind}, got {types.get(name)}")
    inputs = {node.name: _ORT_DTYPES.get(node.type) for node in session.get_inputs()}
    described = bundle.metadata.input
    if inputs != {described.name: described.dtype}:
        raise BundleError(
            f"expected the one input {described.name!r} {described.dtype}, got {inputs}"
        )
    fed = {node.name for node in session.get_overridable_initializers()}
    if contract.THRESHOLD not in fed:
        raise BundleError(f"{bundle.graph} has no {contract.THRESHOLD!r} that can be fed")
