"""What the front does when the model behind it fails or the queue is full."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from cloud_stub import front as front_module
from cloud_stub.backends import BundleBackend
from cloud_stub.errors import BadRequestError, ModelFailureError, OverloadError
from cloud_stub.front import Front
from cloud_stub.validation import check_size
from edge_runtime.errors import BundleError
from edge_runtime.wire import messages as pb


class _Backend:
    labels = ("a", "b")
    platform = "test"
    takes = "image"
    image_size = (None, None)

    def __init__(self, predict):
        self.predict = predict


def _request():
    request = pb.ModelInferRequest(model_name="large", raw_input_contents=[bytes(12)])
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 2, 2, 3])
    return request.SerializeToString()


def _infer(predict):
    return asyncio.run(Front(_Backend(predict), "large")._model_infer(_request()))


def test_model_failure_fails_the_call_in_words(capsys):
    def predict(images):
        raise MemoryError("no room for 3 GB")

    with pytest.raises(ModelFailureError, match="the model failed: MemoryError: no room for 3 GB"):
        _infer(predict)
    assert "Traceback" in capsys.readouterr().err


def test_confidence_that_is_no_number_is_a_model_failure():
    with pytest.raises(ModelFailureError, match="not a finite number"):
        _infer(lambda images: (np.array([0]), np.array([np.nan], np.float32)))


def test_call_over_the_queue_limit_is_refused(monkeypatch):
    monkeypatch.setattr(front_module, "MAX_WAITING", 1)
    go_on = threading.Event()

    def predict(images):
        go_on.wait(10)
        return np.array([1]), np.array([0.5], np.float32)

    async def two_calls():
        front = Front(_Backend(predict), "large")
        first = asyncio.create_task(front._model_infer(_request()))
        await asyncio.sleep(0)
        with pytest.raises(OverloadError, match="wait already"):
            await front._model_infer(_request())
        go_on.set()
        await first
        await front._model_infer(_request())

    asyncio.run(two_calls())


def test_fixed_image_size_is_kept():
    images = [np.zeros((8, 9, 3), np.uint8)]
    check_size(images, (8, 9))
    check_size(images, (None, 9))
    with pytest.raises(BadRequestError, match=r"expected images of height and width \[8, 8\]"):
        check_size(images, (8, 8))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"graphs": {"classifier": "../x"}, "metadata": {}}']
)
def test_damaged_bundle_is_refused(tmp_path, text):
    (tmp_path / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError):
        BundleBackend(tmp_path, 0)
