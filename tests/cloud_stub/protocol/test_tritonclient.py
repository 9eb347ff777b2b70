"""NVIDIA's own client against the server: every call, every datatype, streams."""

from __future__ import annotations

import asyncio
import queue
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tools.graphs import ELEMENTS, FIELDS, GATHERED_ROWS
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

pytestmark = [pytest.mark.slow, pytest.mark.once]

DARK, BRIGHT = (np.full((1, 4, 4, 3), level, np.uint8) for level in (0, 255))
# Bit patterns: 0, -0, 1, the least and the largest finite numbers, both infinities.
PATTERNS = {
    "FP16": ("H", [0, 0x8000, 0x3C00, 1, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00]),
    "BF16": ("H", [0, 0x8000, 0x3F80, 1, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80]),
    "FP32": ("I", [0, 1 << 31, 0x3F800000, 1, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000]),
    "FP64": ("Q", [0, 1 << 63, 0x3FF << 52, 1, (0x7FF << 52) - 1, (0xFFF << 52) - 1, 0x7FF << 52,
                   0xFFF << 52]),
}  # fmt: skip


def extremes(datatype):
    """Return an array [4, 2] of a datatype, including its smallest and largest values."""
    if datatype == "BOOL":
        flat = np.array([True, False, True, True, False, False, True, False])
    elif datatype == "BYTES":
        texts = ["", "a", "naïve 天气", "\0", "a\0b", " \n", "x" * 70_000, "0"]
        flat = np.array([text.encode() for text in texts], object)
    elif datatype in PATTERNS:
        letter, patterns = PATTERNS[datatype]
        flat = np.frombuffer(struct.pack(f"<8{letter}", *patterns), triton_to_np_dtype(datatype))
    else:
        info = np.iinfo(triton_to_np_dtype(datatype))
        flat = np.array([info.min, info.max, 0, 1, info.max - 1, info.min + 1, 7, 99], info.dtype)
    return flat.reshape(4, 2)


def same(came, sent):
    """Return whether two arrays agree in type, shape and every bit."""
    assert (came.dtype, came.shape) == (sent.dtype, sent.shape)
    return came.tolist() == sent.tolist() and (came.dtype == object or bits(came) == bits(sent))


def bits(array):
    return np.ascontiguousarray(array).tobytes()


def tensor(array, datatype="UINT8", name="image"):
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def requested(*names):
    return [triton.InferRequestedOutput(name) for name in names]


def shapes(tensors):
    return [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors]


@pytest.fixture
def client(zoo):
    with triton.InferenceServerClient(zoo.address) as opened:
        yield opened


@pytest.fixture
def aio(zoo):
    """Run a coroutine function on the aio client."""

    def run(work):
        async def main():
            async with triton_aio.InferenceServerClient(zoo.address) as opened:
                return await work(opened)

        return asyncio.run(main())

    return run


def statistics(client, name):
    (model_statistics,) = client.get_inference_statistics(name).model_stats
    return model_statistics


def test_the_server_describes_itself(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "cloud_stub"
    assert {"statistics", "model_configuration", "model_repository"} == set(metadata.extensions)


def test_aio_client_gets_the_same_descriptions(aio, client):
    async def describe(opened):
        assert await opened.is_server_live()
        assert await opened.is_server_ready()
        assert await opened.is_model_ready("several")
        return [
            await opened.get_server_metadata(),
            await opened.get_model_metadata("several"),
            await opened.get_model_config("several"),
            await opened.get_model_repository_index(),
        ]

    assert aio(describe) == [
        client.get_server_metadata(),
        client.get_model_metadata("several"),
        client.get_model_config("several"),
        client.get_model_repository_index(),
    ]


def test_the_metadata_of_a_classifier_name_its_tensors(client):
    metadata = client.get_model_metadata("large", "1")
    assert (metadata.name, list(metadata.versions)) == ("large", ["1"])
    assert shapes(metadata.inputs) == [("image", "UINT8", [-1, -1, -1, 3])]
    assert shapes(metadata.outputs) == [
        ("prediction", "INT64", [-1]), ("label", "BYTES", [-1]), ("confidence", "FP32", [-1]),
    ]  # fmt: skip


def test_the_metadata_of_a_graph_are_its_own_names_types_and_shapes(client):
    metadata = client.get_model_metadata("several")
    expected = [("values", "FP32", [-1, -1]), ("ids", "INT64", [-1]), ("words", "BYTES", [-1, -1])]
    assert shapes(metadata.inputs) == expected
    assert shapes(metadata.outputs) == [(f"{name}_out", *rest) for name, *rest in expected]
    assert shapes(client.get_model_metadata("fixed").inputs) == [("x", "FP32", [2, 3])]
    assert shapes(client.get_model_metadata("FP64.scalar").inputs) == [("x", "FP64", [])]


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_the_configuration_names_every_datatype_without_the_batch_axis(client, datatype):
    config = client.get_model_config(f"{datatype}.gathered", as_json=True)["config"]
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    assert config["input"] == [{"name": "x", "data_type": kind, "dims": ["2"]}]
    assert config["output"] == [{"name": "x_out", "data_type": kind, "dims": ["2"]}]
    assert config["max_batch_size"] == GATHERED_ROWS
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": "50000000"}


def test_the_configuration_shows_that_a_graph_has_no_batch_axis(client):
    config = client.get_model_config("fixed").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 3])
    assert not config.HasField("dynamic_batching")


def test_the_repository_index_lists_every_model_of_the_file(client):
    models = client.get_model_repository_index().models
    assert {model.name for model in models} >= {"large", "several", "fixed", *ELEMENTS}
    assert {(model.version, model.state, model.reason) for model in models} == {("1", "READY", "")}


@pytest.mark.parametrize("call", ["get_model_metadata", "get_model_config", "is_model_ready"])
@pytest.mark.parametrize("words", [("nobody",), ("large", "2")])
def test_an_unknown_model_or_version_is_not_found(client, call, words):
    with pytest.raises(InferenceServerException, match="is not served here") as caught:
        getattr(client, call)(*words)
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="is not served here"):
        client.get_inference_statistics(*words)


def test_the_statistics_count_calls_rows_and_batches(client):
    before = statistics(client, "several")
    for rows in (1, 3, 3):
        client.infer("several", several(rows))
    for _ in range(2):
        with pytest.raises(InferenceServerException):
            client.infer("several", several(1)[:2])
    after = statistics(client, "several")
    assert after.inference_count - before.inference_count == 7
    assert after.execution_count - before.execution_count == 3
    counts = {
        name: getattr(after.inference_stats, name).count
        - getattr(before.inference_stats, name).count
        for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    }
    assert counts.pop("fail") == 2
    assert set(counts.values()) == {3}
    assert batches(after, before) == {1: 1, 3: 2}
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert abs(after.last_inference / 1e3 - time.time()) < 600


def batches(after, before):
    """Return rows -> number of batches of that size between two statistics."""
    old = {batch.batch_size: batch.compute_infer.count for batch in before.batch_stats}
    new = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    return {
        rows: count - old.get(rows, 0) for rows, count in new.items() if count - old.get(rows, 0)
    }


def test_statistics_without_a_name_are_of_every_model(client):
    names = {found.name for found in client.get_inference_statistics().model_stats}
    assert names == {model.name for model in client.get_model_repository_index().models}


def several(rows, first=0):
    numbers = np.arange(first, first + rows)
    words = np.array([[f"w{n}".encode(), b""] for n in numbers], object)
    return [
        tensor(np.repeat(numbers[:, None], 3, 1).astype(np.float32), "FP32", "values"),
        tensor(numbers, "INT64", "ids"),
        tensor(words, "BYTES", "words"),
    ]


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_sync_async_and_aio_calls_are_answered_compressed_or_not(client, aio, algorithm):
    options = {"request_id": "42", "compression_algorithm": algorithm}
    inputs = [tensor(np.concatenate([DARK, BRIGHT]))]
    done = queue.Queue()
    client.async_infer("large", inputs, lambda result, error: done.put((result, error)), **options)
    later, error = done.get(timeout=60)
    assert error is None
    results = [
        client.infer("large", inputs, **options),
        later,
        aio(lambda opened: opened.infer("large", inputs, **options)),
    ]
    for result in results:
        assert result.as_numpy("prediction").tolist() == [0, 2]
        assert result.as_numpy("label").tolist() == [b"dark", b"bright"]
        # e^3 / (e^3 + e^1.5 + 1), in the large model's own precision
        np.testing.assert_allclose(result.as_numpy("confidence"), [0.785597] * 2, rtol=1e-5)
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == ("42", "large", "1")


def test_the_error_of_an_asynchronous_call_reaches_its_callback(client, aio):
    done = queue.Queue()
    client.async_infer("nobody", [tensor(DARK)], lambda result, error: done.put((result, error)))
    result, error = done.get(timeout=60)
    assert result is None
    assert error.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="expected one input 'image'"):
        aio(lambda opened: opened.infer("large", [tensor(DARK, name="picture")]))


def test_only_requested_outputs_are_sent_in_the_order_of_the_request(client):
    result = client.infer("large", [tensor(DARK)], outputs=requested("confidence", "prediction"))
    assert [output.name for output in result.get_response().outputs] == ["confidence", "prediction"]
    assert result.as_numpy("prediction").tolist() == [0]
    assert result.as_numpy("label") is None


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_every_datatype_returns_unchanged_to_the_bit(client, datatype):
    sent = extremes(datatype)
    result = client.infer(datatype, [tensor(sent, datatype, "x")])
    assert shapes(result.get_response().outputs) == [("x_out", datatype, [4, 2])]
    assert same(result.as_numpy("x_out"), sent)


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_are_answered_in_typed_contents_of_every_datatype(client, datatype):
    sent = extremes(datatype)
    request = triton.service_pb2.ModelInferRequest(model_name=datatype)
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[4, 2])
    getattr(tensor.contents, FIELDS[datatype]).extend(sent.reshape(-1).tolist())
    response = client._client_stub.ModelInfer(request, timeout=60)
    assert not response.raw_output_contents
    (output,) = response.outputs
    assert [field.name for field, _ in output.contents.ListFields()] == [FIELDS[datatype]]
    came = list(getattr(output.contents, FIELDS[datatype]))
    assert same(np.array(came, sent.dtype).reshape(4, 2), sent)


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_callers_in_one_batch_get_their_own_rows_back(client, datatype):
    model, pool = f"{datatype}.gathered", extremes(datatype)
    before = statistics(client, model)
    # Calls of 1, 2, 3, 4, 1, 2 and 3 rows: together they fill a batch.
    counts = [1, 2, 3, 4, 1, 2, 3]
    assert sum(counts) == GATHERED_ROWS
    sent = [np.roll(pool, shift, axis=None)[:rows] for shift, rows in enumerate(counts)]
    with ThreadPoolExecutor(len(sent)) as callers:
        results = list(
            callers.map(lambda array: client.infer(model, [tensor(array, datatype, "x")]), sent)
        )
    after = statistics(client, model)
    assert batches(after, before) == {GATHERED_ROWS: 1}
    for result, array in zip(results, sent, strict=True):
        assert same(result.as_numpy("x_out"), array)


def test_a_graph_of_fixed_axes_is_answered(client):
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert same(client.infer("fixed", [tensor(sent, "FP32", "x")]).as_numpy("x_out"), sent)


@pytest.mark.parametrize("datatype", ["FP64", "BF16", "BYTES", "BOOL"])
def test_a_scalar_stays_a_scalar(client, datatype):
    sent = extremes(datatype)[1, :1].reshape(())
    result = client.infer(f"{datatype}.scalar", [tensor(sent, datatype, "x")])
    assert shapes(result.get_response().outputs) == [("x_out", datatype, [])]
    assert same(result.as_numpy("x_out"), sent)


def test_inputs_are_identified_by_name(client):
    result = client.infer("several", several(3)[::-1], outputs=requested("ids_out", "words_out"))
    assert result.as_numpy("ids_out").tolist() == [0, 1, 2]
    assert result.as_numpy("words_out").tolist() == [[b"w0", b""], [b"w1", b""], [b"w2", b""]]
    assert result.as_numpy("values_out") is None


def test_an_empty_axis_after_the_batch_axis_is_kept(client):
    sent = np.empty((3, 0), np.float32)
    assert client.infer("free", [tensor(sent, "FP32", "x")]).as_numpy("x_out").shape == (3, 0)


class Stream:
    """A client's stream and its replies."""

    def __init__(self, client, **options):
        self._client = client
        self._replies = queue.Queue()
        client.start_stream(lambda result, error: self._replies.put((result, error)), **options)

    def send(self, model, inputs, **options):
        self._client.async_stream_infer(model, inputs, **options)

    def next(self):
        return self._replies.get(timeout=60)


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_a_stream_is_answered_in_its_order(client, algorithm):
    stream = Stream(client, compression_algorithm=algorithm)
    # Alternating sizes: a small request must not overtake the large one before it.
    sent = [np.full((1 + 5_000 * (n % 2), 2), n, np.int64) for n in range(100)]
    for n, array in enumerate(sent):
        stream.send("INT64", [tensor(array, "INT64", "x")], request_id=str(n))
    for n, array in enumerate(sent):
        result, error = stream.next()
        assert error is None
        assert result.get_response().id == str(n)
        assert same(result.as_numpy("x_out"), array)
    client.stop_stream()


def test_one_stream_reaches_several_models(client):
    stream = Stream(client)
    stream.send("large", [tensor(BRIGHT)], outputs=requested("label"))
    stream.send("several", several(2, first=7))
    stream.send("fixed", [tensor(np.ones((2, 3), np.float32), "FP32", "x")])
    first, second, third = (stream.next()[0] for _ in range(3))
    assert [output.name for output in first.get_response().outputs] == ["label"]
    assert first.as_numpy("label").tolist() == [b"bright"]
    assert second.as_numpy("ids_out").tolist() == [7, 8]
    assert third.as_numpy("x_out").tolist() == [[1] * 3] * 2
    client.stop_stream()


def test_an_error_answers_its_request_and_the_stream_continues(client):
    stream = Stream(client)
    stream.send("large", [tensor(DARK)], request_id="1")
    stream.send("nobody", [tensor(DARK)], request_id="2")
    stream.send("large", [tensor(DARK, name="picture")], request_id="3")
    stream.send("large", [tensor(BRIGHT)], request_id="4")
    first, second, third, fourth = (stream.next() for _ in range(4))
    assert first[0].as_numpy("label").tolist() == [b"dark"]
    assert "model 'nobody' is not served here" in str(second[1])
    assert "expected one input 'image'" in str(third[1])
    assert fourth[0].as_numpy("label").tolist() == [b"bright"]
    client.stop_stream()


def test_a_stream_of_the_aio_client_is_answered_in_its_order(aio):
    async def requests():
        for n in range(50):
            model = "nobody" if n == 20 else "several"
            yield {"model_name": model, "inputs": several(1, first=n), "request_id": str(n)}

    async def send(opened):
        return [pair async for pair in opened.stream_infer(requests())]

    pairs = aio(send)
    assert len(pairs) == 50
    assert [n for n, (_, error) in enumerate(pairs) if error is not None] == [20]
    ids = [result.as_numpy("ids_out").tolist() for result, error in pairs if error is None]
    assert ids == [[n] for n in range(50) if n != 20]


@pytest.fixture(scope="module")
def slow_server(slow_bundle, start):
    """One server with one call per batch, each of half a second or more."""
    running = start("--bundle", str(slow_bundle), "--port", "0", "--max-batch", "1")
    yield running
    assert running.stop() == 0


@pytest.fixture
def slow_client(slow_server):
    """A client of it; of the 16 calls of a test, at most seven may reach the model."""
    with triton.InferenceServerClient(slow_server.address) as opened:
        before = statistics(opened, "large").execution_count
        yield opened
        answer = opened.infer("large", [tensor(BRIGHT)])
        assert answer.as_numpy("label").tolist() == [b"bright"]
        assert statistics(opened, "large").execution_count - before < 8


def test_the_requests_of_a_cancelled_stream_do_not_reach_the_model(slow_client):
    stream = Stream(slow_client)
    for _ in range(16):
        stream.send("large", [tensor(DARK)])
    assert stream.next()[1] is None  # the others are waiting by now
    slow_client.stop_stream(cancel_requests=True)
    error = None
    while error is None:
        _, error = stream.next()
    assert error.status() == "StatusCode.CANCELLED"


def test_cancelled_calls_are_dropped_from_the_queue(slow_client):
    done = queue.Queue()
    calls = [
        slow_client.async_infer("large", [tensor(DARK)], lambda result, error: done.put(error))
        for _ in range(16)
    ]
    assert done.get(timeout=60) is None  # the others are waiting by now
    for call in calls:
        call.cancel()
    errors = [error for error in (done.get(timeout=60) for _ in calls[1:]) if error is not None]
    assert {error.status() for error in errors} == {"StatusCode.CANCELLED"}
