"""A client of servers that generate text; it uses nothing but the protocol."""

import numpy as np
from tools.callers import Caller

from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors


def prompts_request(*prompts, max_tokens=None, model="large", **fields):
    """Return a request of prompts, which are texts or bytes."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="text", datatype="BYTES", shape=[len(prompts)])
    encoded = [prompt.encode() if isinstance(prompt, str) else prompt for prompt in prompts]
    request.raw_input_contents.append(tensors.encode_bytes(encoded))
    if max_tokens is not None:
        request.parameters["max_tokens"].int64_param = max_tokens
    return request.SerializeToString()


def answer_in(response):
    """Return the texts and the confidences of a response."""
    outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    assert outputs["confidence"].dtype == np.float32
    return [text.decode() for text in outputs["text"]], outputs["confidence"].tolist()


class Asker(Caller):
    """One connection to a server that generates."""

    def ask(self, *prompts, **fields):
        """Return texts and confidences."""
        call = self.future(prompts_request(*prompts, **fields))
        return answer_in(pb.ModelInferResponse.FromString(call.result()))

    def stream(self, *requests, timeout=60.0):
        """Return the call of a stream of requests."""
        call = self.channel.stream_stream(pb.METHODS["ModelStreamInfer"], None, None)
        return call(iter(requests), timeout=timeout)

    def parts(self, *prompts, **fields):
        """Return the texts and confidences of each response of a stream of one request."""
        return [
            part_of(data) for data in self.stream(prompts_request(*prompts, **fields), timeout=60.0)
        ]


def part_of(data):
    """Return the texts and confidences of a stream's message, or the message of its error."""
    message = pb.ModelStreamInferResponse.FromString(data)
    return message.error_message or answer_in(message.infer_response)
