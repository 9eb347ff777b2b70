"""Every input works or gets a line of its own with the reason."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tools.processes import heed_ctrl_c

from edge_runtime import Cascade, EdgeModel, InputError, Source
from edge_runtime.__main__ import COMMANDS
from edge_runtime.cli import main
from edge_runtime.commands.run import RunSettings
from edge_runtime.inputs.pictures import find_inputs, read_input
from export.commands.build import BuildSettings

GREY16 = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
GREY8 = [0, 0, 1, 1, 128, 255]  # 16-bit levels * 255 / 65535, rounded by hand


@pytest.fixture(scope="module")
def pixels_bundle(small_checkpoint, tmp_path_factory):
    """A bundle that takes pixel_values float32."""
    path = tmp_path_factory.mktemp("bundles") / "pixels"
    BuildSettings(checkpoint=small_checkpoint, out=path, threshold=0.0, preprocessing="none").run()
    return path


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def rgb(levels):
    return np.array([[(level,) * 3 for level in levels]], np.uint8)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 7, "png", (7, 7, 7)),
        ("LA", (7, 0), "png", (7, 7, 7)),
        ("RGB", (1, 2, 3), "png", (1, 2, 3)),
        ("RGBA", (1, 2, 3, 0), "png", (1, 2, 3)),
        ("P", 0, "png", (9, 8, 7)),
        ("1", 1, "png", (255, 255, 255)),
        ("CMYK", (0, 255, 0, 0), "tif", (255, 0, 255)),
        ("I;16", 32_768, "png", (128, 128, 128)),
        ("I;16", 32_768, "tif", (128, 128, 128)),
        ("L", 7, "gif", (7, 7, 7)),
        ("RGB", (1, 2, 3), "bmp", (1, 2, 3)),
        ("RGB", (1, 2, 3), "webp", (1, 2, 3)),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_every_kind_of_picture_becomes_rgb(mode, colour, suffix, expected, size, tmp_path):
    picture = Image.new(mode, size, colour)
    if mode == "P":
        picture.putpalette([9, 8, 7])
    options = {"lossless": True} if suffix == "webp" else {}
    pixels = read_input(saved(picture, tmp_path / f"a.{suffix}", **options))
    assert (pixels.shape, pixels.dtype) == ((size[1], size[0], 3), np.uint8)
    assert (pixels == expected).all()


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_is_scaled_and_not_clipped(dtype, tmp_path):
    picture = Image.fromarray(GREY16)
    if dtype == ">u2":
        raw = GREY16.astype(">u2").tobytes()
        picture = Image.frombytes("I;16B", (GREY16.shape[1], 1), raw)
    path = saved(picture, tmp_path / "a.tif")
    np.testing.assert_array_equal(read_input(path), rgb(GREY8))


def test_a_palette_with_transparency_is_no_warning(tmp_path):
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([9, 8, 7])
    path = saved(picture, tmp_path / "a.png", transparency=b"\x00")
    assert (read_input(path) == (9, 8, 7)).all()


@pytest.mark.parametrize(
    ("orientation", "expected"), [(1, [[1, 2]]), (3, [[2, 1]]), (6, [[1], [2]]), (8, [[2], [1]])]
)
def test_a_picture_is_rotated_by_its_exif(orientation, expected, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.array([[1, 2]], np.uint8))
    pixels = read_input(saved(picture, tmp_path / "a.png", exif=exif))
    assert pixels[..., 0].tolist() == expected


def too_large(path):
    # One bit a pixel: a small file of 400 million pixels, which decoded would be 1.2 GB.
    Image.new("1", (20_000, 20_000)).save(path, compression="group4")


def large(path):
    Image.new("1", (20_000, 5_000)).save(path, compression="group4")  # Pillow alone would warn


def cut_off(path):
    Image.effect_noise((64, 64), 90).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:900])


def saved_array(array, **options):
    def save(path):
        with path.open("wb") as file:
            np.save(file, array, **options)

    return save


def saved_archive(path):
    with path.open("wb") as file:
        np.savez(file, np.zeros(3))


BAD_FILES = {
    "nothing.png": (lambda _: None, "nothing is at"),
    "n" * 300: (lambda _: None, "File name too long"),
    "empty.png": (lambda p: p.write_bytes(b""), "cannot be decoded"),
    "text.txt": (lambda p: p.write_bytes(b"caf\xe9"), "a text in UTF-8"),
    "text.png": (lambda p: p.write_text("no picture"), "cannot be decoded"),
    "cut.png": (cut_off, "truncated"),
    "huge.tif": (too_large, "scale it down"),
    "large.tif": (large, "scale it down"),
    "float.tif": (lambda p: Image.new("F", (2, 2)).save(p), "mode F"),
    "integer.tif": (lambda p: Image.new("I", (2, 2)).save(p), "mode I"),
    "folder": (lambda p: p.mkdir(), "found none"),
    "folder.png": (lambda p: p.mkdir(), "found none"),
    "empty.npy": (lambda p: p.write_bytes(b""), "plain numeric array"),
    "text.npy": (lambda p: p.write_text("no array"), "plain numeric array"),
    "objects.npy": (saved_array(np.array([{}]), allow_pickle=True), "plain numeric array"),
    "archive.npy": (saved_archive, "got an archive"),
}


@pytest.mark.parametrize("name", BAD_FILES, ids=lambda name: name[:12])
def test_a_bad_file_is_refused_in_one_line(name, tmp_path):
    make, words = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(InputError) as refused:
        read_input(tmp_path / name)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json"])
def test_bad_files_do_not_affect_the_others(form, bundle, pictures, tmp_path, capsys):
    names = []
    for index, (name, (make, _)) in enumerate(BAD_FILES.items()):
        make(tmp_path / name)
        good = f"good-{index}.png"
        Image.fromarray(pictures[index]).save(tmp_path / good)
        names += [name, good]
    # Another dtype than the graph takes, and more channels.
    np.save(tmp_path / "float.npy", np.zeros((8, 8, 3)))
    np.save(tmp_path / "alpha.npy", np.zeros((8, 8, 4), np.uint8))
    names += ["float.npy", "alpha.npy"]
    line = ["run", "--bundle", str(bundle)]
    line += ["--json"] * (form == "json") + [str(tmp_path / n) for n in names]
    good, bad = len(BAD_FILES), len(BAD_FILES) + 2
    assert main("edge", COMMANDS, argv=line) == 1
    out, error = capsys.readouterr()
    assert error.count("\n") == 1
    assert f"{bad} of {good + bad} inputs got no answer" in error
    rows = out.splitlines()
    expected = EdgeModel.open(bundle)(pictures[:good]).prediction.tolist()
    if form == "json":
        found = [json.loads(row) for row in rows]
        assert [f["input"] for f in found] == [str(tmp_path / n) for n in names]
        assert [f["prediction"] for f in found if "prediction" in f] == expected
        assert sum("prediction" not in f and bool(f["error"]) for f in found) == bad
    else:
        assert len(rows) == good + bad + 1
        assert sum("  error  (expected " in row for row in rows) == bad
        assert rows[-1].endswith(f"error {bad}")


@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
        lambda a: a.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),
    ],
    ids=["fortran", "reversed", "strided", "transposed"],
)
def test_the_order_of_an_array_in_memory_does_not_matter(arrange, bundle, pictures):
    arranged = arrange(pictures)
    assert not arranged.flags.c_contiguous
    model = EdgeModel.open(bundle)
    for found, expected in zip(model(arranged), model(pictures), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": np.zeros((1, 8, 8, 3), np.uint8)},
        [np.zeros((8, 8, 3), np.uint8)],
        "a.png",
        None,
        np.zeros((1, 8, 8, 3), np.int16),
        np.zeros((1, 8, 8, 3), bool),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
    ],
    ids=lambda w: f"{type(w).__name__} {getattr(w, 'dtype', '')} {getattr(w, 'shape', '')}",
)
def test_a_batch_that_does_not_fit_is_refused(wrong, bundle):
    with pytest.raises(InputError, match=r"expected uint8 .* got "):
        EdgeModel.open(bundle)(wrong)


@pytest.mark.parametrize("wrong", [None, {"image": 1}, "a.png", b"a", [[[1, 2], [3]]], [None], 7])
def test_a_cascade_refuses_what_is_no_list_of_inputs(wrong, bundle):
    with pytest.raises(InputError, match="expected"):
        Cascade.open(bundle).batch(wrong)


def test_one_row_that_is_no_list_of_numbers_is_refused(bundle):
    with pytest.raises(InputError, match="expected"):
        Cascade.open(bundle)([[1, 2], [3]])


def test_pictures_of_different_sizes_go_one_by_one(bundle, pictures):
    cascade = Cascade.open(bundle, threshold=0.0)
    sizes = [(1, 1), (8, 8), (33, 7)]
    answers = [cascade(np.zeros((*size, 3), np.uint8)) for size in sizes]
    assert [a.source for a in answers] == [Source.EDGE] * 3
    with pytest.raises(InputError, match="batch by size"):
        cascade.batch([np.zeros((*size, 3), np.uint8) for size in sizes])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_input_with_nan_or_infinities_defers_with_the_reason(value, pixels_bundle):
    batch = np.zeros((3, 3, 8, 8), np.float32)
    batch[1, 2, 4, 4] = value
    gated = EdgeModel.open(pixels_bundle, threshold=float("-inf"))(batch)
    assert gated.defer.tolist() == [False, True, False]
    assert np.isnan(gated.confidence).tolist() == [False, True, False]
    assert gated.confidence.dtype == np.float32
    answers = Cascade.open(pixels_bundle).batch(batch)
    assert [a.source for a in answers] == [Source.EDGE, Source.EDGE_FALLBACK, Source.EDGE]
    assert "holds NaN or infinite values" in answers[1].error


def test_json_has_no_nan(pixels_bundle, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.full((3, 8, 8), np.nan, np.float32))
    RunSettings(bundle=pixels_bundle, inputs=(tmp_path / "a.npy",), json=True).run()
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["confidence"] is None
    assert found["deferred"]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_one_line(bundle, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    line = [sys.executable, "-m", "edge_runtime", "run", "--bundle", str(bundle)]
    process = subprocess.Popen(
        [*line, *[str(tmp_path / "a.png")] * 10_000],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - no threads run in the tests' own process
    )
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "python -m edge_runtime: interrupted\n")


def found(*paths):
    return [str(path) for path in find_inputs(paths)]


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_hidden_files_and_folders_are_no_inputs(tmp_path):
    fill(
        tmp_path, "a.png", "._a.png", "__MACOSX/._a.png", "b/@eaDir/a.png", ".git/a.txt", "b/c.txt"
    )
    assert found(tmp_path) == [str(tmp_path / "a.png"), str(tmp_path / "b" / "c.txt")]
    assert found(tmp_path / "._a.png", tmp_path / ".git") == [
        str(tmp_path / "._a.png"),
        str(tmp_path / ".git" / "a.txt"),
    ]


def test_links_to_folders_are_followed_once(tmp_path):
    fill(tmp_path, "disk/a.png", "run/b.png", "run/z/c.png")
    (tmp_path / "run" / "far").symlink_to(tmp_path / "disk")
    for loop, target in (("up", "run"), ("root", "/"), ("a", "run/z"), ("z/back", "run")):
        (tmp_path / "run" / loop).symlink_to(tmp_path / target)
    names = ("b.png", "far/a.png", "z/c.png")
    assert found(tmp_path / "run") == [str(tmp_path / "run" / name) for name in names]


def test_links_that_double_at_each_level_end(tmp_path):
    for level in range(40):
        (tmp_path / str(level)).mkdir()
        for name in "ab":
            (tmp_path / str(level) / name).symlink_to(tmp_path / str(level + 1))
    fill(tmp_path, "40/a.png")
    # The system itself refuses a path through 40 links or more.
    assert found(tmp_path / "10") == [str(tmp_path / "10" / "/".join("a" * 30) / "a.png")]
    assert len(found(tmp_path)) == 1


@pytest.mark.parametrize("suffix", [".png", ".txt", ".npy"])
def test_a_pipe_is_refused_and_not_waited_for(suffix, bundle, tmp_path, capsys):
    os.mkfifo(tmp_path / f"a{suffix}")
    (tmp_path / f"b{suffix}").symlink_to(tmp_path / "gone")
    assert main("edge", COMMANDS, argv=["run", "--bundle", str(bundle), str(tmp_path)]) == 1
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[:2]] == [
        str(tmp_path / f"a{suffix}"),
        str(tmp_path / f"b{suffix}"),
    ]
