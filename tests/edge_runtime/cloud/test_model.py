"""The cloud client returns an answer or raises a CloudError, whatever the server does."""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cloud.model import CloudModel
from edge_runtime.errors import (
    CloudDeadlineError,
    CloudError,
    CloudOverloadedError,
    CloudProtocolError,
    CloudRejectedError,
    CloudUnavailableError,
    InputError,
    SettingError,
)

ENGINE = Path(__file__).parents[2] / "tools" / "foreign_engine.py"
LABELS = ("bird", "cat", "dog")
IMAGES = np.zeros((3, 4, 5, 3), np.uint8)


@contextlib.contextmanager
def _engine(mode):
    pytest.importorskip("tritonclient.grpc")
    process = subprocess.Popen(
        [sys.executable, ENGINE, mode], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def _infer(mode, images=IMAGES, *, deadline_s=5.0, **settings):
    with _engine(mode) as address, CloudModel.open(address, labels=LABELS, **settings) as cloud:
        return cloud.infer(images, deadline_s=deadline_s)


@pytest.fixture
def silent_address():
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dead_address():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["contract", "typed"])
def test_answer_is_mapped_by_label_name(mode):
    answers = _infer(mode)
    # The engine answers index 0 and "cat"; cat is index 1 here.
    assert answers.prediction.tolist() == [1, 1, 1]
    assert answers.prediction.dtype == np.int64
    assert answers.label == ["cat"] * 3
    assert answers.confidence.tolist() == [0.75] * 3
    assert answers.confidence.dtype == np.float32
    assert IMAGES.nbytes < answers.request_bytes < IMAGES.nbytes + 100


@pytest.mark.slow
def test_foreign_scores_are_reduced_in_the_engines_label_order():
    answers = _infer(
        "logits", cloud_output="scores", cloud_reduce="argmax", cloud_labels=("dog", "cat", "bird")
    )
    # Row maxima at 1, 0 (the first of two), 2 in the engine's order: cat, dog, bird.
    assert answers.label == ["cat", "dog", "bird"]
    assert answers.prediction.tolist() == [1, 2, 0]
    assert all(map(math.isnan, answers.confidence))


@pytest.mark.slow
def test_foreign_indices_and_names_are_read():
    labels = ("dog", "cat", "bird")
    answers = _infer("indices", cloud_output="scores", cloud_labels=labels)
    assert answers.label == ["dog", "cat", "bird"]
    assert _infer("names", cloud_output="scores").prediction.tolist() == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "settings", "why"),
    [
        ("unknown-label", {}, "label 'unicorn' is none of the edge model's 3"),
        ("not-text", {}, "is none of the edge model's"),
        ("extra", {}, "unknown outputs extra"),
        ("logits", {}, "cloud_output= to name"),
        ("missing", {}, "expected an output 'confidence'"),
        ("rows", {}, r"expected output prediction as int64 \[3\], got int64 \[4\]"),
        ("dtype", {}, "expected output confidence as float32"),
        ("length", {}, "'confidence': expected 12 bytes"),
        ("wrong-id", {}, "expected the answer's id"),
        ("wrong-model", {}, "expected the answer's model_name 'large', got 'another'"),
        ("garbage", {}, "expected a inference.ModelInferResponse"),
        ("nan", {"cloud_output": "scores", "cloud_reduce": "argmax"}, "holds NaN"),
        ("wild", {"cloud_output": "scores"}, "expected class indices under 3"),
        ("logits", {"cloud_output": "scores"}, "scores need cloud_reduce"),
        ("names", {"cloud_output": "scores", "cloud_reduce": "argmax"}, "expected scores"),
        ("logits", {"cloud_output": "other"}, "expected an output 'other', got scores, extra"),
    ],
)
def test_an_answer_that_does_not_fit_is_a_protocol_error(mode, settings, why):
    with pytest.raises(CloudProtocolError, match=why) as caught:
        _infer(mode, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("INTERNAL", CloudRejectedError),
        ("RESOURCE_EXHAUSTED", CloudOverloadedError),
        ("NOT_FOUND", CloudRejectedError),
        ("UNAVAILABLE", CloudUnavailableError),
    ],
)
def test_status_becomes_one_line_of_its_own_class(mode, kind):
    with pytest.raises(kind, match=f"{mode}: first line second line") as caught:
        _infer(mode)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 700])
def test_unavailable_server_is_tried_three_times_whatever_the_size(side):
    # 700 x 700 x 3 is over the 256 KiB that gRPC by itself would retry.
    assert _infer("flaky", np.zeros((1, side, side, 3), np.uint8)).label == ["cat"]


@pytest.mark.slow
def test_call_that_the_server_lacks_is_a_protocol_error():
    with (
        _engine("contract") as address,
        CloudModel.open(address, labels=LABELS) as cloud,
        pytest.raises(CloudProtocolError, match="Open Inference Protocol"),
    ):
        cloud.check(deadline_s=5)


@pytest.mark.slow
def test_late_answer_is_a_deadline_error_in_time():
    with _engine("slow") as address, CloudModel.open(address, labels=LABELS) as cloud:
        begin = time.monotonic()
        with pytest.raises(CloudDeadlineError, match=r"no answer within 0\.3 s"):
            cloud.infer(IMAGES, deadline_s=0.3)
        assert time.monotonic() - begin < 1.0


@pytest.mark.slow
def test_parameters_are_sent_as_text():
    with _engine("echo") as address, CloudModel.open(address, labels=LABELS) as cloud:
        data = cloud._request("id", IMAGES, np.array([0.1, np.nan, 1], np.float32), 0.25)
        _, call = cloud._connections.acquire().infer.with_call(data, timeout=5)
    assert dict(call.trailing_metadata())["parameters"] == "0.1,nan,1.0|1|0.25"


@pytest.mark.slow
def test_threads_share_one_model():
    failures = []

    def call_often(cloud):
        try:
            for _ in range(20):
                assert cloud.infer(IMAGES, deadline_s=10).label == ["cat"] * 3
        except (AssertionError, CloudError) as error:
            failures.append(error)

    with _engine("contract") as address, CloudModel.open(address, labels=LABELS) as cloud:
        threads = [threading.Thread(target=call_often, args=(cloud,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.mark.slow
def test_server_that_comes_later_is_found_within_seconds(dead_address):
    with CloudModel.open(dead_address, labels=LABELS) as cloud:
        # By then gRPC's own backoff would have grown past the wait below.
        for _ in range(12):
            with pytest.raises(CloudUnavailableError):
                cloud.infer(IMAGES, deadline_s=5)
            time.sleep(0.25)
        with socket.create_server(("127.0.0.1", int(dead_address.split(":")[1]))) as listener:
            listener.settimeout(1.5)
            with contextlib.suppress(CloudError):
                cloud.infer(IMAGES, deadline_s=0.3)
            listener.accept()[0].close()


def test_nobody_at_the_address_is_unavailable_at_once(dead_address):
    begin = time.monotonic()
    with (
        CloudModel.open(dead_address, labels=LABELS) as cloud,
        pytest.raises(CloudUnavailableError, match="is the server running"),
    ):
        cloud.infer(IMAGES, deadline_s=5)
    assert time.monotonic() - begin < 2.0


def test_a_silent_server_is_a_cloud_error(silent_address):
    with CloudModel.open(silent_address, labels=LABELS) as cloud, pytest.raises(CloudDeadlineError):
        cloud.infer(IMAGES, deadline_s=0.2)


def test_a_closed_model_raises(dead_address):
    cloud = CloudModel.open(dead_address, labels=LABELS)
    cloud.close()
    with pytest.raises(CloudUnavailableError, match="is closed"):
        cloud.infer(IMAGES)


def test_plaintext_to_another_machine_must_be_allowed():
    with pytest.raises(SettingError, match="allow_plaintext=True"):
        CloudModel.open("cloud.example.org:8001", labels=LABELS)
    CloudModel.open("cloud.example.org:8001", labels=LABELS, allow_plaintext=True).close()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"cloud_labels": ("bird", "cat")}, "they differ in dog"),
        ({"cloud_labels": ("bird", "cat", "cow")}, "they differ in cow, dog"),
        ({"cloud_labels": ("bird", "cat", "dog", "dog")}, "one occurs twice"),
        ({"labels": ("cat", "cat")}, "one occurs twice"),
        ({"cloud_reduce": "argmax"}, "cloud_reduce needs cloud_output"),
        ({"cloud_reduce": "mean", "cloud_output": "x"}, "expected cloud_reduce 'argmax'"),
        ({"deadline_s": 0.0}, "seconds over 0"),
        ({"deadline_s": math.nan}, "seconds over 0"),
        ({"deadline_s": math.inf}, "seconds over 0"),
    ],
)
def test_invalid_settings_are_refused(settings, why):
    with pytest.raises(SettingError, match=why):
        CloudModel.open("localhost:8001", **({"labels": LABELS} | settings))


@pytest.mark.parametrize("images", [np.zeros((1, 2, 2, 3)), np.zeros((0, 2, 2, 3), np.uint8)])
def test_input_that_is_no_batch_of_images_is_refused(images, dead_address):
    with CloudModel.open(dead_address, labels=LABELS) as cloud, pytest.raises(InputError):
        cloud.infer(images)
