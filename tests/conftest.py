"""Tiny models, bundles and golden cases that several packages' tests share."""

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path

# Set before numpy and torch are imported: on models this small, threads wait for each other longer
# than they work, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from tools.made import write_bundle, write_large, write_small

import edge_runtime  # noqa: F401 - switches off what libraries report, before a test imports one

ROOT = Path(__file__).parent.parent
HAS_TORCH = importlib.util.find_spec("torch") is not None
DATA = ROOT / "tests" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Let torch.onnx read its library of translations once a process, not once an export.

    That reading takes longer than the export of a tiny model.
    """
    module = sys.modules.get("torch.onnx._internal.exporter._registration")
    if module and not hasattr(module.ONNXRegistry.from_torchlib, "cache_info"):
        kept = functools.cache(module.ONNXRegistry.from_torchlib)
        module.ONNXRegistry.from_torchlib = staticmethod(kept)
    return (yield from skipping_without_torch())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    return (yield from skipping_without_torch())


def skipping_without_torch():
    """Skip what needs torch, or another tool of the first environment, in one without them."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if HAS_TORCH or error.name not in {"torch", "transformers", "grpc_tools"}:
            raise
        pytest.skip(f"needs {error.name}")


def pytest_collection_modifyitems(config, items):
    """In several processes, start with the files of slow tests: quick ones fill the end evenly."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def golden():
    """Return kind -> golden cases; a missing file fails, it is never skipped."""
    cases = json.loads((DATA / "cases.json").read_text(encoding="utf-8"))["cases"]
    return {kind: [c for c in cases if c["kind"] == kind] for kind in {c["kind"] for c in cases}}


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """Return the folder of an untrained SmallCNN for 8x8 pictures of ten classes."""
    return write_small(tmp_path_factory.mktemp("checkpoints") / "small")


@pytest.fixture(scope="session")
def large_checkpoint(tmp_path_factory):
    """Return the folder of an untrained ResNet-20 for the same pictures."""
    return write_large(tmp_path_factory.mktemp("checkpoints") / "large")


@pytest.fixture(scope="session")
def bundle(request, tmp_path_factory):
    """Return a bundle of the SmallCNN, calibrated on digits to defer 30 %."""
    if not HAS_TORCH and "GATEKEEPER_MADE" in os.environ:
        return Path(os.environ["GATEKEEPER_MADE"]) / "small"
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(request.getfixturevalue("small_checkpoint"), path)
    return path


@pytest.fixture(scope="session")
def pictures():
    """Return forty test digits, uint8 [40, 8, 8, 3]."""
    from train import data

    return data.load("digits", limit=40).test.array()


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Return the folder of a data set of texts in four classes."""
    from tools.texts import write_texts

    return write_texts(tmp_path_factory.mktemp("texts") / "data")


@pytest.fixture(scope="session")
def text_models(texts, tmp_path_factory):
    """Return the folders of (M_S, M_L): text classifiers, the second fitted for longer."""
    from tools.texts import write_classifier

    from train.classifier.settings import FitSettings

    folder = tmp_path_factory.mktemp("text-models")
    for name, epochs in (("small", 2), ("large", 8)):
        start = write_classifier(folder / f"{name}-start", scale=1.0)
        out = folder / name
        FitSettings(
            model=str(start), data=str(texts), out=out, epochs=epochs, learning_rate=3e-3
        ).run()
    return folder / "small", folder / "large"


@pytest.fixture
def generator():
    """Return a seeded source of random numbers."""
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def real_data():
    """The folder of published data sets and weights, which is no part of the repository."""
    folder = Path(os.environ.get("GATEKEEPER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets and weights at {folder}: set GATEKEEPER_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return (M_S, M_L): of one kind, M_L fitted on seven times as many digits."""
    from train.classifier.settings import FitSettings

    folder = tmp_path_factory.mktemp("models")
    for name, data in (("small", "digits"), ("large", "digits-more")):
        FitSettings(data=data, out=folder / name, epochs=12, patience=12, learning_rate=3e-3).run()
    return folder / "small", folder / "large"
