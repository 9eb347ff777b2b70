"""The folders are the architecture: imports run one way, and the device stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("edge_runtime", "train", "export", "cloud_stub", "benchmarks")
ALLOWED = {
    "edge_runtime": {"edge_runtime"},
    "train": {"edge_runtime", "train"},
    "export": {"edge_runtime", "export", "train.models", "train.data"},
    "cloud_stub": {"edge_runtime", "cloud_stub", "train.models", "train.data"},
    "benchmarks": {"edge_runtime", "train", "export", "cloud_stub", "benchmarks"},
}
HEAVY = {"torch", "transformers", "onnx", "scipy"}


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_allowed(name, package):
    if name.split(".")[0] not in PACKAGES or name == "train":
        return True  # `from train import data` is seen as train.data as well
    return any(name == a or name.startswith(f"{a}.") for a in ALLOWED[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported_names(path)
        if not is_allowed(name, package)
    ]
    assert wrong == []


def test_the_edge_runtime_imports_nothing_heavy():
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "edge_runtime").rglob("*.py")
        for name in imported_names(path)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import edge_runtime", {"numpy", "onnxruntime", "grpc"}),
        ("import edge_runtime.metrics", {"onnxruntime", "grpc", "google.protobuf"} | HEAVY),
        ("import edge_runtime; edge_runtime.Cascade", HEAVY),
        ("import edge_runtime; edge_runtime.CloudModel", HEAVY),
        ("import benchmarks.__main__", HEAVY),
        ("import benchmarks.language.speed.latency", HEAVY),
        ("import benchmarks.language.speed.answer_loop", {"numpy", "onnxruntime", "grpc"}),
        ("import train.data", {"torch"}),
        ("import train.data.tasks", {"torch", "datasets"}),
    ],
)
def test_an_import_does_not_load_more_than_it_needs(statement, absent):
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert absent & set(done.stdout.split()) == set()
