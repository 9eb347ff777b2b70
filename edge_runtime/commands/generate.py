"""The command `python -m edge_runtime generate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from edge_runtime.files import SHOWN, clean

if TYPE_CHECKING:
    from edge_runtime.language.decoder import Decoder
    from edge_runtime.language.generation import Generation


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Command, does="edge_runtime.commands.generate:answer_prompts"):
    """Answer prompts with a bundle's language model: text, confidence and decision.

    Example: python -m edge_runtime generate --bundle runs/lm/bundle "once upon a time"
    """

    bundle: Path = field("bundle folder of a decoder")
    prompts: tuple[str, ...] = field("the prompts, each in quotes", default=(), positional=True)
    max_new_tokens: int | None = field(
        "most tokens of an answer (default: the bundle's limit)", default=None, least=1
    )
    threshold: float | None = field(
        "replaces the bundle's threshold; a higher one defers more", default=None
    )
    stop: tuple[str, ...] = field(
        "string that ends an answer; give the flag again for each further one",
        default=(),
        repeated=True,
    )
    to_the_end: bool = field(
        "keep generating after deferral is certain, to get the full text", default=False
    )
    stream: bool = field("print the text while it is generated", default=False)
    provider: Literal["cpu", "cuda"] = field(
        "device of the graph; cuda needs the extra gpu", default="cpu"
    )
    threads: int | None = field(
        "threads of one step (default: all cores); fewer leave cores to other programs",
        default=None,
        least=1,
    )
    json: bool = field("print one JSON object per line, for programs", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompts:
            raise SettingError("expected at least one prompt, got none: put it in quotes")


def answer_prompts(settings: GenerateSettings) -> None:
    """Print text, confidence, decision and speed for every prompt, in order."""
    # Here, so that `--help` works without onnxruntime.
    from edge_runtime.language.decoder import Decoder
    from edge_runtime.sessions import select_providers

    decoder = Decoder.open(
        settings.bundle,
        threshold=settings.threshold,
        providers=select_providers(settings.provider),
        threads=settings.threads,
    )
    for prompt, generation in _generations(decoder, settings):
        if settings.json:
            print(json.dumps({"prompt": prompt, **generation.as_dict()}))
        else:
            print(_text_lines(generation, is_printed=settings.stream))


def _generations(decoder: Decoder, settings: GenerateSettings) -> Iterator[tuple[str, Generation]]:
    """Yield each prompt with its generation; print the pieces of a stream."""
    rules: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "stop": settings.stop,
        "stop_when_certain": not settings.to_the_end,
    }
    if not settings.stream:
        generations = decoder.generate(settings.prompts, **rules)
        yield from zip(settings.prompts, generations, strict=True)
        return
    for prompt in settings.prompts:
        for piece in decoder.stream(prompt, **rules):
            if not isinstance(piece, str):
                yield prompt, piece
            elif settings.json:
                print(json.dumps({"prompt": prompt, "piece": piece}), flush=True)
            else:
                print(clean(piece, SHOWN), end="", flush=True)


def _text_lines(generation: Generation, *, is_printed: bool) -> str:
    text = "" if is_printed else clean(generation.text, SHOWN)
    ended = generation.reason or generation.ended
    return (
        f"{text}\n  confidence {generation.confidence:.4f}  "
        f"{'defer' if generation.defer else 'edge'}  {generation.token_count} tokens "
        f"({ended})  {generation.tokens_per_s:.0f} tokens/s"
    )
