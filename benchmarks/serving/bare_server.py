"""A bare `grpc.aio` server that answers every call at once with the same bytes.

It reads nothing of a request and builds nothing for the answer: a server's own cost shows best
against one that costs next to nothing. Run as
`python -m benchmarks.serving.bare_server [--port PORT]`.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.serving.graphs import OUTPUT
from edge_runtime.wire import messages as pb
from edge_runtime.wire.tensors import append_raw, encode_array

_OPTIONS: Final = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1))


class _Bare(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    """Answers every call with the answer of the graph `instant` to zeros."""

    def __init__(self) -> None:
        answer = pb.ModelInferResponse(model_name="instant")
        answer.outputs.add(name=OUTPUT, datatype="UINT8", shape=[1, 1, 1, 1])
        self._answer = append_raw(answer, [encode_array(np.zeros(1, np.uint8))])

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._call)

    async def _call(self, request: bytes, context: Any) -> bytes:
        return self._answer


async def serve(port: int) -> None:
    """Serve on a loopback port until terminated; port 0 takes a free one."""
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_Bare(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"ready on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))
