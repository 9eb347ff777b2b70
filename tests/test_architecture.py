"""The folders are the architecture: imports run one way, and the device stays light."""

import ast
import graphlib
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


def modules():
    """Return the name of every module of the packages -> its file."""
    files = {
        path.relative_to(ROOT): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "results" not in path.parts
    }
    return {
        ".".join(p.parent.parts if p.stem == "__init__" else p.with_suffix("").parts): path
        for p, path in files.items()
    }


def dependencies(tree, known):
    """Yield the modules that a file imports, in functions too, but not for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from {name if name in known else node.module} & known
        else:
            yield from dependencies(node, known)


def graph():
    found = modules()
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in found.items()}
    return {name: {*dependencies(tree, set(found))} - {name} for name, tree in trees.items()}


def test_no_files_import_one_another_in_a_ring():
    graphlib.TopologicalSorter(graph()).prepare()  # raises CycleError with the ring


def test_wings_do_not_import_each_other():
    wings = {"classifier": "language", "language": "classifier"}
    wrong = [
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target in targets
        if name.split(".")[0] == target.split(".")[0] != "benchmarks"
        and wings.get([*name.split("."), ""][1]) == [*target.split("."), ""][1]
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
