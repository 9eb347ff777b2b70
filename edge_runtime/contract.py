"""The gate contract, version 1: names, inputs, outputs and metadata of a gated ONNX graph.

Every name shared by packages, files or languages is defined here, once. A classifier graph has

    inputs   the model's own, or `image` uint8 [batch, height, width, 3] with fused preprocessing;
             for texts `input_ids`, `attention_mask`, `token_type_ids` int64 [batch, tokens],
             which the bundle's `tokenizer.json` makes from the metadata's input `text`
             `threshold` float32 scalar, an initializer that may be fed
    outputs  `prediction` int64 [batch], `confidence` float32 [batch], `defer` bool [batch],
             on request `probabilities` or `logits` float32 [batch, classes]

with `defer = not (confidence >= threshold)`, so that a NaN confidence defers. A graph with a second
look also has the initializers `second_look_low` and `second_look_high`, float32 scalars: the band
of first confidences for which it evaluates a second view.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final, Literal

from edge_runtime import names
from edge_runtime.errors import BundleError, ContractVersionError
from edge_runtime.names import unique_names

_OTHER_BYTE = re.compile("[\udc80-\udcff]")

CONTRACT_VERSION: Final = 1

# Graph inputs and outputs.
IMAGE: Final = "image"
TEXT: Final = "text"
ORIGINALS: Final = (IMAGE, TEXT)
"""Inputs as the user has them, before any preprocessing by the model."""
INPUT_IDS: Final = "input_ids"
ATTENTION_MASK: Final = "attention_mask"
TOKEN_TYPE_IDS: Final = "token_type_ids"  # noqa: S105 - no secret: a token is a piece of text
TOKEN_INPUTS: Final = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
THRESHOLD: Final = "threshold"
PREDICTION: Final = "prediction"
CONFIDENCE: Final = "confidence"
DEFER: Final = "defer"
PROBABILITIES: Final = "probabilities"
LOGITS: Final = "logits"
GATE_OUTPUTS: Final = (PREDICTION, CONFIDENCE, DEFER)
SECOND_LOOK_LOW: Final = "second_look_low"
SECOND_LOOK_HIGH: Final = "second_look_high"

# Places of the metadata, and roles of graphs.
METADATA_KEY: Final = "gatekeeper"  # in the graph's metadata_props
BUNDLE_FILE: Final = names.BUNDLE_FILE
ROLE_CLASSIFIER: Final = "classifier"
ROLE_DECODER: Final = "decoder"
TASKS: Final = {"image": "image-classification", "text": "text-classification"}
"""Hugging Face's name of a classifier's task, by the kind of its inputs."""

# The sequence graph: one step of a causal language model, prefill and decode alike. Its output
# `present.NAME` is fed to the next step as `past.NAME`.
PAST: Final = "past."
PRESENT: Final = "present."
NEXT_TOKEN: Final = "next_token"  # noqa: S105 - a piece of text, no secret
TOKEN_CONFIDENCE: Final = "token_confidence"  # noqa: S105 - a piece of text, no secret
STATE_CONFIDENCE: Final = "confidence"
"""The accumulator of a sequence's confidence; by kind a sum, a minimum or a first value."""
STATE_COUNT: Final = "token_count"
STATE_ACTIVE: Final = "active"
NO_CLASS: Final = -1
"""The prediction of an answer that is text."""
TASK_GENERATION: Final = "text-generation"
GENERATION: Final = "generation"
"""Key of the metadata: limits and special tokens of a decoder."""

# Confidence kinds of this toolkit; the runtime treats any other as an opaque number.
MAX_SOFTMAX: Final = "max_softmax"
NEG_ENTROPY: Final = "neg_entropy"
MEAN_LOGPROB: Final = "mean_logprob"
SUM_LOGPROB: Final = "sum_logprob"
MIN_PROB: Final = "min_prob"
DEFERRAL_HEAD: Final = "deferral_head"
"""Also the metadata's key for the data that the head was fitted on."""

# Further keys of the metadata: how the weights are quantized, and the file of the tokenizer.
QUANTIZATION: Final = "quantization"
TOKENIZER: Final = "tokenizer"

# Second views of this toolkit; any other name is opaque as well.
MIRROR: Final = "mirror"
EVERY_INPUT: Final = 1.0
"""The band, in ranks, that has no limits."""
SecondView = Literal["none", "mirror"]
"""Values of the command line's flag."""

# On the wire, in addition to the tensors.
LABEL: Final = "label"
DEFAULT_MODEL: Final = "large"
PARAMETER_CONFIDENCE: Final = "gatekeeper_confidence"
PARAMETER_THRESHOLD: Final = "gatekeeper_threshold"
PARAMETER_CONTRACT: Final = "gatekeeper_contract"
"""Request parameter: version of the gate contract behind its confidences, as a string."""
REFUSED_ROW: Final = "gatekeeper-refused-row"
"""Trailing metadata of a call refused because of some rows: one `ROW REASON` each."""
PARAMETER_COMPUTE_US: Final = "gatekeeper_compute_us"
"""Response parameter: compute time of the model in whole microseconds."""


def confidence_range(kind: str, classes: int, *, views: int = 1) -> tuple[float, float]:
    """Return the least and greatest possible confidence of a kind.

    Args:
        kind: `max_softmax` (paper eq. 6: 1/C to 1), `neg_entropy` (eq. 8: -log C to 0) or
            `deferral_head` (1 - the estimated probability that M_L is right and M_S wrong: 0 to 1).
        classes: Number of classes, C >= 1.
        views: Number of views that `max_softmax` averages. The prediction is the arg-max of the
            first alone; the others may give it no probability at all.
    """
    if kind == MAX_SOFTMAX:
        return 1.0 / classes / views, 1.0
    if kind == NEG_ENTROPY:
        return -math.log(classes), 0.0
    if kind == DEFERRAL_HEAD:
        return 0.0, 1.0
    raise ValueError(f"expected {MAX_SOFTMAX}, {NEG_ENTROPY} or {DEFERRAL_HEAD}, got {kind!r}")


def sequence_confidence_range(kind: str, vocabulary: int, tokens: int) -> tuple[float, float]:
    """Return the least and greatest confidence of a greedily generated sequence.

    Each token is an arg-max, so its probability is at least 1 / V.

    Args:
        kind: One of `edge_runtime.metrics.SEQUENCE_KINDS`.
        vocabulary: Vocabulary size V, at least 1.
        tokens: Greatest length of a sequence, in tokens.
    """
    if kind in {NEG_ENTROPY, MEAN_LOGPROB}:
        return -math.log(vocabulary), 0.0
    if kind == SUM_LOGPROB:
        return -tokens * math.log(vocabulary), 0.0
    if kind in {MIN_PROB, MAX_SOFTMAX}:
        return 1.0 / vocabulary, 1.0
    raise ValueError(f"expected the confidence of a sequence, got {kind!r}")


@dataclass(frozen=True, kw_only=True)
class InputDescription:
    """The tensor that a graph takes.

    Attributes:
        name: Graph input name.
        dtype: numpy type name, e.g. `uint8`; `str` for texts.
        shape: One entry per axis; an int is fixed, a string names a free axis.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class SecondLook:
    """The second view of inputs near the threshold; stored as a dict in `GateMetadata`.

    Attributes:
        view: The second view, e.g. `mirror`.
        low: Least first confidence in the band; None is no limit.
        high: Greatest first confidence in the band; None is no limit.
        band: Half the band's width in ranks of the calibration data: 0.1 is 10 percentile ranks on
            either side of the threshold, 1 is every input.
        share: Share of the calibration inputs in the band: an input costs 1 + share passes through
            the model on average.

    Raises:
        ValueError: Band or share is out of range.
    """

    view: str
    low: float | None
    high: float | None
    band: float
    share: float

    def __post_init__(self) -> None:
        if not (0 < self.band <= 1 and 0 <= self.share <= 1):
            raise ValueError(
                f"expected a band in (0, 1] and a share in [0, 1], got {self.band} and {self.share}"
            )

    @property
    def limits(self) -> tuple[float, float]:
        """The band as numbers, infinite where there is no limit."""
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )

    @property
    def is_of_every_input(self) -> bool:
        """True where the band has no limits."""
        return self.low is None and self.high is None

    @classmethod
    def from_limits(
        cls, limits: tuple[float, float], *, view: str, band: float, share: float
    ) -> SecondLook:
        """Build it from numbers; JSON has no infinite ones, so None stands for them."""
        low, high = (limit if math.isfinite(limit) else None for limit in limits)
        return cls(view=view, low=low, high=high, band=min(band, 1.0), share=share)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> SecondLook:
        """Read the metadata's entry, without other toolkits' keys, or raise a `BundleError`."""
        try:
            low, high = (
                None
                if _typed(fields, key, (int, float, NoneType)) is None
                else _number(fields[key])
                for key in ("low", "high")
            )
            return cls(
                view=_typed(fields, "view", str),
                low=low,
                high=high,
                band=_number(_typed(fields, "band", (int, float))),
                share=_number(_typed(fields, "share", (int, float))),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise BundleError(
                "expected second_look with view, low, high, band and share in the gate metadata "
                f"({error}): export the bundle again"
            ) from None


@dataclass(frozen=True, kw_only=True)
class GateMetadata:
    """Metadata of a gated graph; the same JSON in the graph and in `bundle.json`.

    Attributes:
        contract_version: Version of the gate contract.
        task: Hugging Face's name of the task, e.g. `image-classification`.
        confidence_kind: Name of the confidence function; opaque to the runtime.
        confidence_range: Least and greatest possible confidence.
        threshold: Baked default; at or above it M_S answers.
        labels: Class names in the order of the logits.
        input: The graph's input.
        calibration: Record of the threshold's choice (goal, achieved, n, interval, hashes), or
            None.
        second_look: A `SecondLook` as a dict, or None; opaque to the runtime.
        source_sha256: Hash of the exported weights.
        toolkit_version: Version of gatekeeper-edge that wrote the metadata.
        extra: Further keys, e.g. those of a later version, carried along unchanged.
    """

    contract_version: int
    task: str
    confidence_kind: str
    confidence_range: tuple[float, float]
    threshold: float
    labels: tuple[str, ...]
    input: InputDescription
    calibration: dict[str, Any] | None = None
    second_look: dict[str, Any] | None = None
    source_sha256: str = ""
    toolkit_version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        r"""Serialise with sorted keys, so that equal metadata give equal text.

        A byte of a file's name that is not UTF-8 becomes the text `\xff`, as in `file_name`.
        """
        fields = dataclasses.asdict(self)
        fields.update(fields.pop("extra"))
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
        return _OTHER_BYTE.sub(lambda byte: rf"\\x{ord(byte[0]) & 0xFF:02x}", text)

    @classmethod
    def from_json(cls, text: str) -> GateMetadata:
        """Parse and validate the JSON.

        Raises:
            ContractVersionError: This runtime does not know the version.
            BundleError: A key is missing or has another type.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"expected gate metadata as JSON, got {text[:40]!r}: {error}"
            ) from None
        if not isinstance(fields, dict):
            raise BundleError(
                f"expected gate metadata as a JSON object, got {type(fields).__name__}"
            )
        # First of all, as another version may have other keys.
        version = fields.get("contract_version")
        if type(version) is not int or version != CONTRACT_VERSION:
            raise ContractVersionError(version, CONTRACT_VERSION)
        return cls._from_fields(fields)

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> GateMetadata:
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        fields = {"calibration": None, "second_look": None, **fields}
        fields = {"source_sha256": "", "toolkit_version": "", **fields}
        try:
            return cls(
                contract_version=CONTRACT_VERSION,
                task=_typed(fields, "task", str),
                confidence_kind=_typed(fields, "confidence_kind", str),
                confidence_range=_range(_typed(fields, "confidence_range", list)),
                threshold=_number(_typed(fields, "threshold", (int, float))),
                labels=_labels(_typed(fields, "labels", list)),
                input=_input(_typed(fields, "input", dict)),
                calibration=_typed(fields, "calibration", (dict, NoneType)),
                second_look=_typed(fields, "second_look", (dict, NoneType)),
                source_sha256=_typed(fields, "source_sha256", str),
                toolkit_version=_typed(fields, "toolkit_version", str),
                extra={key: value for key, value in fields.items() if key not in known},
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise BundleError(
                f"gate metadata of contract version {CONTRACT_VERSION} is incomplete or malformed "
                f"({error}): export the bundle again"
            ) from None


def _typed(fields: dict[str, Any], key: str, kind: Any) -> Any:
    if key not in fields:
        raise ValueError(f"{key} is missing")
    if isinstance(fields[key], bool) or not isinstance(fields[key], kind):
        raise TypeError(f"{key} is {str(fields[key])[:40]!r}")
    return fields[key]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _range(values: list[Any]) -> tuple[float, float]:
    low, high = map(_number, values)
    if not low < high:  # the softmax of a single logit, for example
        raise ValueError(f"no input can defer: its confidence is from {low:g} to {high:g}")
    return low, high


def _labels(values: list[Any]) -> tuple[str, ...]:
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"expected labels as texts, got {str(values)[:40]}")
    return unique_names(values)


def _input(described: dict[str, Any]) -> InputDescription:
    shape = tuple(_typed(described, "shape", list))
    if not shape or not all(isinstance(axis, str) or type(axis) is int for axis in shape):
        raise ValueError(f"expected a shape of sizes and names, got {list(shape)}")
    return InputDescription(
        name=_typed(described, "name", str), dtype=_typed(described, "dtype", str), shape=shape
    )
