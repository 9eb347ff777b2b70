"""Fuzzes what a server makes of a request before a model sees it, against protobuf's own parser.

An input is edits of a valid request of pictures, texts or tensors, or of its bytes.
`CONTRIBUTING.md` says how to run it.
"""

import asyncio

import atheris
from edits import edit_bytes, fuzz

_MODULES = ["bounds", "requests"]

with atheris.instrument_imports(
    include=["edge_runtime.wire.tensors", *(f"cloud_stub.protocol.{name}" for name in _MODULES)]
):
    from cloud_stub.backends.backend import FREE, Parameter, Signature, TensorSpec
    from cloud_stub.protocol import bounds, requests
    from edge_runtime.wire import messages as pb
    from edge_runtime.wire import tensors

_BOUNDS = bounds.RowBounds(max_rows=4, max_pixels=64, max_text_bytes=16)
_TYPES = [*tensors.DTYPES, tensors.BF16, tensors.BYTES, "FP8", ""]
_NAMES = ["image", "text", "x", "y", "", "\0", "x" * 300]
_SIDES = [0, 1, 2, 3, 4, 5, -1, 1 << 31, 1 << 62, (1 << 63) - 1, -(1 << 63)]
_RAW = [b"", bytes(12), bytes(48), b"\1\0\0\0a", b"\1\0\0\0\xff", b"\xff\xff\xff\xff", bytes(96)]
_FIELDS = ["bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"]
_EDITS = ["type", "name", "typed", "side", "rank", "raw", "twice", "outputs", "number", "none"]
_EDITS += ["parameters"]
_LABEL = TensorSpec("label", "BYTES", (FREE,))


def _signature(takes: str, *inputs: TensorSpec, is_batched: bool = True) -> Signature:
    parameters = (Parameter("max_tokens", 1, 64),)
    return Signature(
        takes=takes,  # type: ignore[arg-type]
        inputs=inputs,
        outputs=(_LABEL, TensorSpec("confidence", "FP32", (FREE,))),
        is_batched=is_batched,
        platform="fuzz",
        parameters=parameters,
    )


_SIGNATURES = [
    _signature("image", TensorSpec("image", "UINT8", (FREE, 4, 4, 3))),
    _signature("image", TensorSpec("image", "UINT8", (FREE, FREE, FREE, 3))),
    _signature("text", TensorSpec("text", "BYTES", (FREE,))),
    _signature("tensors", TensorSpec("x", "FP32", (FREE, 3)), TensorSpec("y", "BYTES", (FREE, 1))),
    _signature("tensors", TensorSpec("x", "INT64", (FREE, FREE)), TensorSpec("y", "BF16", (FREE,))),
    _signature("tensors", TensorSpec("x", "BYTES", ()), is_batched=False),
]
_loop = asyncio.new_event_loop()


def _raw(datatype: str, shape: list[int]) -> bytes:
    count = tensors.element_count(shape)
    if datatype == tensors.BYTES:
        return tensors.encode_bytes([b"a"] * count)
    return bytes(count * (2 if datatype == tensors.BF16 else tensors.DTYPES[datatype].itemsize))


def _fill(given: atheris.FuzzedDataProvider, tensor: pb.ModelInferRequest.InferInputTensor) -> None:
    field = given.PickValueInList(_FIELDS)
    value = {"bytes": b"a", "bool": True}.get(field, 1)
    count = given.PickValueInList([0, 1, 2, 3, 48])
    getattr(tensor.contents, f"{field}_contents").extend([value] * count)


def _add_input(
    request: pb.ModelInferRequest,
    spec: TensorSpec,
    rows: int | None,
    edits: set[str],
    given: atheris.FuzzedDataProvider,
) -> None:
    shape = [2 if side == FREE else side for side in spec.shape]
    shape[:1] = shape[:1] if rows is None else [rows]
    datatype = given.PickValueInList(_TYPES) if "type" in edits else spec.datatype
    name = given.PickValueInList([*_NAMES, spec.name]) if "name" in edits else spec.name
    raw = b"" if edits & {"type", "typed"} else _raw(datatype, shape)
    if "side" in edits and shape:
        shape[given.ConsumeIntInRange(0, len(shape) - 1)] = given.PickValueInList(_SIDES)
    if "rank" in edits:
        shape += [given.PickValueInList(_SIDES)] * given.PickValueInList([1, 2, 40])
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if "typed" in edits:
        _fill(given, tensor)
    if "typed" not in edits or given.ConsumeBool():
        request.raw_input_contents.append(given.PickValueInList(_RAW) if "raw" in edits else raw)


def _build(given: atheris.FuzzedDataProvider, signature: Signature) -> bytes:
    """Return a request that fits, but for some of its parts."""
    request = pb.ModelInferRequest(id="1", model_name="large")
    rows = given.ConsumeIntInRange(1, 5) if signature.is_batched else None
    edits = {given.PickValueInList(_EDITS) for _ in range(given.ConsumeIntInRange(0, 3))}
    specs = list(signature.inputs)
    for spec in [*specs, specs[0]] if "twice" in edits else specs:
        _add_input(request, spec, rows, edits, given)
    if "outputs" in edits:
        request.outputs.add(name=given.PickValueInList(["label", "confidence", "", "x"]))
    if "number" in edits:
        value = pb.InferParameter(int64_param=given.PickValueInList([0, 1, 64, 65, -1]))
        request.parameters["max_tokens"].CopyFrom(value)
    if "parameters" in edits:
        request.parameters["\x1b"].CopyFrom(pb.InferParameter(string_param="a"))
        request.inputs[0].parameters["b"].CopyFrom(pb.InferParameter())
    return request.SerializeToString()


def _require_same(data: bytes, parsed: bounds.Parsed) -> None:
    """Compare a request in pieces with what protobuf makes of all of it."""
    request, contents = parsed
    whole = tensors.parse(pb.ModelInferRequest, data)
    assert [bytes(one) for one in contents] == list(whole.raw_input_contents)
    whole.raw_input_contents[:] = [b""] * len(contents)
    assert request == whole or request.SerializeToString() == whole.SerializeToString()


def read(given: atheris.FuzzedDataProvider) -> str:
    """Read one request for one of the signatures."""
    signature = given.PickValueInList(_SIGNATURES)
    data = _build(given, signature)
    if given.ConsumeIntInRange(0, 2) == 2:
        data = edit_bytes(data, given)
    assert isinstance(bounds.request_id(data), str)
    parsed = _loop.run_until_complete(bounds.parse_request(data))
    _require_same(data, parsed)
    request, contents = parsed
    assert requests.unpacked_bytes(request, len(data)) <= 200 * len(data) + 1000
    requests.count_unknown_parameters(request, signature)
    requests.select_outputs(request, signature)
    inputs = requests.read_inputs(request, contents, signature, _BOUNDS)
    columns = {**inputs.columns, **requests.read_parameters(request, signature, inputs.rows)}
    assert not signature.is_batched or {len(c) for c in columns.values()} == {inputs.rows}
    assert 1 <= inputs.rows <= _BOUNDS.max_rows
    hash(requests.batch_key(inputs.columns, signature))
    return "read"


if __name__ == "__main__":
    fuzz(read, max_len=128, len_control=0)
