"""The steps of a language model's export: trace, gate, calibrate on answers, verify, write."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edge_runtime import contract
from edge_runtime.contract import GateMetadata, InputDescription
from edge_runtime.environment import toolkit_version
from edge_runtime.files import scratch_folder
from edge_runtime.language import Decoder
from export import bundle
from export.calibration.threshold import threshold_summary
from export.commands.language import LanguageSettings
from export.data import TRAINING
from export.external import WEIGHTS_FILE, inline_weights, load_onnx
from export.gate import set_threshold
from export.graphs import copy_model, strip_traces
from export.language.calibration import CalibratedDecoder, calibration_task, choose_threshold
from export.language.gate import append_sequence_gate
from export.language.step import LEAST_ONNXRUNTIME, Cache, export_step
from export.language.verification import verify_decoder
from export.quantization import Kind, quantize
from export.sources.probes import PROMPTS
from export.sources.text_checkpoint import TOKENIZER_FILE, standalone_tokenizer, write_tokenizer
from export.verification import Answers, quantization_summary, verify_quantized
from train.data.tasks import Task
from train.models import LanguageModel, open_language_model, training_of, weights_sha256

_USUAL_TOKENS = 64
_VERIFIED = 64  # prompts that verify an export; all calibration data choose the threshold
_PLACEHOLDER = ("text",)
"""A generator has no classes, but the metadata need a name for its output."""
_Record = dict[str, Any]


@dataclass(frozen=True)
class _TracedModel:
    """The traced model, before it is quantized and gated."""

    model: LanguageModel
    graph: onnx.ModelProto
    weights: Path | None
    tokenizer: Path
    cache: Cache
    limit: int


@dataclass(frozen=True)
class _GatedGraph:
    """A graph with its gate, its metadata and the files beside it."""

    graph: onnx.ModelProto
    files: tuple[Path, ...]
    metadata: GateMetadata

    @property
    def size_bytes(self) -> int:
        """Size of the graph with its weights, without the tokenizer."""
        return self.graph.ByteSize() + sum(
            file.stat().st_size for file in self.files if file.name == WEIGHTS_FILE
        )


def build(settings: LanguageSettings) -> None:
    """Export a language model: calibrate and verify it, and only then write the bundle.

    Raises:
        ExportError: Model, tokenizer, data or verification failed; nothing was written.
    """
    task = calibration_task(settings)
    model = open_language_model(settings.checkpoint)
    # Beside the bundle, so that large weights need not be copied to another file system.
    with scratch_folder(settings.out) as scratch:
        traced = _trace(settings, model, task, scratch)
        exact = _gate(settings, traced, "none")
        calibrated = _calibrate(settings, exact, task, scratch / "exact")
        prompts = PROMPTS if task is None else [e.prompt for e in task.splits()[settings.split]]
        verified: _Record = {
            "graph": verify_decoder(
                model,
                calibrated.decoder,
                list(prompts[:_VERIFIED]),
                traced.limit,
                settings.confidence,
                calibrated.threshold,
            )
        }
        if settings.quantize == "none":
            _write(settings, exact, calibrated, verified)
            return
        small = _gate(settings, traced, settings.quantize)
        quantized = _calibrate(settings, small, task, scratch / "small")
        verified["quantization"] = _compare(settings, quantized, calibrated) | {
            "kind": settings.quantize,
            "bytes": small.size_bytes,
            "bytes_float": exact.size_bytes,
        }
        _write(settings, small, quantized, verified)


def _trace(
    settings: LanguageSettings, model: LanguageModel, task: Task | None, scratch: Path
) -> _TracedModel:
    file = scratch / "step.onnx"
    cache = export_step(model, file)
    loaded = load_onnx(file, scratch)
    strip_traces(loaded.model)
    tokenizer = standalone_tokenizer(model.tokenizer, settings.checkpoint)
    tokenizer.no_truncation()  # the decoder truncates and pads
    tokenizer.no_padding()
    limit = settings.max_new_tokens or _longest_answer(model, task)
    written = write_tokenizer(tokenizer, scratch)
    return _TracedModel(model, loaded.model, loaded.weights, written, cache, limit)


def _longest_answer(model: LanguageModel, task: Task | None) -> int:
    if task is None or not task.train:
        return _USUAL_TOKENS
    ids = (
        model.tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        for example in task.train
    )
    return min(task.max_new_tokens, 1 + max(map(len, ids)))


def _gate(settings: LanguageSettings, traced: _TracedModel, quantization: Kind) -> _GatedGraph:
    graph, weights = copy_model(traced.graph), traced.weights
    if quantization != "none":
        graph, weights = quantize(inline_weights(graph, weights), quantization), None
    append_sequence_gate(
        graph,
        kind=settings.confidence,
        threshold=0.0,
        ends=traced.model.ends,
        pad=traced.model.tokenizer.pad_token_id,
    )
    files = () if weights is None else (weights / WEIGHTS_FILE,)
    metadata = _metadata(settings, traced, quantization)
    return _GatedGraph(graph, (*files, traced.tokenizer), metadata)


def _metadata(settings: LanguageSettings, traced: _TracedModel, quantization: Kind) -> GateMetadata:
    model, training = traced.model, training_of(settings.checkpoint)
    extra: _Record = {
        contract.TOKENIZER: TOKENIZER_FILE,
        contract.GENERATION: {
            "max_new_tokens": traced.limit,
            "context": model.context,
            "eos_token_ids": list(model.ends),
            "pad_token_id": model.tokenizer.pad_token_id,
            "layers": traced.cache.layers,
            "kv_heads": traced.cache.heads,
            "head_dim": traced.cache.size,
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
            settings.confidence, model.vocabulary, traced.limit
        ),
        threshold=0.0,
        labels=_PLACEHOLDER,
        input=InputDescription(name=contract.TEXT, dtype="str", shape=("batch",)),
        source_sha256=weights_sha256(settings.checkpoint),
        toolkit_version=toolkit_version(),
        extra=extra,
    )


def _calibrate(
    settings: LanguageSettings, gated: _GatedGraph, task: Task | None, draft: Path
) -> CalibratedDecoder:
    """Choose the threshold on the answers of a draft of the bundle."""
    _write_files(draft, gated, {})
    return choose_threshold(settings, Decoder.open(draft), task)


def _compare(
    settings: LanguageSettings, small: CalibratedDecoder, exact: CalibratedDecoder
) -> _Record:
    """Compare the quantized graph's answers with the float one's, each at its own threshold."""
    texts = dict.fromkeys(answer.text for one in (small, exact) for answer in one.answers)
    number = {text: i for i, text in enumerate(texts)}

    def columns(one: CalibratedDecoder) -> Answers:
        confidence = np.array([answer.confidence for answer in one.answers])
        texts = np.array([number[answer.text] for answer in one.answers])
        return texts, confidence, ~(confidence >= one.threshold)

    exact_answers = columns(exact)
    found = verify_quantized(
        columns(small), exact_answers, exact_answers[0], max_flips=settings.max_flips
    )
    return found | {"accuracy": small.accuracy, "accuracy_float": exact.accuracy}


def _write(
    settings: LanguageSettings, gated: _GatedGraph, chosen: CalibratedDecoder, verified: _Record
) -> None:
    """Write the bundle, and print its threshold."""
    threshold, record = chosen.threshold, chosen.record
    set_threshold(gated.graph, threshold)
    metadata = dataclasses.replace(gated.metadata, threshold=threshold, calibration=record)
    _write_files(settings.out, dataclasses.replace(gated, metadata=metadata), verified)
    summary = threshold_summary(settings, metadata.extra, threshold, record)
    print(f"{settings.out}: {summary}", flush=True)
    if "quantization" in verified:
        print(quantization_summary(verified["quantization"]), flush=True)


def _write_files(path: Path, gated: _GatedGraph, verified: _Record) -> None:
    bundle.write_bundle(
        path,
        gated.graph,
        gated.metadata,
        verified,
        others=gated.files,
        role=contract.ROLE_DECODER,
    )
