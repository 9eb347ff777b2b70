"""Flags of what is served, and of how it generates text where it does."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from edge_runtime import contract
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from edge_runtime.metrics import SEQUENCE_KINDS
from edge_runtime.wire.address import is_loopback

if TYPE_CHECKING:
    from edge_runtime.cloud.security import Security

KEY_VARIABLE: Final = "GATEKEEPER_UPSTREAM_KEY"
_MOST_TOKENS: Final = 1 << 20
_KINDS: Final = ", ".join(SEQUENCE_KINDS)


@dataclass(frozen=True, kw_only=True)
class SourceSettings(Command):
    """Exactly one of checkpoint, bundle, onnx and upstream; how much text, and what is said of it.

    Raises:
        SettingError: Something is out of range or contradicts something else.
    """

    checkpoint: Path | None = field("Folder of a checkpoint to serve.", default=None)
    bundle: Path | None = field("Folder of an exported bundle to serve instead.", default=None)
    onnx: Path | None = field("ONNX file to serve under its own tensors' names.", default=None)
    model: str = field("Name that callers ask for.", default=contract.DEFAULT_MODEL)
    upstream: str = field(
        "URL of an OpenAI-compatible server to ask instead, up to and with /v1. Its key comes from "
        f"--upstream-key-file or the environment variable {KEY_VARIABLE}.",
        default="",
    )
    upstream_model: str = field("Name of the model to ask --upstream for.", default="")
    upstream_timeout: float = field("Seconds that --upstream may say nothing.", default=30.0)
    upstream_key_file: Path | None = field("File that holds the key of --upstream.", default=None)
    upstream_ca: Path | None = field(
        "PEM file of the authorities that may vouch for --upstream, instead of the system's.",
        default=None,
    )
    upstream_plaintext: bool = field(
        "Send prompts to --upstream unencrypted though it is another machine.", default=False
    )
    max_new_tokens: int = field(
        "Most tokens of a generated answer; a request may ask for fewer (max_tokens).", default=256
    )
    confidence: str = field(
        f"Confidence of a generated answer: {_KINDS}; where none is named, neg_entropy of a "
        "checkpoint and mean_logprob of --upstream, which tells no entropies.",
        default="",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [self.checkpoint, self.bundle, self.onnx, self.upstream or None]
        if sum(model is not None for model in named) != 1:
            raise SettingError(
                "expected one of --checkpoint, --bundle, --onnx and --upstream: name the model's "
                "folder or file, or the server that has it"
            )
        if not 1 <= self.max_new_tokens <= _MOST_TOKENS:
            raise SettingError(
                f"expected --max-new-tokens from 1 to {_MOST_TOKENS}, got {self.max_new_tokens}"
            )
        if self.confidence and self.confidence not in SEQUENCE_KINDS:
            raise SettingError(
                f"expected --confidence as one of {_KINDS}, got {self.confidence[:80]!r}"
            )
        if not (math.isfinite(self.upstream_timeout) and self.upstream_timeout > 0):
            raise SettingError(
                f"expected --upstream-timeout as seconds over 0, got {self.upstream_timeout}"
            )
        if self.bundle is not None or self.onnx is not None:
            self.refuse_generation_flags("a bundle or an ONNX file")
        self._check_upstream()

    def refuse_generation_flags(self, what: str) -> None:
        """Refuse flags that would be ignored in silence by what generates no text.

        Args:
            what: What is served.

        Raises:
            SettingError: There is one.
        """
        defaults = {one.name: one.default for one in dataclasses.fields(SourceSettings)}
        for name in ("max_new_tokens", "confidence"):
            if getattr(self, name) != defaults[name]:
                raise SettingError(
                    f"expected --{name.replace('_', '-')} for what generates text alone, got it "
                    f"beside {what}"
                )

    @property
    def confidence_kind(self) -> str:
        """The kind of confidence that answers come with."""
        return self.confidence or (contract.MEAN_LOGPROB if self.upstream else contract.NEG_ENTROPY)

    def upstream_url(self) -> SplitResult:
        """Return the parts of --upstream.

        Raises:
            SettingError: It is no URL of a server.
        """
        try:
            url = urlsplit(self.upstream)
            _ = url.port
        except ValueError:
            url = SplitResult("", "", "", "", "")
        is_plain = self.upstream.isascii() and self.upstream.isprintable()
        if url.scheme not in {"http", "https"} or not url.hostname or not is_plain:
            raise SettingError(
                f"expected --upstream as https://HOST[:PORT]/v1, got {self.upstream[:80]!r}"
            )
        if url.username is not None or url.query or url.fragment:
            raise SettingError(
                "expected --upstream without a user, query or fragment: a key belongs into "
                f"--upstream-key-file or {KEY_VARIABLE}"
            )
        return url

    def upstream_security(self) -> Security:
        """Return what --upstream is checked against, and where its key is.

        Raises:
            SettingError: They contradict one another.
        """
        import os

        from edge_runtime.cloud.security import Security

        has_variable = self.upstream_key_file is None and KEY_VARIABLE in os.environ
        has_key = has_variable or self.upstream_key_file is not None
        if has_key and self.upstream_plaintext:
            raise SettingError(
                f"expected https for the key of --upstream, got {self.upstream_url().hostname} in "
                "plaintext: whoever listens would have it"
            )
        return Security(
            ca=self.upstream_ca,
            token_file=self.upstream_key_file,
            token_env=KEY_VARIABLE if has_variable else None,
        )

    def _check_upstream(self) -> None:
        beside = ("upstream_model", "upstream_key_file", "upstream_ca", "upstream_plaintext")
        if not self.upstream:
            if found := [name for name in beside if getattr(self, name)]:
                raise SettingError(
                    f"expected --upstream beside --{found[0].replace('_', '-')}, got none"
                )
            return
        url = self.upstream_url()
        if not self.upstream_model:
            raise SettingError("expected --upstream-model beside --upstream: what is it to answer?")
        if self.confidence == contract.NEG_ENTROPY:
            raise SettingError(
                "expected --confidence as a kind made of log-probabilities beside --upstream, got "
                "neg_entropy: such a server tells no entropies"
            )
        if url.scheme == "https":
            if self.upstream_plaintext:
                raise SettingError("expected https or --upstream-plaintext, got both")
        elif self.upstream_ca is not None:
            raise SettingError("expected https beside --upstream-ca, got http")
        elif not (self.upstream_plaintext or is_loopback(url.hostname or "")):
            raise SettingError(
                f"expected https for {url.hostname}, which is another machine, or "
                "--upstream-plaintext on a network you trust, got neither"
            )
