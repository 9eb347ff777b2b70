"""Serves one model of a Triton model repository by its `config.pbtxt`, in a process of its own.

    python tests/tools/repository_engine.py REPOSITORY MODEL

It prints its port once it serves. It reads the configuration and builds messages with the classes
of tritonclient and uses none of the code under test. Graph and requests must follow the rules of
Triton's ONNX Runtime backend: as many inputs as the graph must be fed, the same types, and exactly
the graph's shapes, with a batch axis in front if `max_batch_size` is above 0, and with the inner
shape of `reshape` if there is one.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

_ONNX_TYPES = {
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_STRING": "tensor(string)",
}


class Model:
    """A loaded model.

    Args:
        folder: Its folder in the repository.
    """

    def __init__(self, folder: Path) -> None:
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
        self.config = text_format.Parse(text, model_config_pb2.ModelConfig())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", options)
        assert (self.config.name, self.config.backend) == (folder.name, "onnxruntime")
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        assert len(self.config.input) == len(inputs)
        for described in self.config.input:
            self._check(described, inputs)
        for described in self.config.output:
            assert not described.label_filename or (folder / described.label_filename).is_file()
            self._check(described, outputs)

    def _check(self, described, arguments) -> None:
        argument = next(a for a in arguments if a.name == described.name)
        assert _ONNX_TYPES[model_config_pb2.DataType.Name(described.data_type)] == argument.type
        assert described.dims
        assert all(size == -1 or size > 0 for size in described.dims)
        shape = [size if isinstance(size, int) else -1 for size in argument.shape]
        inner = described.reshape.shape if described.HasField("reshape") else described.dims
        front = [-1] if self.config.max_batch_size else []
        assert shape == [*front, *inner], f"{described.name}: {shape}, expected {[*front, *inner]}"

    def answer(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer a ModelInfer."""
        request = service_pb2.ModelInferRequest.FromString(data)
        feeds = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            reason = self._unfit(tensor)
            if reason:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)
            feeds[tensor.name] = _array(tensor, raw)
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        names = [described.name for described in self.config.output]
        for described, array in zip(
            self.config.output, self.session.run(names, feeds), strict=True
        ):
            has_rows = self.config.max_batch_size > 0
            shape = [len(array), *described.dims] if described.HasField("reshape") else array.shape
            assert has_rows or not described.HasField("reshape")
            datatype = np_to_triton_dtype(array.dtype)
            raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
            response.outputs.add(name=described.name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(raw)
        return response.SerializeToString()

    def _unfit(self, tensor) -> str:
        described = next((i for i in self.config.input if i.name == tensor.name), None)
        if described is None:
            return f"unexpected inference input '{tensor.name}'"
        expected = "TYPE_" + tensor.datatype.replace("BYTES", "STRING")
        if model_config_pb2.DataType.Name(described.data_type) != expected:
            return f"unexpected datatype {tensor.datatype} for '{tensor.name}'"
        inner, most = list(tensor.shape), self.config.max_batch_size
        if most and inner.pop(0) > most:
            return f"batch-size must be <= {most} for '{self.config.name}'"
        dims = list(described.dims)
        fits = len(dims) == len(inner) and all(
            d in {-1, size} for d, size in zip(dims, inner, strict=True)
        )
        return "" if fits else f"unexpected shape {list(tensor.shape)} for '{tensor.name}'"


def _array(tensor, raw: bytes):
    if tensor.datatype == "BYTES":
        texts = [value.decode() for value in deserialize_bytes_tensor(raw)]
        return np.array(texts, object).reshape(tuple(tensor.shape))
    dtype = triton_to_np_dtype(tensor.datatype)
    return np.frombuffer(raw, dtype).reshape(tuple(tensor.shape))


def _is_ready(data: bytes, context: grpc.ServicerContext) -> bytes:
    return service_pb2.ModelReadyResponse(ready=True).SerializeToString()


def main() -> None:
    """Serve until the process is ended."""
    model = Model(Path(sys.argv[1]) / sys.argv[2])
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    answers = {"ModelInfer": model.answer, "ModelReady": _is_ready}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in answers.items()
    }
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    bound = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(bound, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
