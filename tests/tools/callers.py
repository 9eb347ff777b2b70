"""Clients that use nothing but the protocol, as many at once as a test needs."""

import contextlib
import io
import time

import grpc
import numpy as np
from PIL import Image

from cloud_stub.models import VERSION
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

PATIENCE_S = 60.0
"""Longest wait for an expected event; a machine may be slow."""


def order(*rows, model="large", **fields):
    """Return a request of rows [order, number] for a moody graph."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="order", datatype="INT64", shape=[len(rows), 2])
    request.raw_input_contents.append(np.array(rows, np.int64).tobytes())
    return request.SerializeToString()


def answer_of(data):
    """Return the numbers in a moody graph's answer."""
    response = pb.ModelInferResponse.FromString(data)
    outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    return outputs["answer"].tolist()


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
    """Return the labels in the answer to a call."""
    response = pb.ModelInferResponse.FromString(call.result())
    outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    return outputs["label"].tolist()


class Caller:
    """A client with a connection of its own, for one model."""

    def __init__(self, address, *options, model="large"):
        self.model = model
        # Otherwise channels of one process share a connection.
        self.channel = grpc.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1), *options]
        )

    def future(self, data, timeout=PATIENCE_S):
        infer = self.channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        return infer.future(data, timeout=timeout)

    def order(self, *rows, timeout=PATIENCE_S):
        """Start a call of rows [order, number]."""
        return self.future(order(*rows, model=self.model), timeout)

    def numbers(self, *rows, timeout=PATIENCE_S):
        return answer_of(self.order(*rows, timeout=timeout).result())

    def busy(self, row):
        """Start a call that keeps the only worker busy, and return once the server has it."""
        call = self.order(row)
        # The server takes the calls of a connection in their order, so this one is behind it.
        self.is_server_ready()
        return call

    def call(self, method, request, kind):
        send = self.channel.unary_unary(pb.METHODS[method], None, None)
        return kind.FromString(send(request.SerializeToString(), timeout=PATIENCE_S))

    def statistics(self, name=None):
        """Return the statistics of a model; by default of this client's."""
        request = pb.ModelStatisticsRequest(name=name or self.model)
        return self.call("ModelStatistics", request, pb.ModelStatisticsResponse).model_stats[0]

    def batch_sizes(self):
        """Return rows -> number of batches of that size."""
        batches = self.statistics().batch_stats
        return {batch.batch_size: batch.compute_infer.count for batch in batches}

    def is_model_ready(self):
        request = pb.ModelReadyRequest(name=self.model, version=VERSION)
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
    """Return the pause before a retry that a refusal names; None if it names none."""
    pause = dict(call.trailing_metadata()).get("grpc-retry-pushback-ms")
    return None if pause is None else int(pause)


def wait_until(condition, within_s=PATIENCE_S):
    """Wait for a condition to hold."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it never held"
        time.sleep(0.01)


@contextlib.contextmanager
def callers(address, count, **options):
    """Yield a number of clients."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Caller(address, **options)) for _ in range(count)]
