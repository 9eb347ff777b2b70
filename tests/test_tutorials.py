"""The tutorials run as they stand, on small data."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tools.pages import blocks, run_page

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


def test_a_bundle_becomes_a_service_of_a_board(bundle, pictures, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundle, "bundle")
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(pictures[number]).save(tmp_path / "pictures" / f"{number}.png")
    run_page("tutorials/raspberry-pi.md", {})
    shown = capfd.readouterr().out
    assert "ok    bundle: " in shown
    assert len([line for line in shown.splitlines() if line[1:].startswith(".png ")]) == 3


def test_systemd_takes_the_service_of_a_board(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    (text,) = (b.text for b in blocks("tutorials/raspberry-pi.md") if b.language == "ini")
    unit = tmp_path / "gatekeeper.service"
    # The programs of the board are not on this machine.
    unit.write_text(text.replace("/home/pi/gatekeeper/bin/python", "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert str(unit) not in done.stderr
    assert done.returncode == 0, done.stderr
