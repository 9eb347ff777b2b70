"""The six calls of the protocol, from request bytes to response bytes.

Requests are parsed in here and not by gRPC, which would answer bytes that are no message with
INTERNAL; here they are an INVALID_ARGUMENT like any other bad input.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import numpy as np

from cloud_stub import validation
from cloud_stub.backends import Backend, Inputs, Predictions
from cloud_stub.errors import (
    BadRequestError,
    CallError,
    ModelFailureError,
    NotServedError,
    OverloadError,
)
from edge_runtime import contract
from edge_runtime.errors import GatekeeperError, InputError
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

VERSION: Final = "1"
"""The only version of the model; an empty version in a request means it too."""
MAX_WAITING: Final = 64
"""Inference calls in the server at once; one more is refused."""
_DETAILS_LENGTH: Final = 500

_Handle: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class Front:
    """Answers the calls for one model.

    Args:
        backend: The model.
        model: Its name on the wire.

    Attributes:
        is_ready: Whether inference calls are taken; false while shutting down.
        answered: Inference calls answered.
        ignored_parameters: Request parameters that had no meaning here.
    """

    def __init__(self, backend: Backend, model: str) -> None:
        self.is_ready = True
        self.answered = 0
        self.ignored_parameters = 0
        self._backend = backend
        self._model = model
        self._waiting = 0
        self._labels = [label.encode() for label in backend.labels]
        # One worker: the model's own threads use the cores, and calls queue in order.
        self._model_worker = ThreadPoolExecutor(1, "model")
        self._picture_worker = ThreadPoolExecutor(1, "pictures")

    def handler(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        handles: dict[str, _Handle] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(_in_words(handle))
            for name, handle in handles.items()
        }
        return grpc.method_handlers_generic_handler(pb.SERVICE, methods)

    def close(self) -> None:
        """Let the workers go; what still waits is dropped."""
        self._model_worker.shutdown(wait=False, cancel_futures=True)
        self._picture_worker.shutdown(wait=False, cancel_futures=True)

    async def _server_live(self, data: bytes) -> bytes:
        tensors.parse(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, data: bytes) -> bytes:
        tensors.parse(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=self.is_ready).SerializeToString()

    async def _model_ready(self, data: bytes) -> bytes:
        request = tensors.parse(pb.ModelReadyRequest, data)
        self._check_served(request.name, request.version)
        return pb.ModelReadyResponse(ready=self.is_ready).SerializeToString()

    async def _server_metadata(self, data: bytes) -> bytes:
        tensors.parse(pb.ServerMetadataRequest, data)
        response = pb.ServerMetadataResponse(name="cloud_stub", version=_toolkit_version())
        return response.SerializeToString()

    async def _model_metadata(self, data: bytes) -> bytes:
        request = tensors.parse(pb.ModelMetadataRequest, data)
        self._check_served(request.name, request.version)
        response = pb.ModelMetadataResponse(
            name=self._model, versions=[VERSION], platform=self._backend.platform
        )
        if self._backend.takes == contract.TEXT:
            response.inputs.add(name=contract.TEXT, datatype=tensors.BYTES, shape=[-1])
        else:
            sides = [side or -1 for side in self._backend.image_size]
            response.inputs.add(name=contract.IMAGE, datatype="UINT8", shape=[-1, *sides, 3])
        for name, datatype in zip(validation.OUTPUTS, ("INT64", "BYTES", "FP32"), strict=True):
            response.outputs.add(name=name, datatype=datatype, shape=[-1])
        return response.SerializeToString()

    async def _model_infer(self, data: bytes) -> bytes:
        if self._waiting >= MAX_WAITING:
            raise OverloadError(f"{MAX_WAITING} calls wait already: try again later")
        self._waiting += 1
        try:
            return await self._infer(tensors.parse(pb.ModelInferRequest, data))
        finally:
            self._waiting -= 1

    async def _infer(self, request: pb.ModelInferRequest) -> bytes:
        self._check_served(request.model_name, request.model_version)
        names = validation.requested_outputs(request)
        inputs = await self._inputs(request)
        loop = asyncio.get_running_loop()
        predictions, compute_s = await loop.run_in_executor(
            self._model_worker, self._predict, inputs
        )
        self.answered += 1
        self.ignored_parameters += validation.count_unknown_parameters(request)
        return self._response(request, names, predictions, compute_s)

    async def _inputs(self, request: pb.ModelInferRequest) -> Inputs:
        found = validation.read_input(request, self._backend.takes)
        if self._backend.takes == contract.TEXT:
            return validation.decode_texts(found)
        images: Inputs = list(found)
        if request.inputs[0].datatype == tensors.BYTES:
            loop = asyncio.get_running_loop()
            decode = validation.decode_pictures
            images = await loop.run_in_executor(self._picture_worker, decode, found)
        validation.check_size(images, self._backend.image_size)
        return images

    def _predict(self, inputs: Inputs) -> tuple[Predictions, float]:
        """Return the predictions, and how many seconds they took."""
        start = perf_counter()
        try:
            prediction, confidence = self._backend.predict(inputs)
        except InputError as error:
            raise BadRequestError(str(error)) from None
        except Exception as error:
            # The caller gets the gist; where it happened is for the operator.
            traceback.print_exc()
            raise ModelFailureError(f"the model failed: {type(error).__name__}: {error}") from error
        if not np.isfinite(confidence).all():
            raise ModelFailureError("the model failed: its confidence is not a finite number")
        return (prediction, confidence), perf_counter() - start

    def _response(
        self,
        request: pb.ModelInferRequest,
        names: tuple[str, ...],
        predictions: Predictions,
        compute_s: float,
    ) -> bytes:
        prediction, confidence = predictions
        labels = [self._labels[index] for index in prediction]
        header = pb.ModelInferResponse(model_name=self._model, model_version=VERSION, id=request.id)
        header.parameters[contract.PARAMETER_COMPUTE_US].int64_param = round(compute_s * 1e6)
        contents: dict[str, tuple[str, bytes | memoryview, dict[str, Any]]] = {
            contract.PREDICTION: (
                "INT64",
                tensors.encode_array(prediction),
                {"int64_contents": prediction},
            ),
            contract.LABEL: ("BYTES", tensors.encode_bytes(labels), {"bytes_contents": labels}),
            contract.CONFIDENCE: (
                "FP32",
                tensors.encode_array(confidence),
                {"fp32_contents": confidence},
            ),
        }
        for name in names:
            output = header.outputs.add(name=name, datatype=contents[name][0], shape=[len(labels)])
            # A peer that asked in typed form may be unable to read the raw one.
            if not request.raw_input_contents:
                output.contents.CopyFrom(pb.InferTensorContents(**contents[name][2]))
        if not request.raw_input_contents:
            return header.SerializeToString()
        return tensors.append_raw(header, [contents[name][1] for name in names])

    def _check_served(self, name: str, version: str) -> None:
        if name != self._model:
            raise NotServedError(f"model {name[:80]!r} is not served here: ask for {self._model!r}")
        if version not in {"", VERSION}:
            raise NotServedError(
                f"version {version[:40]!r} of {name!r} is not served here: ask for {VERSION!r}"
            )


def _in_words(handle: _Handle) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """Turn the errors of a call into its gRPC status and one line of text."""

    async def call(data: bytes, context: Any) -> bytes:
        try:
            return await handle(data)
        except CallError as error:
            await _abort(context, error.code, error)
        except tensors.WireError as error:
            await _abort(context, BadRequestError.code, error)
        except GatekeeperError as error:
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, error)

    return call


async def _abort(context: Any, code: grpc.StatusCode, error: Exception) -> NoReturn:
    await context.abort(code, " ".join(str(error).split())[:_DETAILS_LENGTH])
    raise AssertionError("abort always raises")


def _toolkit_version() -> str:
    try:
        return importlib.metadata.version("gatekeeper-edge")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
