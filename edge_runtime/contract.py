"""The gate contract, version 1: what a gated ONNX graph is called, takes, gives and says of itself.

Every name that crosses a package, a file or a language stands here once. A classifier graph has

    inputs   the model's own, or `image` uint8 [batch, height, width, 3] with fused preprocessing;
             of texts `input_ids`, `attention_mask`, `token_type_ids` int64 [batch, tokens], which
             the bundle's `tokenizer.json` makes of the `text` that the metadata name as its input
             `threshold` float32 scalar, an initializer that may be fed
    outputs  `prediction` int64 [batch], `confidence` float32 [batch], `defer` bool [batch],
             on request `probabilities` or `logits` float32 [batch, classes]

with `defer = not (confidence >= threshold)`, so that a NaN confidence defers. A graph that takes a
second look at some inputs also has the initializers `second_look_low` and `second_look_high`,
float32 scalars: the band of first confidences that it looks at again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from edge_runtime.errors import BundleError, ContractVersionError

CONTRACT_VERSION: Final = 1

# Graph inputs and outputs.
IMAGE: Final = "image"
TEXT: Final = "text"
ORIGINALS: Final = (IMAGE, TEXT)
"""Inputs that are what the user has, before any preprocessing of the model's own."""
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

# Where the metadata stands.
METADATA_KEY: Final = "gatekeeper"  # in the graph's metadata_props
BUNDLE_FILE: Final = "bundle.json"
ROLE_CLASSIFIER: Final = "classifier"
ROLE_DECODER: Final = "decoder"
TASKS: Final = {"image": "image-classification", "text": "text-classification"}
"""The task of a classifier by what it classifies, named as Hugging Face does."""

# The sequence graph: one step of a causal language model, prefill and decode alike. What it gives
# as `present.NAME` is fed to the next step as `past.NAME`.
PAST: Final = "past."
PRESENT: Final = "present."
NEXT_TOKEN: Final = "next_token"  # noqa: S105 - a piece of text, no secret
TOKEN_CONFIDENCE: Final = "token_confidence"  # noqa: S105 - the same
STATE_CONFIDENCE: Final = "confidence"
"""The accumulator of a sequence's confidence; by kind a sum, a least or a first value."""
STATE_COUNT: Final = "token_count"
STATE_ACTIVE: Final = "active"
NO_CLASS: Final = -1
"""The prediction of an answer that is text."""
TASK_GENERATION: Final = "text-generation"
GENERATION: Final = "generation"
"""Key of the metadata: limits and special tokens of a decoder."""

# Confidence kinds this toolkit makes; the runtime takes any other name as an opaque number.
MAX_SOFTMAX: Final = "max_softmax"
NEG_ENTROPY: Final = "neg_entropy"
MEAN_LOGPROB: Final = "mean_logprob"
SUM_LOGPROB: Final = "sum_logprob"
MIN_PROB: Final = "min_prob"
DEFERRAL_HEAD: Final = "deferral_head"
"""Also the key of what the head was fitted on, beside the metadata's own."""

# Further keys of the metadata: how the weights are stored, where not as they were trained, and the
# file of the tokenizer.
QUANTIZATION: Final = "quantization"
TOKENIZER: Final = "tokenizer"

# Second views this toolkit takes; any other name is opaque as well.
MIRROR: Final = "mirror"
EVERY_INPUT: Final = 1.0
"""The band, in ranks, that has no limits."""
SecondView = Literal["none", "mirror"]
"""What a command line offers."""

# On the wire, beside the tensors.
LABEL: Final = "label"
DEFAULT_MODEL: Final = "large"
PARAMETER_CONFIDENCE: Final = "gatekeeper_confidence"
PARAMETER_THRESHOLD: Final = "gatekeeper_threshold"
PARAMETER_CONTRACT: Final = "gatekeeper_contract"
"""Of a request: the version of the gate contract behind its confidences, as a string."""
REFUSED_ROW: Final = "gatekeeper-refused-row"
"""Trailing metadata of a call that is refused for some of its rows, one `ROW WHY` each."""
PARAMETER_COMPUTE_US: Final = "gatekeeper_compute_us"
"""Of a response: microseconds that the model worked, as a whole number."""


def confidence_range(kind: str, classes: int, *, views: int = 1) -> tuple[float, float]:
    """Return the least and greatest value a confidence of this kind can take.

    Args:
        kind: `max_softmax` (paper eq. 6: 1/C to 1), `neg_entropy` (eq. 8: -log C to 0) or
            `deferral_head` (1 - the estimated probability that M_L is right and M_S wrong: 0 to 1).
        classes: Number of classes, C >= 1.
        views: Views that `max_softmax` is the mean over. Only of the first the prediction is the
            arg-max, the others may give it no probability at all.
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

    Its tokens are arg-maxes, so that none is less likely than 1 / V.

    Args:
        kind: One of `edge_runtime.metrics.SEQUENCE_KINDS`.
        vocabulary: V, at least 1.
        tokens: The most tokens of a sequence.
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
    """The tensor a graph takes.

    Attributes:
        name: Graph input name.
        dtype: numpy type name, e.g. `uint8`; `str` for texts.
        shape: One entry an axis; an int is fixed, a string names a free axis.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class SecondLook:
    """How a graph looks twice at inputs near its threshold; as a dict in `GateMetadata`.

    Attributes:
        view: What the second view is, e.g. `mirror`.
        low: Least first confidence that is looked at again; None is no limit.
        high: Greatest; None is no limit.
        band: Half the band's width in ranks of the calibration data: 0.1 is 10 percentile ranks on
            either side of the threshold, 1 is every input.
        share: Share of the calibration inputs in the band: an input costs 1 + share passes through
            the model on average.

    Raises:
        ValueError: Band or share are out of range.
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
        """Whether the band has no limits."""
        return self.low is None and self.high is None

    @classmethod
    def from_limits(
        cls, limits: tuple[float, float], *, view: str, band: float, share: float
    ) -> SecondLook:
        """Build it from numbers; JSON has none that is infinite."""
        low, high = (limit if math.isfinite(limit) else None for limit in limits)
        return cls(view=view, low=low, high=high, band=min(band, 1.0), share=share)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> SecondLook:
        """Read what stands in the metadata; keys of other toolkits are passed over.

        Raises:
            BundleError: A key is missing or has another type.
        """
        try:
            low, high = (
                None if _typed(fields, key, (int, float, _NONE)) is None else _number(fields[key])
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
    """What a gated graph says of itself; the same JSON in the graph and in `bundle.json`.

    Attributes:
        contract_version: Version of the gate contract.
        task: E.g. `image-classification`.
        confidence_kind: How the confidence was made; opaque to the runtime.
        confidence_range: Its least and greatest value.
        threshold: The baked default; the confidence at or above which M_S answers.
        labels: Class names in the order of the logits.
        input: The graph's input.
        calibration: How the threshold was chosen (goal, achieved, n, interval, hashes), or None.
        second_look: What `SecondLook` describes, or None; opaque to the runtime.
        source_sha256: Hash of the weights that were exported.
        toolkit_version: Version of gatekeeper-edge that wrote it.
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
        """Serialise with sorted keys, so that equal metadata are equal text."""
        fields = dataclasses.asdict(self)
        fields.update(fields.pop("extra"))
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> GateMetadata:
        """Parse and validate.

        Raises:
            ContractVersionError: The version is not the one known here.
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
        # Before anything else: another version may have other keys.
        version = fields.get("contract_version")
        if type(version) is not int or version != CONTRACT_VERSION:
            raise ContractVersionError(version, CONTRACT_VERSION)
        return cls._from_fields(fields)

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> GateMetadata:
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        try:
            low, high = _typed(fields, "confidence_range", list)
            return cls(
                contract_version=CONTRACT_VERSION,
                task=_typed(fields, "task", str),
                confidence_kind=_typed(fields, "confidence_kind", str),
                confidence_range=(_number(low), _number(high)),
                threshold=_number(_typed(fields, "threshold", (int, float))),
                labels=_texts(_typed(fields, "labels", list)),
                input=_input(_typed(fields, "input", dict)),
                calibration=_typed({"calibration": None, **fields}, "calibration", (dict, _NONE)),
                second_look=_typed({"second_look": None, **fields}, "second_look", (dict, _NONE)),
                source_sha256=_typed({"source_sha256": "", **fields}, "source_sha256", str),
                toolkit_version=_typed({"toolkit_version": "", **fields}, "toolkit_version", str),
                # Keys of a later minor addition are carried, not dropped.
                extra={key: value for key, value in fields.items() if key not in known},
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise BundleError(
                f"gate metadata of contract version {CONTRACT_VERSION} is incomplete or malformed "
                f"({error}): export the bundle again"
            ) from None


_NONE = type(None)


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


def _texts(values: list[Any]) -> tuple[str, ...]:
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"expected labels as texts, got {str(values)[:40]}")
    return tuple(values)


def _input(described: dict[str, Any]) -> InputDescription:
    shape = tuple(_typed(described, "shape", list))
    if not shape or not all(isinstance(axis, str) or type(axis) is int for axis in shape):
        raise ValueError(f"expected a shape of sizes and names, got {list(shape)}")
    return InputDescription(
        name=_typed(described, "name", str), dtype=_typed(described, "dtype", str), shape=shape
    )
