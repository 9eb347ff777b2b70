"""A foreign server of texts in this process, over real gRPC: it refuses a call for a word in it."""

import concurrent.futures
import contextlib
import time
from dataclasses import dataclass, field

import grpc
import numpy as np

from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors


@dataclass
class Picky:
    """A running server.

    Attributes:
        address: Of it.
        calls: The texts of each call that it read.
    """

    address: str = ""
    calls: list[list[str]] = field(default_factory=list)


@contextlib.contextmanager
def picky_server(word, *, code=grpc.StatusCode.INVALID_ARGUMENT, max_bytes=1 << 20, pause_s=0.0):
    """Run a server that refuses calls with a word in one of their texts, and names no row."""
    picky = Picky()

    def infer(data, context):
        request = pb.ModelInferRequest.FromString(data)
        (column,) = tensors.decode_tensors(request.inputs, request.raw_input_contents).values()
        texts = [text.decode() for text in column]
        picky.calls.append(texts)
        time.sleep(pause_s)
        if any(word in text for text in texts):
            context.abort(code, f"cannot take {word!r}")
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="text", datatype="BYTES", shape=[len(texts)])
        said = np.array([f"HEARD {text}".encode() for text in texts], object)
        response.raw_output_contents.append(tensors.encode_bytes(said))
        return response.SerializeToString()

    def ready(_data, _context):
        return pb.ModelReadyResponse(ready=True).SerializeToString()

    methods = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
        "ModelReady": grpc.unary_unary_rpc_method_handler(ready),
    }
    pool = concurrent.futures.ThreadPoolExecutor(4)
    server = grpc.server(pool, options=[("grpc.max_receive_message_length", max_bytes)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(pb.SERVICE, methods),))
    picky.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield picky
    finally:
        server.stop(0).wait()
        pool.shutdown()
