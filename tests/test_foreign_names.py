"""Names that are not UTF-8, and accents in either form, go from the data to the device's output."""

import io
import os
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from edge_runtime.bundle import read_bundle
from edge_runtime.cli import main
from edge_runtime.commands.run import RunSettings
from export.__main__ import COMMANDS, DEFAULT
from export.commands.build import BuildSettings
from export.data import was_chosen_on
from train.classifier.settings import FitSettings

pytestmark = pytest.mark.slow
CLASSES = ("café", "zoo")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A data set with odd names of its own place, of classes and of pictures."""
    folder = tmp_path_factory.mktemp("odd") / os.fsdecode(b"d\xfe")
    draws = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        place = folder / unicodedata.normalize("NFD", name)
        place.mkdir(parents=True)
        for i in range(200):
            pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8) // 2 + 100 * number
            Image.fromarray(pixels.astype(np.uint8)).save(place / os.fsdecode(b"%d\xff.png" % i))
    return folder


@pytest.fixture(scope="module")
def chain(pictures, tmp_path_factory):
    """Return (checkpoint, bundle) of these data."""
    folder = tmp_path_factory.mktemp("chain")
    FitSettings(data=str(pictures), out=folder / "fit", epochs=1).run()
    goal = {"calibrate": str(pictures), "target_deferral": 0.3}
    BuildSettings(checkpoint=folder / "fit", out=folder / "bundle", **goal).run()
    return folder / "fit", folder / "bundle"


def said(monkeypatch, commands, words, default=None):
    """Return what a command prints on a terminal that knows ASCII alone, after it succeeded."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main("program", commands, default=default, argv=[str(word) for word in words]) == 0
    out.flush()
    return out.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_run_answers_every_picture(form, pictures, chain, monkeypatch):
    places = sorted((pictures / "zoo").iterdir())[:3]
    words = ["run", "--bundle", chain[1], *places, *form]
    lines = said(monkeypatch, {"run": RunSettings}, words).splitlines()
    assert len([line for line in lines if "zoo" in line]) == 3
    assert all(r"d\xfe" in line.replace(r"\\", "\\") for line in lines[:3])


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_inspect_shows_names_and_data(form, chain, monkeypatch):
    text = said(monkeypatch, COMMANDS, ["inspect", "--bundle", chain[1], *form], DEFAULT)
    assert (r"caf\u00e9" if form else r"caf\xe9") in text
    assert r"d\xfe" in text.replace(r"\\", "\\")
    assert read_bundle(chain[1]).metadata.labels == CLASSES


def test_data_are_known_again_by_their_odd_name(pictures, chain):
    extra = read_bundle(chain[1]).metadata.extra
    assert was_chosen_on(extra, str(pictures), "validation")
    assert not was_chosen_on(extra, str(pictures.parent / "d"), "validation")
