"""A model that repeats texts word by word, served by the real front in this process."""

import asyncio
import threading
import time

import grpc
import numpy as np

from cloud_stub.asynchronous import timeout
from cloud_stub.backends.backend import Signature, TensorSpec
from cloud_stub.errors import OverloadError, UnavailableError
from cloud_stub.models import Models, ServedModel
from cloud_stub.protocol.calls import Front
from cloud_stub.protocol.inference import Inference
from cloud_stub.protocol.pictures import PictureDecoder
from cloud_stub.scheduling.batcher import Limits
from cloud_stub.scheduling.workers import MIB, MemoryBudget
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

PATIENCE_S = 30.0
TEXT = "text"


class Speller:
    """Repeats each of its texts, one word at a time.

    It fails on the word "stumble", and on "crowd" and "busy" if the batch has other texts.
    """

    signature = Signature(
        takes="text",
        inputs=(TensorSpec(TEXT, "BYTES", (-1,)),),
        outputs=(TensorSpec("spelled", "BYTES", (-1,)),),
        is_batched=True,
        platform="speller",
    )
    labels = ()
    workers = 1

    def __init__(self, pause_s=0.0):
        self.pause_s = pause_s
        self.spoken = 0
        self.batches = []
        self.has_ended = threading.Event()

    def infer(self, batch):
        texts = batch.inputs[TEXT]
        self.batches.append(list(texts))
        rows = [text.split() for text in texts]
        try:
            for count in range(1, max(map(len, rows)) + 1):
                time.sleep(self.pause_s)
                texts = [words[:count] for words in rows]
                self.spoken += 1
                self._check(texts)
                yield {"spelled": np.array([" ".join(t).encode() for t in texts], dtype=object)}
        finally:
            self.has_ended.set()

    def _check(self, texts):
        last = [words[-1] for words in texts]
        if "stumble" in last:
            raise ValueError("a forbidden word")
        if len(texts) > 1 and "busy" in last:
            raise UnavailableError("come back later")
        if len(texts) > 1 and "crowd" in last:
            raise OverloadError("too many at once")

    def close(self):
        pass


class Served:
    """The front in a real server in this process."""

    def __init__(self, backend, *, name="speller", **limits):
        self.model = ServedModel(name, backend, Limits(**limits))
        self.calls = []
        models = Models([self.model])
        self._decoder = PictureDecoder(4)
        self.memory = MemoryBudget(64 * MIB)
        self.inference = Inference(models, self._decoder, self.memory, self.calls.append)
        self.front = Front(models, self.inference)

    @property
    def outcomes(self):
        return {name: n for name, n in self.model.statistics.outcomes.items() if n}

    async def __aenter__(self):
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self.front.handler(),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.address = f"127.0.0.1:{port}"
        self.channel = grpc.aio.insecure_channel(self.address)
        return self

    async def __aexit__(self, *_):
        await self.channel.close()
        await self._server.stop(PATIENCE_S)
        self._decoder.close()
        self.model.close()

    def stream(self, *requests, timeout=PATIENCE_S):
        """Open a stream, write the requests and end it."""
        call = self.channel.stream_stream(pb.METHODS["ModelStreamInfer"], None, None)
        return call(iter(requests), timeout=timeout)

    def infer(self, request, timeout=PATIENCE_S):
        return self.channel.unary_unary(pb.METHODS["ModelInfer"], None, None)(
            request, timeout=timeout
        )


def spell(*texts, request_id=""):
    request = pb.ModelInferRequest(model_name="speller", id=request_id)
    request.inputs.add(name=TEXT, datatype="BYTES", shape=[len(texts)])
    request.raw_input_contents.append(tensors.encode_bytes([text.encode() for text in texts]))
    return request.SerializeToString()


def read(data):
    """Return (id, texts so far, whether they are complete) of an answer."""
    response = pb.ModelInferResponse.FromString(data)
    outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    is_whole = "gatekeeper_compute_us" in response.parameters
    return response.id, [text.decode() for text in outputs["spelled"]], is_whole


async def answers_of(call):
    """Return the answers of a stream: a partial or complete answer each, or an error's message."""
    answers = []
    async for data in call:
        message = pb.ModelStreamInferResponse.FromString(data)
        if message.error_message:
            answers.append((message.infer_response.id, message.error_message))
        else:
            answers.append(read(message.infer_response.SerializeToString()))
    return answers


def parts(request_id, text):
    """Return the expected answers to a text: each part once and in order, then all of it."""
    words = text.split()
    return [
        (request_id, [" ".join(words[:count])], count == len(words))
        for count in range(1, len(words) + 1)
    ]


async def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def serving(scenario, backend=None, **limits):
    async def within_time():
        async with (
            timeout(2 * PATIENCE_S),
            Served(backend or Speller(), **limits) as served,
        ):
            await scenario(served)
            await until(
                lambda: not (served.model.batcher.in_flight or served.model.batcher.waiting)
            )
            assert served.memory.held == 0

    asyncio.run(within_time())
