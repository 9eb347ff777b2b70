"""`run` reads tables, lines, standard input, arrays, videos and cameras, one row after another."""

import io
import json
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime import Cascade
from edge_runtime.__main__ import COMMANDS
from edge_runtime.cli import main
from edge_runtime.commands.sources import Sources
from edge_runtime.contract import TEXT, InputDescription
from edge_runtime.errors import DependencyError, InputError

PICTURE = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
TEXTS = InputDescription(name=TEXT, dtype="string", shape=("batch",))
VECTORS = InputDescription(name="x", dtype="float32", shape=("batch", 3))
PICTURES = InputDescription(name="image", dtype="uint8", shape=("batch", "height", "width", 3))


def read(described, *paths, every=1):
    """Return (row, value or error) of each input."""
    found = []
    for item in Sources(described, every).files(paths):
        try:
            found.append((item.row, item.read()))
        except InputError as error:
            found.append((item.row, str(error)))
    return found


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2.5,3\n4,5,6\n", [[1.0, 2.5, 3.0], [4, 5, 6]]),
        ("a,b,c\n1,2,3\n", [[1, 2, 3]]),
        ("a,b,c,Label\n1,2,3,9\n", [[1, 2, 3]]),
        ("\ufeffa;b;c\n1;2;3\n\n4;5;6\n", [[1, 2, 3], [4, 5, 6]]),
        ("a,b\n1,x\n2,3\n", ["expected numbers in the row", [2, 3]]),
        ("a,b\n1\n2,3\n", ["expected 2 cells in the row, got 1", [2, 3]]),
        ("a,b,c\n", []),
        ("", []),
    ],
)
def test_rows_of_numbers_come_from_csv(tmp_path, content, expected):
    found = [value for _, value in read(VECTORS, write(tmp_path / "a.csv", content))]
    for value, wanted in zip(found, expected, strict=True):
        assert value.startswith(wanted) if isinstance(wanted, str) else value == wanted


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'id,text\n1,"one, two"\n2,three\n', ["one, two", "three"]),
        ("a.csv", "one\ntwo\n", ["one", "two"]),
        ("a.tsv", "text\tlabel\none\tx\n", ["one"]),
        ("a.jsonl", '{"text": "one", "label": 3}\n\n"two"\n', ["one", '"two"']),
        ("a.jsonl", '["no", "text"]\n[sic] a text\n', [["no", "text"], "[sic] a text"]),
    ],
)
def test_texts_come_from_tables_and_lines(tmp_path, name, content, expected):
    assert [value for _, value in read(TEXTS, write(tmp_path / name, content))] == expected


def test_a_table_without_a_column_of_texts_is_refused(tmp_path):
    [(_, error)] = read(TEXTS, write(tmp_path / "a.csv", "id,words\n1,one\n"))
    assert error.startswith("expected a column 'text' in ")
    assert error.endswith("got id, words: name it in the first line")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[1, 2, 3]", [1, 2, 3]),
        ('{"input": [1, 2]}', [1, 2]),
        ("1,2,3", [1, 2, 3]),
        ('{"values": [1]}', "expected one of the keys text, image, input in a line, got values"),
        ('{"image": 5}', "expected the name of a file as image, got 5"),
        ("{'input': 1}", "expected JSON in the line"),
        ("[" * 5000, "expected JSON in the line"),
    ],
)
def test_rows_of_numbers_come_from_lines(tmp_path, line, expected):
    [(row, value)] = read(VECTORS, write(tmp_path / "a.jsonl", line + "\n"))
    assert row == 0
    assert value.startswith(expected) if isinstance(expected, str) else value == expected


def test_the_pictures_of_a_line_lie_beside_its_file(tmp_path):
    lines = write(tmp_path / "a.jsonl", '{"image": "a.png"}\n')
    assert read(PICTURES, lines) == [(0, tmp_path / "a.png")]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_is_no_text_is_an_error_of_its_own(tmp_path, name):
    broken = tmp_path / name
    broken.write_bytes(b"1,2\n\xff\xfe\n" + bytes(9))
    good = write(tmp_path / "b.csv", "1,2,3\n")
    *_, (_, error), (_, value) = read(VECTORS, broken, good)
    assert "expected a readable file at" in error
    assert value == [1, 2, 3]
    [(_, error)] = read(VECTORS, tmp_path / "none.csv")
    assert "No such file" in error


def test_arrays_of_many_inputs_are_read_row_by_row(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "many.npy", rows)
    np.save(tmp_path / "one.npy", rows[0])
    np.savez(tmp_path / "many.npz", x=rows, y=[0, 1])
    np.savez(tmp_path / "two.npz", a=rows, b=rows)
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for name in ("many.npy", "many.npz"):
        found = read(VECTORS, tmp_path / name)
        assert [row for row, _ in found] == [0, 1]
        np.testing.assert_array_equal([value for _, value in found], rows)
    [(row, value)] = read(VECTORS, tmp_path / "one.npy")
    assert row is None
    np.testing.assert_array_equal(value, rows[0])
    assert "expected one array of inputs" in read(VECTORS, tmp_path / "two.npz")[0][1]
    assert "expected a readable file" in read(VECTORS, tmp_path / "broken.npz")[0][1]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten frames of red, ever brighter, as OpenCV writes them."""
    path = tmp_path_factory.mktemp("videos") / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for level in range(10):
        writer.write(np.full((32, 32, 3), (0, 0, 100 + 10 * level), np.uint8))  # blue comes first
    writer.release()
    return path


def test_some_frames_of_a_video_are_read_as_rgb(video):
    found = read(PICTURES, video, every=4)
    assert [row for row, _ in found] == [0, 4, 8]
    for row, frame in found:
        assert frame.shape == (32, 32, 3)
        assert np.abs(frame.mean((0, 1)) - (100 + 10 * row, 0, 0)).max() < 8


def test_a_video_that_does_not_open_is_an_error_of_its_own(tmp_path):
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"no video")
    assert "expected a video or camera that OpenCV can open" in read(PICTURES, broken)[0][1]


def test_videos_need_opencv(video, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DependencyError, match=r"pip install 'gatekeeper-edge\[video\]'"):
        read(PICTURES, video)


def run(bundle, *words):
    return main("edge_runtime", COMMANDS, argv=["run", "--bundle", str(bundle), *map(str, words)])


def test_run_answers_each_frame_and_each_line(bundle, video, tmp_path, monkeypatch, capsys):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{tmp_path / 'a.png'}\n{PICTURE.tolist()}\n"))
    assert run(bundle, "-", video, "--every", 5, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    places = [(line["input"], line["row"]) for line in lines]
    assert places == [("-", 0), ("-", 1), (str(video), 0), (str(video), 5)]
    with Cascade.open(bundle, warm_up=False) as cascade:
        expected = cascade(PICTURE)
    assert {line["confidence"] for line in lines[:2]} == {expected.confidence}


class Interrupted:
    """A camera of three frames, then a Ctrl-C."""

    def __init__(self, number):
        assert number == 7
        self.frames = 0

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return True

    def grab(self):
        self.frames += 1
        if self.frames > 3:
            raise KeyboardInterrupt
        return True

    def retrieve(self):
        return True, PICTURE

    def release(self):
        self.frames = -1


def test_ctrl_c_ends_a_camera_with_the_summary(bundle, monkeypatch, capsys):
    monkeypatch.setattr(cv2, "VideoCapture", Interrupted)
    assert run(bundle, "--camera", 7, "--mode", "edge_only") == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["camera 7:0", "camera 7:1", "camera 7:2"]
    assert summary == "edge 3"


def test_encode_needs_a_cloud(bundle, capsys):
    assert run(bundle, "a.png", "--encode", "jpeg") == 2
    assert "--encode needs --cloud" in capsys.readouterr().err
    assert run(bundle, "a.png", "--cloud", "localhost:1", "--max-side", 9) == 2
    assert "expected encode with max_side" in capsys.readouterr().err
