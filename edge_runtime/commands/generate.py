"""The command `python -m edge_runtime generate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

if TYPE_CHECKING:
    from edge_runtime.language.decoder import Decoder
    from edge_runtime.language.generation import Generation


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Command):
    """Answer prompts with a bundle's language model: text, confidence and decision.

    Example: python -m edge_runtime generate --bundle runs/lm/bundle "once upon a time"
    """

    bundle: Path = field("bundle folder of a decoder")
    prompts: tuple[str, ...] = field("the prompts", default=(), positional=True)
    max_new_tokens: int | None = field(
        "the most tokens of an answer (default: the bundle's)", default=None
    )
    threshold: float | None = field("use this instead of the bundle's threshold", default=None)
    stop: tuple[str, ...] = field("strings that end an answer", default=())
    to_the_end: bool = field(
        "generate on where the deferral is certain already, for the text's sake", default=False
    )
    stream: bool = field("print the text while it is generated", default=False)
    provider: Literal["cpu", "cuda"] = field("where the graph runs", default="cpu")
    threads: int | None = field("threads of one step (default: all cores)", default=None)
    json: bool = field("one JSON object a line", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompts:
            raise SettingError("expected at least one prompt, got none: put it in quotes")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise SettingError(
                f"expected --max-new-tokens of at least 1, got {self.max_new_tokens}"
            )

    def run(self) -> None:
        """Print text, confidence, decision and speed for every prompt, in its order."""
        # Here, so that `--help` works where onnxruntime is missing.
        from edge_runtime.language.decoder import Decoder
        from edge_runtime.sessions import named

        decoder = Decoder.open(
            self.bundle,
            threshold=self.threshold,
            providers=named(self.provider),
            threads=self.threads,
        )
        answer = self._streamed if self.stream else self._whole
        for prompt, generation in answer(decoder):
            print(_as_json(prompt, generation) if self.json else self._as_text(generation))

    def _whole(self, decoder: Decoder) -> Iterator[tuple[str, Generation]]:
        answers = decoder.generate(self.prompts, **self._rules())
        return zip(self.prompts, answers, strict=True)

    def _streamed(self, decoder: Decoder) -> Iterator[tuple[str, Generation]]:
        for prompt in self.prompts:
            for said in decoder.stream(prompt, **self._rules()):
                if not isinstance(said, str):
                    yield prompt, said
                elif self.json:
                    print(json.dumps({"prompt": prompt, "piece": said}), flush=True)
                else:
                    print(said, end="", flush=True)

    def _rules(self) -> dict[str, Any]:
        return {
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
            "stop_when_certain": not self.to_the_end,
        }

    def _as_text(self, generation: Generation) -> str:
        text = "" if self.stream else generation.text
        ended = generation.reason or generation.ended
        return (
            f"{text}\n  confidence {generation.confidence:.4f}  "
            f"{'defer' if generation.defer else 'edge'}  {generation.token_count} tokens "
            f"({ended})  {generation.tokens_per_s:.0f} tokens/s"
        )


def _as_json(prompt: str, generation: Generation) -> str:
    return json.dumps({"prompt": prompt, **generation.as_dict()})
