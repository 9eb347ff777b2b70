"""Runs a page of the documentation: its commands, programs and files, from top to bottom.

- `sh` blocks run line by line. `gatekeeper ...` runs in this process, a line that ends in `&` is a
  server that runs until the end of the page, any other line goes to bash.
- `python` blocks run in one namespace.
- A block whose fence names a file after the language (`python camera.py`) is written to it.
- Blocks in other languages, `console` and `text` among them, are shown and not run.
"""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tools.processes import ROOT

from benchmarks.processes import running_server
from edge_runtime.cli.gatekeeper import main

_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PORT = re.compile(r"\b8\d{3}\b(?=[/\s\"',)]|$)")


class Block(NamedTuple):
    language: str
    file: str | None
    text: str


def blocks(page):
    """Return the blocks of a page of `docs`."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [Block(language, file or None, body) for language, file, body in _BLOCK.findall(text)]


def run_page(page, places):
    """Run a page in the current folder, with some of its texts replaced by others.

    Args:
        page: Path of the page in `docs`.
        places: Text of the page -> what stands in its place, e.g. fewer epochs. Each must occur.
    """
    found = blocks(page)
    whole = "".join(block.text for block in found)
    for old in places:
        assert old in whole, f"{page} does not say {old!r}"
    places = {**places, **_free_ports(whole)}
    namespace = {"__name__": "page"}
    with contextlib.ExitStack() as servers:
        for block in found:
            text = _replaced(block.text, places)
            if block.file is not None:
                Path(block.file).write_text(text, encoding="utf-8")
            elif block.language == "sh":
                for line in text.replace("\\\n", "").splitlines():
                    _run(line, servers)
            elif block.language == "python":
                exec(text, namespace)  # noqa: S102 - it is our own page


def _free_ports(text):
    """Return port of the page -> one that is free here."""
    with contextlib.ExitStack() as held:
        ports = {}
        for port in sorted(set(_PORT.findall(text))):
            one = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports[port] = str(one.getsockname()[1])
        return ports


def _run(line, servers):
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[-1] == "&":
        assert words[:2] == ["gatekeeper", "serve"], line
        servers.enter_context(running_server(["cloud_stub", *words[2:-1]]))
    elif words[0] == "gatekeeper" and not set("|<>;") & set(line):
        kept, sys.argv = sys.argv, [*sys.argv]
        try:
            assert main(words[1:]) == 0, line
        finally:
            sys.argv = kept
    else:
        _shell(line)


def _shell(line):
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    print(done.stdout, end="")


def _replaced(text, places):
    for old, new in places.items():
        text = text.replace(old, new)
    return text
