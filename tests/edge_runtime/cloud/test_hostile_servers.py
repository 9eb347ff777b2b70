"""Whatever a server answers, the cascade gets a true answer or one clean error."""

from concurrent import futures

import grpc
import numpy as np
import pytest

from edge_runtime import Cascade, Source
from edge_runtime.cloud import redaction
from edge_runtime.cloud.base import CloudAnswers
from edge_runtime.cloud.model import CloudModel
from edge_runtime.cloud.redaction import hold
from edge_runtime.errors import CloudError, CloudProtocolError, CloudRejectedError
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

ROWS = np.zeros((2, 4, 5, 3), np.uint8)
NASTY = "a\x1b[2J\r\nb\x9b31m\u202ec\u2028d\x00\u200be"


class Server(grpc.GenericRpcHandler):
    """Answers each call with what `reply` makes of the request."""

    def __init__(self):
        self.reply = None
        self._server = grpc.server(futures.ThreadPoolExecutor(2), (self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(
            lambda data, context: self.reply(pb.ModelInferRequest.FromString(data), context)
        )

    def close(self):
        self._server.stop(None).wait()


@pytest.fixture(scope="module")
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture
def cloud(server):
    opened = CloudModel.open(
        f"127.0.0.1:{server.port}", labels=("a", "b", "c"), deadline_s=20, probe_s=None
    )
    with opened:
        yield opened


def answer(request, **changed):
    """Return a response of the contract, with some outputs as (datatype, shape, raw contents)."""
    rows = request.inputs[0].shape[0]
    outputs = {
        "prediction": ("INT64", [rows], bytes(8 * rows)),
        "label": ("BYTES", [rows], tensors.encode_bytes(["b"] * rows)),
        "confidence": ("FP32", [rows], bytes(4 * rows)),
        **changed,
    }
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
    for name, (datatype, shape, raw) in outputs.items():
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return response


def floats(*values):
    return np.array(values, "<f4").tobytes()


def longs(*values):
    return np.array(values, "<i8").tobytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"label": ("BYTES", [1], tensors.encode_bytes(["b"]))},
        {"label": ("BYTES", [2], tensors.encode_bytes(["b"]))},
        {"label": ("BYTES", [3], tensors.encode_bytes(["b"] * 3))},
        {"label": ("BYTES", [2, 1, 1], tensors.encode_bytes(["b"] * 2))},
        {"label": ("BYTES", [0], b"")},
        {"prediction": ("INT64", [1], longs(0))},
        {"prediction": ("INT64", [2], longs(0, -(2**62)))},
        {"prediction": ("INT64", [2], longs(-1, 0))},
        {"prediction": ("INT64", [2, 1], longs(2**62, 0))},
        {"confidence": ("FP32", [1], floats(0))},
        {"confidence": ("FP32", [2], floats(0, np.inf))},
        {"confidence": ("FP32", [2, 1], floats(-np.inf, 0))},
    ],
)
def test_counts_and_ranges_that_do_not_fit_are_refused(changed, cloud, server):
    server.reply = lambda request, _: answer(request, **changed).SerializeToString()
    with pytest.raises(CloudProtocolError, match="expected "):
        cloud.infer(ROWS)


@pytest.mark.parametrize("reported_us", [2**62, 2**63 - 1, -(2**63), -1])
def test_a_reported_compute_time_is_within_that_of_the_call(reported_us, bundle, server, pictures):
    def reply(request, _):
        response = answer(request, label=("BYTES", [1], tensors.encode_bytes(["3"])))
        response.parameters["gatekeeper_compute_us"].int64_param = reported_us
        return response.SerializeToString()

    server.reply = reply
    address = f"127.0.0.1:{server.port}"
    with Cascade.open(
        bundle, cloud=address, threshold=np.inf, deadline_s=20, probe_s=None
    ) as cascade:
        made = cascade(pictures[0])
    times = made.timings
    assert made.source is Source.CLOUD
    assert min(times) >= 0
    assert times.edge_s + times.wire_s + times.cloud_s <= times.total_s + 1e-6


@pytest.mark.parametrize(
    ("labels", "most"), [(("a", "b"), 65536 + 2 * 65), (None, 65536 + (2 << 20))]
)
def test_an_answer_that_is_far_too_large_is_not_parsed(labels, most, server):
    server.reply = lambda *_: b"\x32\x00" * (most // 2 + 1)  # empty outputs
    with (
        CloudModel.open(
            f"127.0.0.1:{server.port}", labels=labels, deadline_s=20, probe_s=None
        ) as cloud,
        pytest.raises(CloudProtocolError, match=f"at most {most} bytes in the answer to 2 rows"),
    ):
        cloud.infer(ROWS)


class FewAnswers:
    """A larger model that leaves out the last row."""

    model, takes_files, deadline_s = "large", False, 1.0

    def infer(self, rows, **_):
        rows = len(rows) - 1
        return CloudAnswers(np.zeros(rows, np.int64), ["b"] * rows, np.zeros(rows, np.float32), 10)

    def close(self):
        pass


def test_no_row_of_too_few_answers_is_used(bundle, pictures):
    with Cascade.open(bundle, threshold=np.inf) as opened:
        cascade = Cascade(opened.edge, FewAnswers(), None)
        answers = cascade.batch(pictures[:3])
    assert {made.source for made in answers} == {Source.EDGE_FALLBACK}
    assert all("expected answers to 3 rows, got [2]" in made.error for made in answers)


def refuse(request, context):
    context.set_trailing_metadata([("gatekeeper-refused-row", "0 bad")])
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, NASTY)


def foreign_names(request, _):
    return answer(request, **{NASTY: ("FP32", [1], floats(0))}).SerializeToString()


def foreign_label(request, _):
    label = ("BYTES", [2], tensors.encode_bytes([NASTY, "b"]))
    return answer(request, label=label).SerializeToString()


def foreign_echo(request, _):
    return pb.ModelInferResponse(id=NASTY, model_name=request.model_name).SerializeToString()


def foreign_type(request, _):
    return answer(request, label=(NASTY, [2], bytes(8))).SerializeToString()


@pytest.mark.parametrize(
    "reply", [refuse, foreign_names, foreign_label, foreign_echo, foreign_type]
)
def test_what_a_server_says_reaches_no_terminal_uncleaned(reply, cloud, server):
    server.reply = reply
    with pytest.raises(CloudError) as caught:
        cloud.infer(ROWS)
    texts = [str(caught.value)]
    if isinstance(caught.value, CloudRejectedError):
        texts += caught.value.rows.values()
    assert all(text.isprintable() for text in texts)
    assert "x1b[2J" in texts[0]


@pytest.mark.parametrize("reply", [refuse, foreign_names, foreign_label, foreign_echo])
def test_what_a_server_says_holds_no_token(reply, cloud, server, monkeypatch):
    monkeypatch.setattr(redaction, "_HELD", type(redaction._HELD)())
    monkeypatch.setitem(globals(), "NASTY", "a-t0ken/of=ours")
    hold("a-t0ken/of=ours")
    server.reply = reply
    with pytest.raises(CloudError, match=r"\[token\]") as caught:
        cloud.infer(ROWS)
    assert "t0ken/" not in str(caught.value)
