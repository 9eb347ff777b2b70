"""Flags of one served model: its source, its text generation, its link to a further cloud."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cloud_stub.protocol.bounds import RowBounds
from cloud_stub.scheduling.batcher import MOST_CALLS, Limits
from edge_runtime import contract
from edge_runtime.cli import Command, field
from edge_runtime.cli.command import flag_name
from edge_runtime.errors import SettingError
from edge_runtime.metrics import SEQUENCE_KINDS
from edge_runtime.wire.address import is_loopback, split_address

KEY_VARIABLE: Final = "GATEKEEPER_UPSTREAM_KEY"
_MOST_TOKENS: Final = 1 << 20
_NEW_TOKENS: Final = 256
_MOST_THREADS: Final = 4096
_MOST_PIXELS: Final = 178_000_000  # Pillow refuses larger pictures itself
_KINDS: Final = ", ".join(SEQUENCE_KINDS)
_CLOUD_SECRETS: Final = ("cloud_ca", "cloud_certificate", "cloud_key", "cloud_token_file")
_UPSTREAM_FLAGS: Final = (
    "upstream_model",
    "upstream_key_file",
    "upstream_ca",
    "upstream_plaintext",
)


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Command):
    """One model: exactly one of checkpoint, bundle, onnx and upstream.

    Raises:
        SettingError: A value is out of range or contradicts another.
    """

    checkpoint: Path | None = field("folder of a checkpoint to serve", default=None)
    bundle: Path | None = field("folder of an exported bundle to serve instead", default=None)
    onnx: Path | None = field(
        "ONNX file to serve instead, under the names of its own tensors", default=None
    )
    model: str = field("name of the model in requests", default=contract.DEFAULT_MODEL)
    allow_loops: bool = field(
        "serve an --onnx with operators that run a part of it again and again, such as Loop and "
        "Scan: one from a stranger may never end",
        default=False,
    )
    upstream: str = field(
        "URL of an OpenAI-compatible server to forward prompts to instead, up to and including "
        f"/v1; its key comes from --upstream-key-file or the environment variable {KEY_VARIABLE}",
        default="",
    )
    upstream_model: str = field("name of the model at --upstream", default="")
    upstream_timeout_s: float = field(
        "longest silence of --upstream, in seconds, before a call fails",
        default=30.0,
        above=0,
        aliases=("upstream_timeout",),
    )
    upstream_key_file: Path | None = field("file with the key for --upstream", default=None)
    upstream_ca: Path | None = field(
        "PEM file of the authorities to trust for --upstream, in place of the system's",
        default=None,
    )
    upstream_plaintext: bool = field(
        "allow unencrypted prompts to an --upstream on another machine", default=False
    )
    max_new_tokens: int = field(
        "most tokens of a generated answer; a request may ask for fewer (max_tokens); 0 takes "
        f"{_NEW_TOKENS}, and for a bundle the limit that it was exported with",
        default=0,
        within=(0, _MOST_TOKENS),
    )
    confidence: str = field(
        f"confidence of a generated answer: {_KINDS}; if not given, its own for a bundle, "
        "neg_entropy for a checkpoint, mean_logprob for --upstream, which reports no entropies",
        default="",
    )
    cloud: str = field(
        "HOST:PORT of a further cloud for the inputs that --bundle is unsure of (a middle tier)",
        default="",
    )
    cloud_deadline_s: float = field(
        "longest wait for --cloud, in seconds; never longer than the caller waits",
        default=0.5,
        above=0,
        aliases=("cloud_deadline",),
    )
    cloud_tls: bool = field("use TLS for --cloud", default=False)
    cloud_ca: Path | None = field(
        "PEM file of the authorities to trust for --cloud, in place of the system's", default=None
    )
    cloud_certificate: Path | None = field(
        "PEM file of the client certificate to present to --cloud", default=None
    )
    cloud_key: Path | None = field("PEM file of the key of --cloud-certificate", default=None)
    cloud_token_file: Path | None = field("file with the bearer token for --cloud", default=None)
    cloud_plaintext: bool = field(
        "allow unencrypted inputs to a --cloud on another machine", default=False
    )
    threads: int = field(
        "threads of the model; 0 leaves the choice to its library",
        default=0,
        within=(0, _MOST_THREADS),
    )
    max_batch: int = field("most rows of one batch", default=32, within=(1, MOST_CALLS))
    max_delay_ms: float = field(
        "longest wait of a batch for more rows, in milliseconds; at 0 an idle model starts at "
        "once, and 1 or 2 give larger batches when many callers ask a fast model",
        default=0.0,
        least=0,
    )
    max_queue: int = field(
        "most calls that may wait; a further call is refused", default=128, within=(1, MOST_CALLS)
    )
    max_rows: int = field(
        "most rows of a call; one with more is refused", default=1 << 16, within=(1, MOST_CALLS)
    )
    max_pixels: int = field(
        "most pixels of a picture; a larger one is refused before it is decoded",
        default=1 << 25,
        within=(1, _MOST_PIXELS),
    )
    max_text_bytes: int = field(
        "most bytes of a text, in UTF-8; a longer one is refused",
        default=1 << 17,
        within=(1, MOST_CALLS),
    )
    stall_s: float = field(
        "seconds without a sign of life after which a batch counts as hanging",
        default=60.0,
        above=0,
        aliases=("stall",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = [self.checkpoint, self.bundle, self.onnx, self.upstream or None]
        if sum(source is not None for source in sources) != 1:
            raise SettingError(
                "expected one of --checkpoint, --bundle, --onnx and --upstream: name the model's "
                "folder or file, or the server that has it"
            )
        if not self.model.isprintable() or not self.model:
            raise SettingError(
                "expected --model as one or more printable characters, got "
                f"{self.model[:80]!r}: rename it"
            )
        if self.confidence and self.confidence not in SEQUENCE_KINDS:
            raise SettingError(
                f"expected --confidence as one of {_KINDS}, got {self.confidence[:80]!r}"
            )
        if self.onnx is None:
            self._refuse_any(("allow_loops",), "needs --onnx")
        else:
            self.refuse_generation_flags("an ONNX file")
        self._check_upstream()
        self._check_cloud()
        self.limits()

    @property
    def confidence_kind(self) -> str:
        """The kind of confidence of generated answers."""
        return self.confidence or (contract.MEAN_LOGPROB if self.upstream else contract.NEG_ENTROPY)

    @property
    def most_new_tokens(self) -> int:
        """The most tokens of an answer of a model that has no limit of its own."""
        return self.max_new_tokens or _NEW_TOKENS

    def limits(self) -> Limits:
        """Return the limits of batches and of the queue.

        Raises:
            SettingError: A batch would wait longer than the stall limit.
        """
        return Limits(
            max_batch=self.max_batch,
            max_delay_s=self.max_delay_ms / 1e3,
            max_queue=self.max_queue,
            stall_s=self.stall_s,
        )

    def bounds(self) -> RowBounds:
        """Return the bounds of a call's rows."""
        return RowBounds(
            max_rows=self.max_rows, max_pixels=self.max_pixels, max_text_bytes=self.max_text_bytes
        )

    def refuse_generation_flags(self, source: str) -> None:
        """Refuse flags that a model without text generation would silently ignore.

        Args:
            source: Description of the model.

        Raises:
            SettingError: Such a flag was given.
        """
        reason = f"needs a model that generates text, got {source}: leave it out"
        self._refuse_any(("max_new_tokens", "confidence"), reason)

    def upstream_url(self) -> SplitResult:
        """Return the parts of --upstream.

        Raises:
            SettingError: It is not the URL of a server.
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
                "expected --upstream without a user, query or fragment: put a key into "
                f"--upstream-key-file or {KEY_VARIABLE}"
            )
        return url

    def _check_upstream(self) -> None:
        if not self.upstream:
            self._refuse_any(_UPSTREAM_FLAGS, "needs --upstream")
            return
        url = self.upstream_url()
        if not self.upstream_model:
            raise SettingError("--upstream needs --upstream-model: name the model to ask for")
        if self.confidence == contract.NEG_ENTROPY:
            raise SettingError(
                "expected a --confidence computed from log-probabilities for --upstream, got "
                "neg_entropy: such a server reports no entropies"
            )
        if url.scheme == "https":
            if self.upstream_plaintext:
                raise SettingError("expected https or --upstream-plaintext, got both")
        elif self.upstream_ca is not None:
            raise SettingError("--upstream-ca needs https, got http")
        elif not (self.upstream_plaintext or is_loopback(url.hostname or "")):
            raise SettingError(
                f"expected https for {url.hostname}, which is another machine, or "
                "--upstream-plaintext on a network you trust, got neither"
            )

    def _check_cloud(self) -> None:
        if self.cloud and self.bundle is None:
            raise SettingError(
                "--cloud needs --bundle: only a bundle knows which inputs it is unsure of"
            )
        if not self.cloud_tls:
            self._refuse_any(
                _CLOUD_SECRETS,
                "needs --cloud-tls: a plaintext link has neither certificates nor tokens",
            )
        if self.cloud_tls and self.cloud_plaintext:
            raise SettingError("expected --cloud-tls or --cloud-plaintext, got both")
        if not self.cloud:
            self._refuse_any(("cloud_tls", "cloud_plaintext"), "needs --cloud")
        elif not (
            self.cloud_tls or self.cloud_plaintext or is_loopback(split_address(self.cloud)[0])
        ):
            raise SettingError(
                f"expected --cloud-tls for {self.cloud}, which is another machine, or "
                "--cloud-plaintext on a network you trust, got neither"
            )

    def _refuse_any(self, names: tuple[str, ...], reason: str) -> None:
        for item in dataclasses.fields(ModelSettings):
            if item.name in names and getattr(self, item.name) != item.default:
                raise SettingError(f"{flag_name(item)} {reason}")
