"""The page gives Python's answers in a real headless Chromium, and is accessible."""

import contextlib
import http.client
import subprocess

import numpy as np
import pytest

pytestmark = pytest.mark.slow
CONFIDENCE_TOLERANCE = 1e-5
PHONE = {"width": 360, "height": 640, "isMobile": True, "hasTouch": True}


@pytest.fixture(scope="session")
def serve(examples):
    """Return a context manager that serves a bundle to this machine."""

    @contextlib.contextmanager
    def run(bundle):
        line = ["node", "serve.mjs", str(bundle), "0"]
        server = subprocess.Popen(line, cwd=examples / "web", stdout=subprocess.PIPE, text=True)
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()
            server.communicate()

    return run


@pytest.fixture(scope="session")
def url(serve, trained_bundle):
    with serve(trained_bundle) as address:
        yield address


def assert_equal(seen, expected):
    assert [page["label"] for page in seen] == [str(p) for p in expected.prediction]
    decisions = ["defer" if defer else "edge" for defer in expected.defer]
    assert [page["decision"] for page in seen] == decisions
    shift = np.abs(np.array([page["confidence"] for page in seen]) - expected.confidence)
    assert shift.max() < CONFIDENCE_TOLERANCE


def test_the_page_answers_as_python_does_at_both_thresholds(
    browse, url, samples, python_answers, other_threshold
):
    picks = [("pick", file) for file in samples.files]
    moved = [("threshold", other_threshold)]
    used = browse(url, [*picks, *moved, *picks])
    count = len(picks)
    assert_equal(used["seen"][1 : count + 1], python_answers())
    assert_equal(used["seen"][-count:], python_answers(other_threshold))
    assert used["problems"] == []
    assert all(request.startswith(url) for request in used["requests"])  # nothing from elsewhere


def test_the_bar_and_the_mark_stand_where_the_numbers_say(browse, url, samples, other_threshold):
    used = browse(url, [("pick", samples.files[0]), ("threshold", other_threshold)])
    for page in used["seen"][1:]:
        assert float(page["meter"]) == page["confidence"]
        assert page["fill"] == pytest.approx((page["confidence"] - 0.1) / 0.9, abs=0.01)
        assert page["mark"] == pytest.approx((page["threshold"] - 0.1) / 0.9, abs=0.01)
    assert np.float32(used["seen"][-1]["threshold"]) == np.float32(other_threshold)


def test_moving_the_threshold_decides_again(browse, url, samples):
    steps = [("pick", samples.files[0]), ("threshold", 0.1), ("threshold", 1), ("tap", "#reset")]
    _, own, low, high, reset = browse(url, steps)["seen"]
    assert (low["decision"], high["decision"]) == ("edge", "defer")
    assert "this device" in low["said"]
    assert "large model" in high["said"]
    assert reset == own | {"focus": "reset"}


def test_a_drawn_stroke_is_answered_and_cleared(browse, url):
    one = [(0.5, 0.1), (0.5, 0.9)]
    ready, drawn, cleared = browse(url, [("draw", one), ("tap", "#clear")])["seen"]
    assert (ready["label"], ready["meter"], ready["disabled"]) == ("", None, 0)
    assert drawn["label"] in set("0123456789")
    assert 0.1 <= drawn["confidence"] <= 1
    assert (cleared["label"], cleared["decision"], cleared["meter"]) == ("", "", None)


def test_the_keyboard_alone_draws_and_moves_the_threshold(browse, url):
    stroke = [("press", " "), *[("press", "ArrowUp")] * 8, ("press", " ")]
    to_slider = [("press", "Tab")] * 3
    steps = [("press", "Tab"), *stroke, *to_slider, ("press", "ArrowLeft"), ("press", "Tab")]
    seen = browse(url, steps)["seen"]
    assert seen[1]["focus"] == "pad"
    drawn = seen[1 + len(stroke)]
    assert drawn["label"] in set("0123456789")
    focused = [page["focus"] for page in seen[-5:]]
    assert focused == ["clear", "file", "threshold", "threshold", "reset"]
    assert seen[-1]["threshold"] < drawn["threshold"]


def luminance(color):
    """Return the relative luminance of WCAG 2 for a CSS `rgb(r, g, b)`."""
    channels = np.array([int(c) for c in color[color.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_its_colours(browse, url, samples, scheme):
    used = browse(url, [("pick", samples.files[0])], viewport=PHONE, scheme=scheme)
    page = used["seen"][-1]
    text, background = (luminance(color) for color in page["colors"])
    assert (background > text) == (scheme == "light")
    dark, bright = sorted((text, background))
    assert (bright + 0.05) / (dark + 0.05) > 7
    assert page["overflow"] <= 0


def test_a_file_that_is_no_picture_is_refused_and_the_next_one_answered(
    browse, url, samples, tmp_path
):
    (tmp_path / "text.png").write_text("no picture")
    steps = [("pick", tmp_path / "text.png"), ("pick", samples.files[0])]
    _, refused, answered = browse(url, steps)["seen"]
    assert refused["error"] == "expected a picture, text.png cannot be decoded: pick another"
    assert refused["label"] == ""
    assert answered["error"] == ""
    assert answered["label"] != ""


def set_version(record):
    record["metadata"]["contract_version"] = 2


@pytest.mark.parametrize(
    ("change", "graph", "says"),
    [
        (set_version, None, "expected gate contract version 1, the bundle says 2"),
        (lambda record: None, lambda graph: graph[:-1], "model.onnx was altered or truncated"),
    ],
    ids=["version", "cut"],
)
def test_the_page_refuses_a_damaged_bundle_with_a_message(
    browse, serve, damaged, change, graph, says
):
    with serve(damaged(change, graph=graph)) as address:
        (page,) = browse(address)["seen"]
    assert says in page["error"]
    assert page["status"] == "No model."
    assert page["disabled"] == 4


def test_the_page_reports_that_no_bundle_is_served(browse, serve, tmp_path):
    with serve(tmp_path) as address:
        (page,) = browse(address)["seen"]
    assert "expected a bundle at /bundle/, got 404 for bundle.json" in page["error"]


def test_the_server_gives_out_nothing_beside_its_folders(serve, trained_bundle, damaged):
    folder = damaged()
    (folder / "link").symlink_to("/etc/passwd")
    with serve(folder) as address:
        host = address.removeprefix("http://").rstrip("/")
        assert host.startswith("127.0.0.1:")
        with contextlib.closing(http.client.HTTPConnection(host, timeout=10)) as connection:
            for path, status in {
                "/": 200,
                "/bundle/bundle.json": 200,
                "/bundle/link": 404,
                "/bundle/..%2f..%2fetc%2fpasswd": 404,
                "/bundle/%": 404,
                "/shared/../serve.mjs": 404,
                "/shared/": 404,
                "/package.json": 404,
            }.items():
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                assert (path, response.status) == (path, status)
