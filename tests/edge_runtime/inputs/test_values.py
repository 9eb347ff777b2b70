"""Every form in which people have an input gives the same answer, or one line that says why not."""

import array
import asyncio
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from edge_runtime import AsyncCascade, Cascade, InputError, SettingError
from edge_runtime.inputs.pictures import decode_picture, picture_pixels
from edge_runtime.inputs.values import Wanted, arrange, from_foreign, is_foreign, read_value

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
GREY = PIXELS[..., 0]
FILE = "digit.png"


def encoded(form="PNG"):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form)
    return file


class OnlyDlpack:
    """An array of a library that numpy knows nothing of."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __dlpack__(self, **_):
        return self.pixels.__dlpack__()

    def __dlpack_device__(self):
        return self.pixels.__dlpack_device__()


class Mapped:
    """An open file that cannot be searched, as one of an upload."""

    def __init__(self, data):
        self.data = data

    def read(self, size=-1):
        return self.data[:size]


def read_only(pixels):
    pixels = pixels.copy()
    pixels.flags.writeable = False
    return pixels


PICTURE_FORMS = {
    "array": lambda _: PIXELS,
    "fortran order": lambda _: np.asfortranarray(PIXELS),
    "negative strides": lambda _: np.ascontiguousarray(PIXELS[:, ::-1])[:, ::-1],
    "a view of every second column": lambda _: np.repeat(PIXELS, 2, axis=1)[:, ::2],
    "read-only": lambda _: read_only(PIXELS),
    "name": lambda folder: str(folder / FILE),
    "Path": lambda folder: folder / FILE,
    "Path of an array": lambda folder: folder / "digit.npy",
    "name of an array": lambda folder: str(folder / "digit.npy"),
    "bytes": lambda _: encoded().getvalue(),
    "bytearray": lambda _: bytearray(encoded().getvalue()),
    "memoryview": lambda _: memoryview(encoded().getvalue()),
    "memoryview of numbers": lambda _: memoryview(PIXELS),
    "BytesIO": lambda _: encoded(),  # at its end, where Pillow left it
    "open file": lambda folder: (folder / FILE).open("rb"),
    "upload": lambda _: Mapped(encoded().getvalue()),
    "BMP": lambda _: encoded("BMP").getvalue(),
    "Pillow": lambda _: Image.fromarray(PIXELS),
    "Pillow's file": lambda folder: Image.open(folder / FILE),
    "Pillow with alpha": lambda _: Image.fromarray(PIXELS).convert("RGBA"),
    "list": lambda _: PIXELS.tolist(),
    "tuples": lambda _: tuple(tuple(tuple(p) for p in row) for row in PIXELS.tolist()),
    "JSON": lambda _: json.loads(json.dumps(PIXELS.tolist())),
    "list of arrays": lambda _: list(PIXELS),
    "tensor": lambda _: torch.from_numpy(PIXELS),
    "permuted tensor": lambda _: torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()).permute(
        1, 2, 0
    ),
    "DLPack": lambda _: OnlyDlpack(PIXELS.copy()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs")
    Image.fromarray(PIXELS).save(path / FILE)
    np.save(path / "digit.npy", PIXELS)
    (path / "text.txt").write_text("a text")
    return path


@pytest.fixture(scope="module")
def cascade(bundle):
    with Cascade.open(bundle, warm_up=False) as cascade:
        yield cascade


def same(answer, other):
    return answer.prediction == other.prediction and answer.confidence == other.confidence


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("form", PICTURE_FORMS)
def test_every_form_of_a_picture_gives_the_same_answer(cascade, folder, form):
    expected = cascade(PIXELS)
    make = PICTURE_FORMS[form]
    assert same(cascade(make(folder)), expected)
    assert all(same(one, expected) for one in cascade.batch([PIXELS, make(folder)]))
    assert same(cascade.submit(make(folder)).result(), expected)


@pytest.mark.parametrize(
    "grey", [GREY, GREY[..., None], Image.fromarray(GREY), GREY.tolist(), torch.from_numpy(GREY)]
)
def test_a_grey_picture_gets_three_channels(cascade, grey):
    assert same(cascade(grey), cascade(np.repeat(GREY[..., None], 3, axis=-1)))


def test_grey_pictures_in_a_batch_get_three_channels(cascade):
    answers = cascade.batch(np.stack([GREY, GREY]))
    assert all(same(one, cascade(GREY)) for one in answers)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"]


@pytest.mark.parametrize("mode", [*MODES, "HSV", "I;16"])
def test_pillows_pictures_of_every_mode_become_rgb(mode):
    if mode == "I;16":
        picture = Image.fromarray(GREY.astype(np.uint16) * 257)
    elif mode == "LAB":
        picture = Image.frombytes("LAB", (8, 8), PIXELS.tobytes())
    elif mode in {"PA", "RGBa"}:
        picture = Image.fromarray(PIXELS).convert(mode.upper()[:-1] if mode == "PA" else "RGBA")
        picture = picture.convert(mode)
    else:
        picture = Image.fromarray(PIXELS).convert(mode)
    pixels = picture_pixels(picture, "it")
    assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
    if mode == "I;16":
        assert (pixels == GREY[..., None]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "1", "YCbCr"])
def test_pillows_pictures_become_what_their_files_become(mode, tmp_path):
    picture = (
        Image.fromarray(PIXELS).convert(mode)
        if mode != "I;16"
        else Image.fromarray(GREY.astype(np.uint16) * 200)
    )
    picture.save(tmp_path / "a.tif")
    expected = decode_picture(tmp_path / "a.tif", "it")
    np.testing.assert_array_equal(picture_pixels(picture, "it"), expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pillows_wide_pictures_are_refused_as_their_files_are(cascade, mode):
    with pytest.raises(InputError, match=f"16-bit grey in Pillow's picture, got .* mode {mode}"):
        cascade(Image.new(mode, (8, 8), 300))


def test_pillows_picture_is_turned_by_its_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(PIXELS[:4]).save(file, "PNG", exif=exif)
    turned = picture_pixels(Image.open(file), "it")
    np.testing.assert_array_equal(turned, np.rot90(PIXELS[:4], -1))


def unread():
    yield PIXELS


class Broken:
    def __array__(self, *_, **__):
        raise TypeError("it is on another device")


CHW = torch.zeros(3, 8, 8)
REFUSED = {
    "None": (None, "got None: pass one of these"),
    "dict": ({"image": PIXELS}, "got a dict"),
    "set": ({1, 2}, "got a set"),
    "generator": (unread, "got a generator"),
    "object": (object(), "got a object"),
    "number": (5, "got a single int"),
    "numpy's number": (np.uint8(5), "got a single uint8"),
    "an array without axes": (np.array(5), r"got uint8|got int64"),
    "a tensor without axes": (torch.tensor(5), "got a single number"),
    "flag": (True, "got a single bool"),
    "missing file": ("nothing.png", "got the text 'nothing.png', and no file has that name"),
    "text": ("a cat\non a mat " * 20, r"a cat\\non .*no file has that name"),
    "empty text": ("", "no file has that name"),
    "a name with a zero": ("a\0b.png", "no file has that name"),
    "names": (["a.png", "b.png"], "use cascade.batch for several inputs"),
    "ragged list": ([[1, 2], [3]], "expected an input as an array"),
    "list of None": ([None], "expected a picture .* got a list of object"),
    "list beyond uint8": ((PIXELS.astype(int) + 1000).tolist(), "expected numbers from 0 to 255"),
    "negative list": ([[[-1, 0, 0]] * 8] * 8, "from 0 to 255, got -1 to 0"),
    "a list of huge numbers": ([[[2**80] * 3] * 8] * 8, "expected a picture .* of object"),
    "levels to 1": ((PIXELS / 255).tolist(), "multiply levels from 0 to 1 by 255"),
    "float tensor": (CHW, "as it was before a transform made it a tensor"),
    "gradient": (CHW.clone().requires_grad_(), "before a transform made it a tensor"),
    "channels first": (CHW.byte(), r"permute\(1, 2, 0\) puts them last"),
    "bfloat16": (CHW.bfloat16(), "Tensor cannot be read as an array .* convert it to a numpy"),
    "meta": (torch.zeros(8, 8, 3, device="meta"), "Tensor cannot be read as an array"),
    "unreadable": (Broken(), "Broken cannot be read as an array .it is on another device"),
    "no picture": (b"GIF99 is none", "cannot be decoded"),
    "no bytes": (b"", "an input of 0 bytes cannot be decoded"),
    "text file": (lambda: io.StringIO("x"), "opened in binary mode, it gave a str: open it with"),
    "array of floats": (array.array("d", [1, 2]), "got float64"),
    "folder": (Path(), "expected pictures"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_input_is_refused_as_what_it_is(cascade, form):
    value, says = REFUSED[form]
    value = value() if callable(value) else value
    with pytest.raises(InputError, match=says) as refused:
        cascade(value)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="expected"):
        cascade.batch([PIXELS, value])


@pytest.mark.parametrize(
    "several",
    [None, "a.png", b"x", {"a": PIXELS}, {1}, io.BytesIO(), Image.new("RGB", (8, 8)), 5, Path("a")],
)
def test_what_is_no_list_of_inputs_is_refused_as_what_it_is(cascade, several):
    with pytest.raises(InputError, match=r"expected a list of uint8 .* put a single one into a"):
        cascade.batch(several)


def test_a_closed_file_is_refused(cascade, folder):
    with (folder / FILE).open("rb") as file:
        pass
    with pytest.raises(InputError, match=r"a file that is open for reading .*closed"):
        cascade(file)


def test_a_tensor_of_a_batch_is_a_batch(cascade):
    answers = cascade.batch(torch.from_numpy(np.stack([PIXELS] * 3)))
    assert len(answers) == 3
    assert all(same(one, cascade(PIXELS)) for one in answers)


def test_bgr_arrays_are_turned_and_files_are_not(bundle, cascade, folder):
    with Cascade.open(bundle, channel_order="bgr") as bgr:
        expected = cascade(PIXELS)
        bgr_pixels = PIXELS[..., ::-1]
        for value in (bgr_pixels, np.ascontiguousarray(bgr_pixels), folder / FILE, encoded()):
            assert same(bgr(value), expected)
        assert same(bgr.batch(bgr_pixels[None])[0], expected)
        assert same(bgr(GREY), cascade(GREY))
        assert not same(bgr(PIXELS), expected)


def test_the_order_of_channels_is_one_of_two(bundle):
    with pytest.raises(SettingError, match="expected channel_order 'rgb' or 'bgr', got 'gbr'"):
        Cascade.open(bundle, channel_order="gbr")


def test_messages_name_all_that_is_taken(cascade):
    with pytest.raises(InputError, match=re.escape("(a file, its bytes, or uint8 [")):
        cascade(None)


def test_the_cascade_of_asyncio_takes_the_same_forms(bundle, cascade, folder):
    async def ask():
        async with AsyncCascade.open(bundle) as asynchronous:
            file = encoded().getvalue()
            return await asynchronous(file), await asynchronous.batch([file, str(folder / FILE)])

    one, several = asyncio.run(ask())
    assert all(same(answer, cascade(PIXELS)) for answer in (one, *several))


VECTOR = Wanted(np.dtype(np.float32), (3,), "x")
FRAME = pd.DataFrame({"a": [1, 2], "b": [2.5, 0], "c": [3, 0]})


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, 3],
        np.array([1, 2.5, 3]),
        np.array([1, 2.5, 3], np.float16),
        np.array([1, 2.5, 3], ">f4"),
        array.array("d", [1, 2.5, 3]),
        FRAME.iloc[0],
        torch.tensor([1, 2.5, 3], dtype=torch.float64, requires_grad=True),
        OnlyDlpack(np.array([1, 2.5, 3])),
    ],
    ids=["list", "float64", "float16", "big-endian", "array", "Series", "tensor", "DLPack"],
)
def test_every_form_of_a_vector_becomes_the_same(value):
    made, file = read_value(value, VECTOR)
    assert (made.dtype, made.tolist(), file) == (np.float32, [1, 2.5, 3], None)


@pytest.mark.parametrize("value", [[1, 2, 3], np.array([1, 2, 3]), pd.Series([1, 2, 3])])
def test_whole_numbers_of_a_vector_become_floats(value):
    made, _ = read_value(value, VECTOR)
    assert (made.dtype, made.tolist()) == (np.float32, [1, 2, 3])


def test_whole_numbers_of_a_picture_do_not_become_floats():
    wanted = Wanted(np.dtype(np.float32), (3, 8, 8), "pixel_values")
    made, _ = read_value(PIXELS.transpose(2, 0, 1), wanted)
    assert made.dtype == np.uint8  # refused later: the graph wants them scaled


def test_a_table_of_pandas_is_a_batch_of_its_rows():
    assert is_foreign(FRAME)
    rows = arrange(from_foreign(FRAME, "x"), VECTOR, axes=2)
    assert (rows.dtype, rows.tolist()) == (np.float32, [[1, 2.5, 3], [2, 0, 0]])


def test_a_colour_file_becomes_grey_for_a_graph_of_one_channel(folder):
    wanted = Wanted(np.dtype(np.uint8), (8, 8, 1), "image")
    grey, file = read_value(folder / FILE, wanted)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    assert file is None  # the large model is sent the same channel
    assert read_value(GREY, wanted)[0].shape == (8, 8, 1)
