"""Calls a server over gRPC with nothing but the protocol between, as many at once as asked."""

import contextlib
import io
import time

import grpc
import numpy as np
from PIL import Image

from cloud_stub.served_model import VERSION
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

PATIENCE_S = 60.0
"""Longest wait for what should come; a machine may be slow."""


def order(*rows, model="large", **fields):
    """Return a request of rows [what, number] for a moody graph."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="order", datatype="INT64", shape=[len(rows), 2])
    request.raw_input_contents.append(np.array(rows, np.int64).tobytes())
    return request.SerializeToString()


def answer_of(data):
    """Return the numbers that a moody graph answered."""
    response = pb.ModelInferResponse.FromString(data)
    found = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    return found["answer"].tolist()


def picture(level, side, mode="L"):
    """Return a grey picture as a PNG file."""
    file = io.BytesIO()
    Image.new(mode, (side, side), level).save(file, "PNG")
    return file.getvalue()


def pictures_request(*levels, side=4, pictures=None):
    """Return a request of grey pictures, as an array or as files."""
    request = pb.ModelInferRequest(model_name="large")
    if pictures is not None:
        request.inputs.add(name="image", datatype="BYTES", shape=[len(pictures)])
        request.raw_input_contents.append(tensors.encode_bytes(pictures))
    else:
        shape = [len(levels), side, side, 3]
        request.inputs.add(name="image", datatype="UINT8", shape=shape)
        rows = [np.full((side, side, 3), level, np.uint8) for level in levels]
        request.raw_input_contents.append(np.stack(rows).tobytes())
    return request.SerializeToString()


def labels_of(call):
    """Return the labels that a call is answered with."""
    response = pb.ModelInferResponse.FromString(call.result())
    found = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    return found["label"].tolist()


class Caller:
    """One connection of its own."""

    def __init__(self, address, *options):
        # Otherwise channels of one process share a connection.
        self.channel = grpc.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1), *options]
        )

    def future(self, data, timeout=PATIENCE_S):
        infer = self.channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        return infer.future(data, timeout=timeout)

    def numbers(self, *rows, timeout=PATIENCE_S):
        return answer_of(self.future(order(*rows), timeout).result())

    def call(self, method, request, kind):
        ask = self.channel.unary_unary(pb.METHODS[method], None, None)
        return kind.FromString(ask(request.SerializeToString(), timeout=PATIENCE_S))

    def statistics(self, name=""):
        """Return a model's, the only one's where none is named."""
        response = self.call(
            "ModelStatistics", pb.ModelStatisticsRequest(name=name), pb.ModelStatisticsResponse
        )
        return response.model_stats[0]

    def is_model_ready(self, name="large"):
        request = pb.ModelReadyRequest(name=name, version=VERSION)
        return self.call("ModelReady", request, pb.ModelReadyResponse).ready

    def is_server_ready(self):
        return self.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def refusal(call):
    """Return (status, details) of a call that fails."""
    error = call.exception(PATIENCE_S)
    assert error is not None, "it was answered"
    assert "\n" not in error.details()
    return error.code(), error.details()


def pushback_ms(call):
    """Return what a refusal says of trying again, None where it says nothing."""
    found = dict(call.trailing_metadata()).get("grpc-retry-pushback-ms")
    return None if found is None else int(found)


def wait_until(condition, within_s=PATIENCE_S):
    """Wait for something to become true."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.01)


@contextlib.contextmanager
def callers(address, count):
    """Yield so many connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Caller(address)) for _ in range(count)]
