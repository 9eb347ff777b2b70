"""The examples with their npm packages, 200 digits, and Python's answers to them."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from edge_runtime.edge_model import EdgeModel

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
SAMPLES = 200
OLDEST_NODE = 20
OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


def cache_folder():
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gatekeeper-edge"


def node_version():
    """Return the major version; 0 without Node.js."""
    if shutil.which("node") is None:
        return 0
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.lstrip("v").split(".")[0])


def installed(package):
    """Return the node_modules of a package's lock file, installed once and kept in the cache."""
    if shutil.which("npm") is None or node_version() < OLDEST_NODE:
        pytest.skip(
            f"the bindings' tests need node and npm: install Node.js {OLDEST_NODE} or newer"
        )
    lock = package / "package-lock.json"
    done = cache_folder() / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if done.is_dir():
        return done / "node_modules"
    done.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=done.parent, prefix="installing-") as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        for file in (package / "package.json", lock):
            shutil.copy(file, fresh)
        # onnxruntime-node's install script only fetches CUDA, from another host than the registry.
        line = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        run = subprocess.run(line, cwd=fresh, capture_output=True, text=True, check=False)
        if any(code in run.stderr for code in OFFLINE):
            pytest.skip("the bindings' tests need the npm registry once: connect, and run again")
        assert run.returncode == 0, run.stderr
        keep(fresh, done)
    return done / "node_modules"


def keep(fresh, done):
    try:
        fresh.rename(done)
    except OSError:  # another session was faster
        assert done.is_dir()


def run_module(source, folder, **env):
    """Run JavaScript with the packages of a folder; return its output."""
    line = ["node", "--input-type=module", "--eval", source]
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def unpacked_chromium(packages):
    """Return the folder of the package's unpacked browser; unpack it once, whole or not at all."""
    done = packages.parent / "chromium"
    if not done.is_dir():
        with tempfile.TemporaryDirectory(dir=packages.parent, prefix="unpacking-") as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            unpack = 'import it from "@sparticuz/chromium"; await it.executablePath();'
            run_module(unpack, packages.parent, TMPDIR=str(fresh))
            keep(fresh, done)
    return done


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """Copy the examples, so that their packages stay out of the working tree."""
    folder = tmp_path_factory.mktemp("bindings") / "examples"
    skip = shutil.ignore_patterns("node_modules")
    shutil.copytree(ROOT / "examples", folder, ignore=skip)
    for name in ("node", "web"):
        (folder / name / "node_modules").symlink_to(installed(ROOT / "examples" / name))
    return folder


class Samples(NamedTuple):
    pictures: np.ndarray
    files: list


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    from train import data

    folder = tmp_path_factory.mktemp("samples")
    pictures = data.load("digits", limit=SAMPLES).test.array()
    files = [folder / f"{row:03}.png" for row in range(SAMPLES)]
    for picture, file in zip(pictures, files, strict=True):
        Image.fromarray(picture).save(file)
    return Samples(pictures, files)


def exported(checkpoint, out, **settings):
    from export.commands.build import BuildSettings

    BuildSettings(
        checkpoint=checkpoint, out=out, calibrate="digits", target_deferral=0.3, **settings
    ).run()
    return out


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """Return the checkpoint of a fitted SmallCNN: an untrained one predicts a single class."""
    from train.classifier.settings import FitSettings

    out = tmp_path_factory.mktemp("fitted") / "checkpoint"
    FitSettings(out=out, epochs=4, learning_rate=3e-3).run()
    return out


@pytest.fixture(scope="session")
def trained_bundle(fitted):
    return exported(fitted, fitted.parent / "bundle")


@pytest.fixture(scope="session")
def second_look_bundle(fitted):
    """Return a bundle whose graph has a branch, and therefore another graph inside."""
    return exported(fitted, fitted.parent / "second-look", second_look="mirror")


@pytest.fixture(scope="session")
def python_answers(trained_bundle, samples):
    """Return a function of the threshold: the answers of ONNX Runtime's Python binding."""

    def ask(threshold=None):
        return EdgeModel.open(trained_bundle, threshold=threshold, threads=1)(samples.pictures)

    return ask


@pytest.fixture(scope="session")
def other_threshold(python_answers):
    """Return a threshold between two confidences that defers about 70 %, exact in float32."""
    ordered = np.sort(python_answers().confidence.astype(float))
    at = int(0.7 * SAMPLES)
    # Half-way between two float32 it would depend on the sixteenth digit, which a browser rounds.
    return float(np.float32(ordered[at - 1 : at + 1].mean()))


@pytest.fixture(scope="session")
def javascript(examples):
    """Return a function that runs a module in an example's folder: (name, source) -> output."""
    return lambda name, source: run_module(source, examples / name)


@pytest.fixture
def damaged(trained_bundle, tmp_path):
    """Return a function that copies the bundle and changes `bundle.json` or the graph."""

    def damage(change=lambda record: None, *, graph=None):
        folder = shutil.copytree(trained_bundle, tmp_path / "damaged")
        record = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        change(record)
        (folder / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
        if graph is not None:
            (folder / "model.onnx").write_bytes(graph((folder / "model.onnx").read_bytes()))
        return folder

    return damage


@pytest.fixture(scope="session")
def browse(examples, tmp_path_factory):
    """Return a function that uses a page in headless Chromium: (url, steps) -> what was seen."""
    packages = installed(HERE)
    chromium = unpacked_chromium(packages)
    driver = examples.parent / "browser"
    driver.mkdir()
    (driver / "node_modules").symlink_to(packages)
    shutil.copy(HERE / "browse.mjs", driver)

    errors = tmp_path_factory.mktemp("browser") / "stderr"

    def use(url, steps=(), **options):
        spec = json.dumps({"url": url, "steps": list(steps), **options}, default=str)
        with contextlib.suppress(BrokenPipeError):
            browser.stdin.write(f"{spec}\n")
            browser.stdin.flush()
        line, text = browser.stdout.readline(), errors.read_text(encoding="utf-8")
        if "error while loading shared libraries" in text:
            pytest.skip(f"Chromium needs system libraries (apt-get install libnss3): {text}")
        assert line, text
        result = json.loads(line)
        assert "failed" not in result, result
        return result

    with (
        errors.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            ["node", driver / "browse.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=os.environ | {"TMPDIR": str(chromium)},  # where the package looks for it
        ) as browser,
    ):
        yield use
