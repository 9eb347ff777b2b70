"""A foreign server of the protocol in a process of its own; its mode selects its answers.

    python tests/tools/foreign_engine.py MODE [--port PORT] [--certificate PEM --key PEM]
        [--client-ca PEM] [--token-file FILE] [--max-bytes N]

It prints its port once it serves. With a token it answers UNAUTHENTICATED to calls without it, and
repeats what they sent. It uses tritonclient's messages and none of the code under test.
"""

from __future__ import annotations

import argparse
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as theirs

LOGITS = np.array([[0.1, 2.0, -1.0], [5.0, 5.0, 0.0], [0.0, 1.0, 3.0]], np.float32)
SEEN: set[str] = set()
SEEN_LOCK = threading.Lock()
LAST: SimpleQueue[str] = SimpleQueue()
LAST.put("none yet")


def _texts(values: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def _contract(rows: int, label: bytes = b"cat") -> dict[str, tuple[str, list[int], bytes]]:
    return {
        "prediction": ("INT64", [rows], np.zeros(rows, "<i8").tobytes()),
        "label": ("BYTES", [rows], _texts([label] * rows)),
        "confidence": ("FP32", [rows], np.full(rows, 0.75, "<f4").tobytes()),
    }


def _pixel(request: theirs.ModelInferRequest) -> dict[str, tuple[str, list[int], bytes]]:
    """Answer every picture by its first byte, so that each answer can be matched to its picture."""
    rows = request.inputs[0].shape[0]
    raw = request.raw_input_contents[0]
    firsts = [raw[row * (len(raw) // rows)] % 10 for row in range(rows)]
    labels = _texts([str(first).encode() for first in firsts])
    return _contract(rows) | {
        "prediction": ("INT64", [rows], np.array(firsts, "<i8").tobytes()),
        "label": ("BYTES", [rows], labels),
    }


def _outputs(
    mode: str, request: theirs.ModelInferRequest
) -> dict[str, tuple[str, list[int], bytes]]:
    rows = request.inputs[0].shape[0]
    logits = LOGITS[:rows]
    contract = _contract(rows)
    if mode in {"pixel", "once", "crossed"}:
        return _pixel(request)
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


def _is_new(request_id: str) -> bool:
    with SEEN_LOCK:
        count = len(SEEN)
        SEEN.add(request_id)
        return len(SEEN) > count


def _refuse(mode: str, request_id: str, context: grpc.ServicerContext) -> None:
    if mode in {"INTERNAL", "RESOURCE_EXHAUSTED", "NOT_FOUND", "UNAVAILABLE"}:
        context.abort(grpc.StatusCode[mode], "first line\nsecond line")
    if mode == "once" and not _is_new(request_id):
        context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{request_id} came twice")


def _answer(mode: str, data: bytes, context: grpc.ServicerContext) -> bytes:
    request = theirs.ModelInferRequest.FromString(data)
    if mode == "garbage":
        return b"\xff" * 7
    if mode == "slow":
        time.sleep(3)
    _refuse(mode, request.id, context)
    response = theirs.ModelInferResponse(model_name=request.model_name, id=request.id)
    if mode == "wrong-id":
        response.id = "another"
    if mode == "crossed":
        response.id = LAST.get()
        LAST.put(request.id)
    if mode == "wrong-model":
        response.model_name = "another"
    for name, (datatype, shape, raw) in _outputs(mode, request).items():
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
    """Accept only calls with the token that the file holds now."""

    def guarded(data: bytes, context: grpc.ServicerContext) -> bytes:
        sent = dict(context.invocation_metadata()).get("authorization", "none")
        if token_file is not None and sent != f"Bearer {token_file.read_text().strip()}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"who is {sent}?")
        return answer(data, context)

    return guarded


def _is_ready(data: bytes, context: grpc.ServicerContext) -> bytes:
    return theirs.ModelReadyResponse(ready=True).SerializeToString()


def _listen(server: grpc.Server, flags: argparse.Namespace) -> int:
    address = f"127.0.0.1:{flags.port}"
    if flags.certificate is None:
        return server.add_insecure_port(address)
    pair = (flags.key.read_bytes(), flags.certificate.read_bytes())
    authorities = None if flags.client_ca is None else flags.client_ca.read_bytes()
    credentials = grpc.ssl_server_credentials([pair], authorities, authorities is not None)
    return server.add_secure_port(address, credentials)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--max-bytes", type=int, default=1 << 26)
    for name in ("--certificate", "--key", "--client-ca", "--token-file"):
        parser.add_argument(name, type=Path)
    return parser.parse_args()


def main() -> None:
    """Serve until the process is ended."""
    flags = _flags()
    mode, flaky = flags.mode, _Flaky()
    limits = [("grpc.max_receive_message_length", flags.max_bytes), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(4), options=limits)
    answer = flaky if mode == "flaky" else lambda data, context: _answer(mode, data, context)
    answers = {"ModelInfer": answer}
    if flags.certificate is not None:
        answers["ModelReady"] = _is_ready
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_guarded(flags.token_file, answer))
        for name, answer in answers.items()
    }
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    bound = _listen(server, flags)
    server.start()
    print(bound, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
