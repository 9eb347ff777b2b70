"""The flags of a command that say what a foreign engine calls things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.cli import field
from edge_runtime.errors import SettingError

_FLAGS = ("cloud_input", "cloud_output", "cloud_reduce", "cloud_labels")


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """What a command with a `--cloud` inherits; it calls `check_engine` when it is created."""

    cloud_input: str | None = field(
        "a foreign engine's name of its input, where it is not the bundle's", default=None
    )
    cloud_output: str | None = field(
        "a foreign engine's output that answers: class names, class indices or scores",
        default=None,
    )
    cloud_reduce: Literal["argmax"] | None = field(
        "how to reduce that output when it holds scores", default=None
    )
    cloud_labels: Path | None = field(
        "file of the foreign engine's class names in its order, one a line", default=None
    )
    forward: Literal["original", "model_input"] = field(
        "send the input as it came, or as the bundle's graph takes it", default="original"
    )

    def check_engine(self, *, has_cloud: bool) -> None:
        """Refuse flags that nothing would read.

        Raises:
            SettingError: There are some.
        """
        given = [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(self, name)]
        if given and not has_cloud:
            raise SettingError(f"expected --cloud beside {given[0]}, got none: name the server")
        if self.cloud_output is None and (self.cloud_reduce or self.cloud_labels):
            raise SettingError(
                f"expected --cloud-output beside {given[-1]}, got none: name the output to read"
            )

    def engine_options(self) -> dict[str, Any]:
        """Return the flags as `Cascade.open` takes them.

        Raises:
            SettingError: The file of class names cannot be read.
        """
        options: dict[str, Any] = {
            name: getattr(self, name) for name in _FLAGS if getattr(self, name) is not None
        }
        if self.cloud_labels is not None:
            options["cloud_labels"] = _read_labels(self.cloud_labels)
        return {"forward": self.forward, **options}


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise SettingError(
            f"expected a file of class names at {file}, one a line ({reason}): check the path"
        ) from None
