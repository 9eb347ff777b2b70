"""The tutorials run as they stand, on small data."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tools.pages import run_page

pytestmark = pytest.mark.slow


def write_photographs(folder, count=24):
    """Write noisy pictures of mixed sizes, each with one shape, in a folder per shape."""
    draws = np.random.default_rng(0)
    for shape in ("cat", "dog", "nothing"):
        (folder / shape).mkdir(parents=True)
        for number in range(1, count + 1):
            width, height = (int(side) for side in draws.integers(40, 60, 2))
            noise = draws.integers(0, 120, (height, width, 3), np.uint8)
            picture = Image.fromarray(noise)
            x, y = (int(place) for place in draws.integers(4, 14, 2))
            pen, box = ImageDraw.Draw(picture), (x, y, x + 24, y + 24)
            colour = tuple(int(level) for level in draws.integers(150, 255, 3))
            if shape != "nothing":
                (pen.ellipse if shape == "cat" else pen.rectangle)(box, fill=colour)
            picture.save(folder / shape / f"IMG_{number:04}.jpg")


def test_photographs_become_a_cascade(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path / "photographs")
    few = {"--image-size 64": "--image-size 32 --epochs 4", "--epochs 20": "--epochs 4"}
    run_page("tutorials/photographs.md", {**few, "--out tuned": "--epochs 2 --out tuned"})
    shown = capfd.readouterr().out
    assert "small-cnn at 32 x 32 pixels" in shown
    assert "photographs/cat/IMG_0001.jpg" in shown
