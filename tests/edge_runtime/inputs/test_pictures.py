"""Pictures come out upright and the same in every format, and large ones take little memory."""

import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edge_runtime.errors import PictureSizeError
from edge_runtime.inputs import pictures
from edge_runtime.inputs.pictures import decode_picture

ORIENTATION = 0x0112
# What is stored of the picture [[1, 2, 3], [4, 5, 6]], by hand from the standard.
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[3, 6], [2, 5], [1, 4]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[4, 1], [5, 2], [6, 3]],
}
XMP = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/>'
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}, "MPO": {"quality": 100}}


def encoded(levels, form, *, scale=40, **options):
    """Return grey levels as a file, each a square of 8 x 8 pixels."""
    picture = Image.fromarray(
        np.kron(np.array(levels, np.uint8) * scale, np.ones((8, 8), np.uint8))
    )
    file = io.BytesIO()
    picture.save(file, form, **LOSSLESS.get(form, {}), **options)
    return file.getvalue()


def levels_of(file):
    pixels = decode_picture(file, "it")
    return np.round(pixels[4::8, 4::8, 0] / 40).astype(int).tolist()


def with_segment(jpeg, content):
    """Put an APP1 segment into a JPEG."""
    return jpeg[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


def with_exif(orientation, form):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    levels = STORED[orientation]
    if form == "TIFF":
        return encoded(levels, form, tiffinfo={ORIENTATION: orientation})
    return encoded(levels, form, exif=exif)


def with_xmp(orientation, form):
    levels, text = STORED[orientation], XMP.format(orientation)
    if form == "JPEG":
        return with_segment(
            encoded(levels, form), b"http://ns.adobe.com/xap/1.0/\0" + text.encode()
        )
    if form == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", text)
        return encoded(levels, form, pnginfo=info)
    if form == "TIFF":
        return encoded(levels, form, tiffinfo={700: text.encode()})
    return encoded(levels, form, xmp=text.encode())


def with_damaged_exif(content, form):
    file = encoded(STORED[1], form)
    if form == "JPEG":
        return with_segment(file, b"Exif\0\0" + content)
    if form == "WEBP":
        return encoded(STORED[1], form, exif=content or b"\0")
    chunk = b"eXIf" + content
    chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file[:33] + chunk + file[33:]  # behind the header


@pytest.fixture(params=["whole", "in strips"])
def strips(request, monkeypatch):
    if request.param == "in strips":
        monkeypatch.setattr(pictures, "_STRIP", 100)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("make", [with_exif, with_xmp])
def test_every_orientation_in_every_format_is_turned_upright(make, orientation, form):
    assert levels_of(make(orientation, form)) == STORED[1]


@pytest.mark.usefixtures("strips")
def test_16_bit_grey_is_turned_upright():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(np.array(STORED[6], np.uint16) * 257).save(file, "PNG", exif=exif)
    assert decode_picture(file.getvalue(), "it")[..., 0].tolist() == STORED[1]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "content",
    [b"", b"XX", b"XX*\0\x08\0\0\0", b"II*\0\x08\0\0\0\x05\0\x12\x01", b"II*\0\xff\xff\xff\x7f"],
)
def test_damaged_exif_is_ignored(content, form):
    assert levels_of(with_damaged_exif(content, form)) == STORED[1]


@pytest.fixture
def low_limit(monkeypatch):
    """The limit of pixels, lowered to that of a picture of 100 x 100."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10_000)


def photograph(form, **options):
    """A smooth picture of 181 x 121, as a JPEG."""
    rows, columns = np.mgrid[:121, :181]
    levels = [np.sin(rows / 19 + k) + np.cos(columns / 17 - k) for k in range(3)]
    pixels = np.round((np.stack(levels, -1) + 2) * 63.75).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, quality=95, subsampling=0, **options)
    return pixels, file.getvalue()


@pytest.mark.usefixtures("low_limit")
@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_jpeg_above_the_limit_is_halved_while_it_is_decoded(form):
    pixels, file = photograph(form)
    decoded = decode_picture(file, "it", max_pixels=10_000)
    mean = Image.fromarray(pixels).reduce(2)
    assert decoded.shape == (61, 91, 3)
    assert np.abs(decoded.astype(int) - np.asarray(mean)).max() <= 4  # grey levels, of 255


@pytest.mark.usefixtures("low_limit")
def test_the_size_alone_decides_whether_a_jpeg_is_halved():
    _, file = photograph("JPEG")
    for limit in (5_551, 1_000_000):  # a server may allow less or more than the device
        assert decode_picture(file, "it", max_pixels=limit).shape == (61, 91, 3)
    with pytest.raises(PictureSizeError, match="at most 5550 pixels, it has 181 x 121"):
        decode_picture(file, "it", max_pixels=5_550)


@pytest.mark.usefixtures("low_limit")
def test_a_jpeg_that_must_be_held_whole_is_not_halved():
    _, file = photograph("JPEG", progressive=True)
    with pytest.raises(PictureSizeError):
        decode_picture(file, "it", max_pixels=10_000)
    _, file = photograph("JPEG")
    scan = file.index(b"\xff\xda")
    separate = file[: scan + 4] + b"\x01" + file[scan + 5 :]  # one channel in the first scan
    with pytest.raises(PictureSizeError):
        decode_picture(separate, "it", max_pixels=10_000)


_RUN = """
import sys
from pathlib import Path
from edge_runtime.commands.run import RunSettings

RunSettings(bundle=Path(sys.argv[1]), inputs=(Path(sys.argv[2]),), json=True).run()
print(Path("/proc/self/status").read_text())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_108_megapixels_take_under_500_megabytes(bundle, tmp_path):
    Image.new("RGB", (12_000, 9_000), (200, 30, 90)).save(tmp_path / "it.jpg")
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(bundle), str(tmp_path / "it.jpg")],
        capture_output=True,
        text=True,
        check=True,
    )
    peak_kib = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1])
    assert '"prediction"' in done.stdout
    assert peak_kib < 500_000
