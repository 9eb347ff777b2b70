"""The console script `gatekeeper`: every command of every package behind one name.

`gatekeeper train fit ...` does the same as `python -m train fit ...`. The packages are imported by
name at run time, one per call: this package may not depend on the others, nor on their libraries.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from edge_runtime.cli.help import drop_output, show
from edge_runtime.cli.line import (
    BAD_USAGE,
    CLOSED_PIPE,
    accept_any_text,
    fail,
    missing_library,
    open_closed_streams,
    unknown_word,
)
from edge_runtime.cli.line import main as run_line

PACKAGES = {
    "train": "train the small and the large model, and teach M_S when to defer (Gatekeeper)",
    "export": "export a model with its gate to an ONNX bundle; choose or verify its threshold",
    "edge-runtime": "run a bundle on the device; check an installation",
    "cloud-stub": "serve the large model to devices over gRPC",
    "benchmarks": "run the demo; measure latency, accuracy and cost of a cascade",
}
"""The packages as the user names them, with what their commands are for."""
_PROGRAM = "gatekeeper"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gatekeeper PACKAGE COMMAND ...`, from the process by default; return its status."""
    open_closed_streams()
    accept_any_text()
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in {"-h", "--help", "help"}:
        try:
            show(_overview())
        except BrokenPipeError:
            drop_output()
            return CLOSED_PIPE
        return 0
    package = words[0].replace("_", "-") if words else ""
    if package not in PACKAGES:
        error = unknown_word("a package", PACKAGES, words)
        return fail(_PROGRAM, error, BAD_USAGE)
    # Results record the command line from here, in the form of `python -m PACKAGE`.
    sys.argv = [f"{_PROGRAM} {package}", *words[1:]]
    return _run(package, words[1:])


def _run(package: str, words: list[str]) -> int:
    module = package.replace("-", "_")
    try:
        commands = importlib.import_module(f"{module}.__main__")
    except ModuleNotFoundError as error:
        return fail(f"{_PROGRAM} {package}", missing_library(error, module))
    return run_line(
        f"{_PROGRAM} {package}", commands.COMMANDS, default=commands.DEFAULT, argv=words
    )


def _overview() -> str:
    width = max(map(len, PACKAGES))
    lines = [f"usage: {_PROGRAM} PACKAGE COMMAND [FLAGS]", "", "packages:"]
    lines += [f"  {name:{width}}  {text}" for name, text in PACKAGES.items()]
    return "\n".join(
        [*lines, "", f"Run `{_PROGRAM} PACKAGE --help` for the commands of a package."]
    )
