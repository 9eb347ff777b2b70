"""Reading of requests, without a server."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_stub.backends.backend import Signature, TensorSpec
from cloud_stub.protocol import requests
from cloud_stub.protocol.inference import _count_received
from cloud_stub.scheduling.statistics import Statistics
from edge_runtime.wire import messages as pb

pytestmark = pytest.mark.once

SIGNATURE = Signature(
    takes="tensors",
    inputs=(TensorSpec("a", "FP32", (-1, -1)), TensorSpec("b", "FP32", (-1, -1))),
    outputs=(),
    is_batched=True,
    platform="any",
)


def test_requests_that_list_their_inputs_in_another_order_share_a_batch():
    narrow, wide = np.zeros((1, 2)), np.zeros((4, 3))
    key = requests.batch_key({"a": narrow, "b": wide}, SIGNATURE)
    assert key == requests.batch_key({"b": wide, "a": narrow}, SIGNATURE)
    assert key != requests.batch_key({"a": wide, "b": narrow}, SIGNATURE)
    assert key != requests.batch_key({"b": narrow, "a": wide}, SIGNATURE)


@pytest.mark.parametrize(
    ("text", "rows", "counted", "invalid"),
    [
        ("0.25,0.5", 2, 2, 0),
        ("0.25", 2, 1, 0),
        ("0.25,0.5,0.75,x", 2, 2, 0),
        ("0.25,nan,x,", 4, 1, 3),
        ("", 1, 0, 1),
        ("0," * 1_000_000, 1, 1, 0),
    ],
)
def test_at_most_one_confidence_per_input_is_counted(text, rows, counted, invalid):
    statistics, request = Statistics(), pb.ModelInferRequest()
    request.parameters["gatekeeper_confidence"].string_param = text
    _count_received(statistics, request, rows)
    (received,) = statistics.received.values()
    assert (received.confidence.count, received.invalid) == (counted, invalid)


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "expected"),
    [
        ("UINT8", [1, 1000, 1000, 3], 3_000_100, 0),
        ("BYTES", [1], 1_000_000, 100),
        ("BYTES", [1000, 2], 1_000_000, 200_000),
        # The message cannot hold that many: an element takes at least four bytes.
        ("BYTES", [2**62, 2**62], 4_000, 100_000),
        ("BYTES", [-(2**63)], 4_000, 100_000),
        ("BYTES", [2**62] * 1_000_000, 4_000, 100_000),
    ],
)
def test_the_memory_of_raw_contents_is_estimated_and_bounded(datatype, shape, size, expected):
    request = pb.ModelInferRequest(raw_input_contents=[b""])
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    assert requests.unpacked_bytes(request, size) == expected


def test_the_memory_of_typed_contents_is_estimated():
    request = pb.ModelInferRequest()
    for datatype, field in (("UINT8", "uint_contents"), ("FP64", "fp64_contents")):
        tensor = request.inputs.add(name="x", datatype=datatype, shape=[500])
        getattr(tensor.contents, field).extend([1] * 500)
    assert requests.unpacked_bytes(request, 10_000) == 8_000
