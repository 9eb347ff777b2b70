"""A server of the protocol that is not ours: answers what its mode says, in its own process.

    python tests/tools/foreign_engine.py MODE [--port PORT] [--certificate PEM --key PEM]
        [--client-ca PEM] [--token-file FILE]

It prints its port. With a token it answers UNAUTHENTICATED to others, and repeats what they sent.
Messages are tritonclient's, so that nothing of the code under test runs here.
"""

from __future__ import annotations

import argparse
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as theirs

LOGITS = np.array([[0.1, 2.0, -1.0], [5.0, 5.0, 0.0], [0.0, 1.0, 3.0]], np.float32)


def _texts(values: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def _contract(rows: int, label: bytes = b"cat") -> dict[str, tuple[str, list[int], bytes]]:
    return {
        "prediction": ("INT64", [rows], np.zeros(rows, "<i8").tobytes()),
        "label": ("BYTES", [rows], _texts([label] * rows)),
        "confidence": ("FP32", [rows], np.full(rows, 0.75, "<f4").tobytes()),
    }


def _outputs(mode: str, rows: int) -> dict[str, tuple[str, list[int], bytes]]:
    logits = LOGITS[:rows]
    contract = _contract(rows)
    return {
        "logits": {"scores": ("FP32", [rows, 3], logits.tobytes()), "extra": ("BOOL", [1], b"\1")},
        "nan": {"scores": ("FP32", [rows, 3], (logits * np.nan).tobytes())},
        "indices": {"scores": ("INT32", [rows, 1], np.arange(rows, dtype="<i4").tobytes())},
        "names": {"scores": ("BYTES", [rows], _texts([b"dog"] * rows))},
        "wild": {"scores": ("INT64", [rows], np.full(rows, 3, "<i8").tobytes())},
        "digit": _contract(rows, b"3"),
        "unknown-label": _contract(rows, b"unicorn"),
        "not-text": _contract(rows, b"\xff\xfe"),
        "extra": contract | {"extra": ("BOOL", [1], b"\1")},
        "missing": {name: contract[name] for name in ("prediction", "label")},
        "rows": _contract(rows + 1),
        "dtype": contract | {"confidence": ("FP64", [rows], bytes(8 * rows))},
        "length": contract | {"confidence": ("FP32", [rows], bytes(4 * rows - 1))},
    }.get(mode, contract)


def _answer(mode: str, data: bytes, context: grpc.ServicerContext) -> bytes:
    request = theirs.ModelInferRequest.FromString(data)
    if mode == "garbage":
        return b"\xff" * 7
    if mode == "slow":
        time.sleep(3)
    if mode in {"INTERNAL", "RESOURCE_EXHAUSTED", "NOT_FOUND", "UNAVAILABLE"}:
        context.abort(grpc.StatusCode[mode], "first line\nsecond line")
    response = theirs.ModelInferResponse(model_name=request.model_name, id=request.id)
    if mode == "wrong-id":
        response.id = "another"
    if mode == "wrong-model":
        response.model_name = "another"
    for name, (datatype, shape, raw) in _outputs(mode, request.inputs[0].shape[0]).items():
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    if mode == "typed":
        _to_typed(response)
    if mode == "echo":
        texts = [request.parameters[key].string_param for key in sorted(request.parameters)]
        context.set_trailing_metadata((("parameters", "|".join(texts)),))
    return response.SerializeToString()


def _to_typed(response: theirs.ModelInferResponse) -> None:
    rows = response.outputs[0].shape[0]
    del response.raw_output_contents[:]
    response.outputs[0].contents.int64_contents.extend([0] * rows)
    response.outputs[1].contents.bytes_contents.extend([b"cat"] * rows)
    response.outputs[2].contents.fp32_contents.extend([0.75] * rows)


class _Flaky:
    """Answers UNAVAILABLE to the first two calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        if self.calls <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "warming up")
        return _answer("contract", data, context)


def _guarded(token_file: Path | None, answer):
    """Let only calls through that bear the token which the file holds now."""

    def guarded(data: bytes, context: grpc.ServicerContext) -> bytes:
        came = dict(context.invocation_metadata()).get("authorization", "none")
        if token_file is not None and came != f"Bearer {token_file.read_text().strip()}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"who is {came}?")
        return answer(data, context)

    return guarded


def _is_ready(data: bytes, context: grpc.ServicerContext) -> bytes:
    return theirs.ModelReadyResponse(ready=True).SerializeToString()


def _listen(server: grpc.Server, asked: argparse.Namespace) -> int:
    address = f"127.0.0.1:{asked.port}"
    if asked.certificate is None:
        return server.add_insecure_port(address)
    pair = (asked.key.read_bytes(), asked.certificate.read_bytes())
    authorities = None if asked.client_ca is None else asked.client_ca.read_bytes()
    credentials = grpc.ssl_server_credentials([pair], authorities, authorities is not None)
    return server.add_secure_port(address, credentials)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("--port", type=int, default=0)
    for name in ("--certificate", "--key", "--client-ca", "--token-file"):
        parser.add_argument(name, type=Path)
    return parser.parse_args()


def main() -> None:
    """Serve until the process is ended."""
    asked = _asked()
    mode, flaky = asked.mode, _Flaky()
    limits = [("grpc.max_receive_message_length", 1 << 26), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(4), options=limits)
    answer = flaky if mode == "flaky" else lambda data, context: _answer(mode, data, context)
    answers = {"ModelInfer": answer}
    if asked.certificate is not None:
        answers["ModelReady"] = _is_ready
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_guarded(asked.token_file, answer))
        for name, answer in answers.items()
    }
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    print(_listen(server, asked), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
