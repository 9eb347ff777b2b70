"""A gRPC server that answers every request at once with class 0.

A client's own cost shows best against a server that costs next to nothing. Run as
`python -m benchmarks.runtime.echo_server [--port PORT]`.
"""

from __future__ import annotations

import argparse
from concurrent import futures
from typing import Any

import grpc
import numpy as np

from edge_runtime import contract
from edge_runtime.wire import messages as pb
from edge_runtime.wire.tensors import encode_array, encode_bytes


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    """Answers ModelInfer with rows of class 0 and the request's id; reports that it is ready."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        answers = {
            pb.METHODS["ModelInfer"]: self._answer,
            pb.METHODS["ModelReady"]: self._ready,
        }
        answer = answers.get(handler_call_details.method)
        return answer and grpc.unary_unary_rpc_method_handler(answer)

    @staticmethod
    def _ready(request: bytes, context: grpc.ServicerContext) -> bytes:
        return bytes(pb.ModelReadyResponse(ready=True).SerializeToString())

    @staticmethod
    def _answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        call = pb.ModelInferRequest.FromString(request)
        answer = pb.ModelInferResponse(model_name=call.model_name, id=call.id)
        rows = call.inputs[0].shape[0]
        tensors = {
            contract.PREDICTION: ("INT64", bytes(encode_array(np.zeros(rows, np.int64)))),
            contract.LABEL: ("BYTES", encode_bytes([b"0"] * rows)),
            contract.CONFIDENCE: ("FP32", bytes(encode_array(np.ones(rows, np.float32)))),
        }
        for name, (datatype, raw) in tensors.items():
            answer.outputs.add(name=name, datatype=datatype, shape=[rows])
            answer.raw_output_contents.append(bytes(raw))
        return bytes(answer.SerializeToString())


def serve(port: int) -> None:
    """Serve on a loopback port until terminated; port 0 takes a free one."""
    server = grpc.server(futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"ready on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    serve(parser.parse_args().port)
