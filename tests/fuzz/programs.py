"""Fuzzes the admission of programs: python tests/fuzz/programs.py FILE.pt2 -runs=500000.

Bytes of the JSON of a small program that `torch.export.save` wrote are changed. Needs atheris,
which is no dependency; run it from the repository's root with both on the path.
"""

import contextlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["export.sources", "edge_runtime.reading"]):
    from edge_runtime.reading import parse_json
    from export.errors import GraphError
    from export.sources.program_schema import admit
from torch._export.serde import schema


def read(content: bytes) -> None:
    try:
        value = parse_json(content.decode(), depth=100)
    except ValueError:
        return
    with contextlib.suppress(GraphError):
        admit(schema.ExportedProgram, value)


def main() -> None:
    with zipfile.ZipFile(sys.argv.pop(1)) as archive, tempfile.TemporaryDirectory() as corpus:
        (name,) = (n for n in archive.namelist() if n.endswith("models/model.json"))
        program = json.loads(archive.read(name))
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {}
        Path(corpus, "program").write_text(json.dumps(program))
        atheris.Setup([*sys.argv, "-max_len=32768", corpus], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
