"""The steps of a language model's export: trace, gate, calibrate on generated answers, verify."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tokenizers import Tokenizer

from edge_runtime import contract
from edge_runtime.contract import GateMetadata, InputDescription
from edge_runtime.language import Decoder
from export import bundle
from export.classifier.gate import set_threshold
from export.classifier.verification import quantized_in_words, verify_quantized
from export.commands.language import LanguageSettings
from export.errors import PreprocessingError
from export.external import WEIGHTS_FILE, inlined, load_onnx
from export.freshness import TRAINING, remarks
from export.graphs import copy_of, strip_traces
from export.language.calibration import Decided, calibration_task, decide
from export.language.gate import append_sequence_gate
from export.language.step import LEAST_ONNXRUNTIME, Cache, export_step
from export.language.verification import verify_decoder
from export.quantization import Kind, quantize
from export.sources.probes import PROMPTS
from train.data.tasks import Task
from train.models import LanguageModel, open_language_model, training_of, weights_sha256

TOKENIZER_FILE = "tokenizer.json"
_USUAL_TOKENS = 64
_VERIFIED = 64  # prompts that verify an export; all calibration data choose the threshold
_PLACEHOLDER = ("text",)
"""A generator has no classes; the metadata want a name for what comes out."""
_Record = dict[str, Any]


@dataclass(frozen=True)
class _Step:
    """The traced model, before it is quantized and gated."""

    model: LanguageModel
    graph: onnx.ModelProto
    weights: Path | None
    tokenizer: Path
    cache: Cache
    limit: int


@dataclass(frozen=True)
class _Exported:
    """A graph with its gate; `files` go beside it."""

    graph: onnx.ModelProto
    files: tuple[Path, ...]
    metadata: GateMetadata

    @property
    def size_bytes(self) -> int:
        """How large the graph is with its weights; the tokenizer does not count."""
        return self.graph.ByteSize() + sum(
            file.stat().st_size for file in self.files if file.name == WEIGHTS_FILE
        )


def build_decoder(settings: LanguageSettings) -> None:
    """Export a language model; see `LanguageSettings`.

    Raises:
        ExportError: Model, tokenizer, data or verification failed; nothing was written.
    """
    task = calibration_task(settings)
    model = open_language_model(settings.checkpoint)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the bundle, so that large weights need not be copied to another file system.
    with tempfile.TemporaryDirectory(dir=settings.out.parent, prefix=".export-") as scratch:
        _build(settings, model, task, Path(scratch))


def _build(
    settings: LanguageSettings, model: LanguageModel, task: Task | None, scratch: Path
) -> None:
    step = _step(settings, model, task, scratch)
    exact = _exported(settings, step, "none")
    decided = _decided(settings, exact, task, scratch / "exact")
    verified: _Record = {
        "graph": verify_decoder(
            model,
            decided.decoder,
            _prompts(settings, task)[:_VERIFIED],
            step.limit,
            settings.confidence,
            decided.threshold,
        )
    }
    shipped = exact
    if settings.quantize != "none":
        shipped = _exported(settings, step, settings.quantize)
        small = _decided(settings, shipped, task, scratch / "small")
        verified["quantization"] = _compared(settings, small, decided) | {
            "kind": settings.quantize,
            "bytes": shipped.size_bytes,
            "bytes_float": exact.size_bytes,
        }
        decided = small
    _ship(settings, shipped, decided, verified)


def _ship(
    settings: LanguageSettings, shipped: _Exported, decided: Decided, verified: _Record
) -> None:
    """Write the bundle, and say what it does."""
    threshold, record = decided.threshold, decided.record
    set_threshold(shipped.graph, threshold)
    metadata = dataclasses.replace(shipped.metadata, threshold=threshold, calibration=record)
    _write(settings.out, dataclasses.replace(shipped, metadata=metadata), verified)
    achieved = f", defers {record['achieved']:.1%} of {record['n']}" if record else ""
    seen = remarks(
        metadata.extra, settings.calibrate, settings.split, certified=settings.is_certified
    )
    print(f"{settings.out}: threshold {threshold:.6g}{achieved}{seen}", flush=True)
    if "quantization" in verified:
        print(quantized_in_words(verified["quantization"]), flush=True)


def _compared(settings: LanguageSettings, small: Decided, exact: Decided) -> _Record:
    """Hold the quantized graph's answers to the float one's, each at its own threshold."""
    texts = dict.fromkeys([*(a.text for a in small.answers), *(a.text for a in exact.answers)])
    number = {text: i for i, text in enumerate(texts)}
    columns = [
        (
            np.array([number[answer.text] for answer in one.answers]),
            np.array([answer.confidence for answer in one.answers]),
            np.array([not answer.confidence >= one.threshold for answer in one.answers]),
        )
        for one in (small, exact)
    ]
    ours, float_ones = columns
    found = verify_quantized(ours, float_ones, float_ones[0], max_flips=settings.max_flips)
    return found | {"accuracy": small.accuracy, "accuracy_float": exact.accuracy}


def _step(
    settings: LanguageSettings, model: LanguageModel, task: Task | None, scratch: Path
) -> _Step:
    traced = scratch / "step.onnx"
    cache = export_step(model, traced)
    loaded = load_onnx(traced, scratch)
    strip_traces(loaded.model)
    tokenizer = scratch / TOKENIZER_FILE
    tokenizer.write_text(_tokenizer_text(model.tokenizer), encoding="utf-8")
    limit = settings.max_new_tokens or _longest_answer(model, task)
    return _Step(model, loaded.model, loaded.weights, tokenizer, cache, limit)


def _exported(settings: LanguageSettings, step: _Step, quantization: Kind) -> _Exported:
    graph, weights = copy_of(step.graph), step.weights
    if quantization != "none":
        graph, weights = quantize(inlined(graph, weights), quantization), None
    append_sequence_gate(
        graph,
        kind=settings.confidence,
        threshold=0.0,
        ends=step.model.ends,
        pad=step.model.tokenizer.pad_token_id,
    )
    files = () if weights is None else (weights / WEIGHTS_FILE,)
    return _Exported(graph, (*files, step.tokenizer), _metadata(settings, step, quantization))


def _longest_answer(model: LanguageModel, task: Task | None) -> int:
    if task is None or not task.train:
        return _USUAL_TOKENS
    ids = (
        model.tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        for example in task.train
    )
    return min(task.max_new_tokens, 1 + max(map(len, ids)))


def _tokenizer_text(tokenizer: Any) -> str:
    """Return a `tokenizer.json` that neither cuts nor pads: the decoder does."""
    if not getattr(tokenizer, "is_fast", False):
        raise PreprocessingError(
            f"expected a tokenizer that is written as {TOKENIZER_FILE}, "
            f"{type(tokenizer).__name__} works in Python alone: convert it to a fast one"
        )
    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alone.no_truncation()
    alone.no_padding()
    text: str = alone.to_str(pretty=True)
    return text + "\n"


def _metadata(settings: LanguageSettings, step: _Step, quantization: Kind) -> GateMetadata:
    model, training = step.model, training_of(settings.checkpoint)
    extra: _Record = {
        contract.TOKENIZER: TOKENIZER_FILE,
        contract.GENERATION: {
            "max_new_tokens": step.limit,
            "context": model.context,
            "eos_token_ids": list(model.ends),
            "pad_token_id": model.tokenizer.pad_token_id,
            "layers": step.cache.layers,
            "kv_heads": step.cache.heads,
            "head_dim": step.cache.size,
            "least_onnxruntime": LEAST_ONNXRUNTIME,
        },
    }
    if training is not None:
        extra[TRAINING] = training.as_record()
    if quantization != "none":
        extra[contract.QUANTIZATION] = quantization
    return GateMetadata(
        contract_version=contract.CONTRACT_VERSION,
        task=contract.TASK_GENERATION,
        confidence_kind=settings.confidence,
        confidence_range=contract.sequence_confidence_range(
            settings.confidence, model.vocabulary, step.limit
        ),
        threshold=0.0,
        labels=_PLACEHOLDER,
        input=InputDescription(name=contract.TEXT, dtype="str", shape=("batch",)),
        source_sha256=weights_sha256(settings.checkpoint),
        toolkit_version=bundle.toolkit_version(),
        extra=extra,
    )


def _decided(
    settings: LanguageSettings, exported: _Exported, task: Task | None, draft: Path
) -> Decided:
    _write(draft, exported, {})
    return decide(settings, Decoder.open(draft), task)


def _prompts(settings: LanguageSettings, task: Task | None) -> list[str]:
    """Return what verifies the graph: prompts of the task, or texts that were made up."""
    if task is not None:
        return [example.prompt for example in task.splits()[settings.split]]
    return list(PROMPTS)


def _write(path: Path, exported: _Exported, verified: _Record) -> None:
    bundle.write_bundle(
        path,
        exported.graph,
        exported.metadata,
        verified,
        others=exported.files,
        role=contract.ROLE_DECODER,
    )
