"""The console script `gatekeeper`: every command of every package behind one name.

`gatekeeper fit ...` does the same as `python -m train fit ...`. The packages are imported by name
at run time, one per call: this package may not depend on the others, nor on their libraries. The
list of commands is therefore data, which a test compares with the packages' own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from edge_runtime.cli.help import drop_output, show
from edge_runtime.cli.line import (
    BAD_USAGE,
    CLOSED_PIPE,
    accept_any_text,
    fail,
    missing_library,
    open_closed_streams,
    prefer_own,
    run_command,
    unknown_word,
)
from edge_runtime.cli.line import main as run_line
from edge_runtime.environment import versions

PROGRAM = "gatekeeper"


class Target(NamedTuple):
    """A command of a package.

    Attributes:
        package: Name of the package.
        command: Name of the command there.
        does: What it does, in a few words.
    """

    package: str
    command: str
    does: str


COMMANDS = {
    "fit": Target("train", "fit", "fit a classifier of pictures or texts"),
    "distill": Target("train", "distill", "fit a classifier to the answers of a larger one"),
    "tune": Target("train", "tune", "teach a classifier when to defer (Gatekeeper)"),
    "deferral-head": Target("train", "deferral-head", "fit a head that predicts errors"),
    "sweep": Target("train", "sweep", "compare settings and rivals over several seeds"),
    "recommend": Target("train", "recommend", "name the setting of a sweep to ship"),
    "evaluate": Target("train", "evaluate", "measure a classifier, alone and in a cascade"),
    "convert": Target("train", "convert", "make a checkpoint of published weights"),
    "harvest": Target("train", "harvest", "make training data of what a device deferred"),
    "tasks": Target("train", "tasks", "list the tasks for language models"),
    "new-lm": Target("train", "new-lm", "make a language model with random weights"),
    "convert-lm": Target("train", "convert-lm", "make a language model of published weights"),
    "fit-lm": Target("train", "fit-lm", "fit a language model to a task"),
    "tune-lm": Target("train", "tune-lm", "teach a language model when to defer"),
    "evaluate-lm": Target("train", "evaluate-lm", "measure a language model on a task"),
    "export": Target("export", "build", "turn a classifier into a bundle for devices"),
    "export-lm": Target("export", "lm", "turn a language model into a bundle"),
    "retune": Target("export", "retune", "choose another threshold for a bundle"),
    "inspect": Target("export", "inspect", "say in words what a bundle is"),
    "verify": Target("export", "verify", "compare a bundle with the model it was made of"),
    "run": Target("edge_runtime", "run", "answer inputs with a bundle, and with a cloud"),
    "generate": Target("edge_runtime", "generate", "answer prompts with a bundle"),
    "doctor": Target("edge_runtime", "doctor", "check an installation, a bundle and a cloud"),
    "completion": Target("edge_runtime", "completion", "complete commands in your shell"),
    "serve": Target("cloud_stub", "serve", "serve the large model to devices"),
    "deploy": Target("cloud_stub", "deploy", "write the files for Triton or KServe"),
    "demo": Target("benchmarks", "demo", "run the whole chain on built-in data"),
    "latency": Target("benchmarks", "latency", "measure how fast a bundle answers here"),
    "report": Target("benchmarks", "report", "write the report of stored results"),
    "check": Target("benchmarks", "check", "recompute every figure of stored results"),
}
"""The commands by the names under which the script knows them."""
PACKAGES = {
    "train": "train the small and the large model, and teach M_S when to defer (Gatekeeper)",
    "export": "export a model with its gate to an ONNX bundle; choose or verify its threshold",
    "edge-runtime": "run a bundle on the device; check an installation",
    "cloud-stub": "serve the large model to devices over gRPC",
    "benchmarks": "run the demo; measure latency, accuracy and cost of a cascade",
}
"""The packages as the user names them, with what their commands are for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gatekeeper COMMAND ...`, from the process by default; return its status."""
    open_closed_streams()
    accept_any_text()
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in {"-h", "--help", "help", "--version"}:
        try:
            show(versions() if words[0] == "--version" else _overview())
        except BrokenPipeError:
            drop_output()
            return CLOSED_PIPE
        return 0
    first, rest = (words[0].replace("_", "-"), words[1:]) if words else ("", [])
    if first in PACKAGES:  # before the commands: `export inspect` is a line of a package
        return _run(f"{PROGRAM} {first}", first.replace("-", "_"), None, rest)
    if first in COMMANDS:
        return _run(f"{PROGRAM} {first}", COMMANDS[first].package, COMMANDS[first].command, rest)
    return fail(PROGRAM, unknown_word("a command", [*COMMANDS, *PACKAGES], words), BAD_USAGE)


def _run(program: str, package: str, command: str | None, words: list[str]) -> int:
    # Results record the command line from here, in the form of `python -m PACKAGE`.
    sys.argv = [program, *([] if command is None else [command]), *words]
    prefer_own(package)
    try:
        module = importlib.import_module(f"{package}.__main__")
    except ModuleNotFoundError as error:
        return fail(program, missing_library(error, package))
    if command is not None:
        return run_command(program, program, module.COMMANDS[command], words)
    return run_line(program, module.COMMANDS, default=module.DEFAULT, argv=words)


def _overview() -> str:
    names = {"train": "train", "export": "export", "edge_runtime": "use", "cloud_stub": "serve"}
    width = max(map(len, COMMANDS))
    lines = [f"usage: {PROGRAM} COMMAND [FLAGS]"]
    package = ""
    for name, target in COMMANDS.items():
        if target.package != package:
            package = target.package
            lines += ["", f"{names.get(package, 'measure')}:"]
        lines.append(f"  {name:{width}}  {target.does}")
    return "\n".join(
        [
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` has the flags of a command and an example,",
            f"`{PROGRAM} benchmarks --help` the measurements behind the documentation.",
        ]
    )
