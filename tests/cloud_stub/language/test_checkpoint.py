"""A language model's checkpoint served by a process of its own."""

import itertools
import queue

import grpc
import numpy as np
import pytest
from tools.callers import callers, pushback_ms, refusal
from tools.language_models import PROMPTS
from tools.prompts import answer_in, part_of, prompts_request

from cloud_stub.backends.backend import Batch
from cloud_stub.language.checkpoint import LanguageBackend
from edge_runtime.wire import messages as pb
from train.models.language import open_language_model, save_language_model

pytestmark = pytest.mark.slow

MOST = 24
PROMPT = PROMPTS[0]


def reference(model, prompts, most=MOST):
    """Return the texts and confidences of transformers' own generation."""
    made = model[1].generate(prompts, most)
    return list(made.texts), made.confidence("neg_entropy")


def same(answer, model, prompts, most=MOST):
    texts, confidence = reference(model, prompts, most)
    np.testing.assert_allclose(answer[1], confidence, atol=1e-5)
    return answer[0] == texts


def test_texts_are_answered_as_transformers_generates_them(asker, model):
    assert same(asker.ask(*PROMPTS), model, PROMPTS)


def test_control_tokens_in_a_prompt_are_text(asker, model):
    prompts = ["<bos>what", "what <eos> is", "<pad>"]
    assert same(asker.ask(*prompts), model, prompts)
    # Each character of these names is a token of its own, and the whole would be one.
    for prompt, ids in zip(prompts, model[1].tokenizer(prompts)["input_ids"], strict=True):
        assert len(ids) > prompt.count("<") * 4
        assert ids.count(model[1].tokenizer.bos_token_id) == 1


def test_the_metadata_describe_inputs_and_outputs(generator, asker):
    assert generator.ready_line.startswith(
        "cloud_stub: serving large, talker, three, two, narrow, restless, pair on "
    )
    request = pb.ModelMetadataRequest(name="large")
    metadata = asker.call("ModelMetadata", request, pb.ModelMetadataResponse)
    assert metadata.platform == "gatekeeper_language_model"
    tensors = [(t.name, t.datatype, list(t.shape)) for t in (*metadata.inputs, *metadata.outputs)]
    assert tensors == [
        ("text", "BYTES", [-1]),
        ("text", "BYTES", [-1]),
        ("confidence", "FP32", [-1]),
    ]
    config = asker.call(
        "ModelConfig", pb.ModelConfigRequest(name="large"), pb.ModelConfigResponse
    ).config
    assert (config.platform, config.max_batch_size) == ("gatekeeper_language_model", 32)
    assert [pb.DataType.Name(t.data_type) for t in config.input] == ["TYPE_STRING"]


def test_a_stream_sends_a_part_for_each_token_and_never_half_a_character(asker, model):
    parts = asker.parts(PROMPT)
    texts = [text for (text,), _ in parts]
    assert len(parts) == MOST
    assert same(parts[-1], model, [PROMPT])
    assert not any(text.endswith("\N{REPLACEMENT CHARACTER}") for text in texts[:-1])
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
    # Some tokens are bytes of a character that is still incomplete.
    assert len(set(texts)) < len(texts)
    of_three = asker.parts(PROMPT, max_tokens=3)
    assert [confidence for _, confidence in of_three] == [c for _, c in parts[:3]]


def test_callers_in_one_batch_get_their_own_answers_of_their_own_length(asker, model):
    lengths = [(PROMPTS[1], 24), (PROMPTS[2], 5), (PROMPTS[3], 17)]
    calls = [
        asker.future(prompts_request(prompt, max_tokens=most, model="three"))
        for prompt, most in lengths
    ]
    for call, (prompt, most) in zip(calls, lengths, strict=True):
        answer = answer_in(pb.ModelInferResponse.FromString(call.result()))
        assert same(answer, model, [prompt], most)
    assert asker.statistics("three").execution_count == 1


def test_only_the_bad_prompt_of_a_batch_is_refused_and_the_others_stay_together(asker, model):
    before = asker.statistics("three").execution_count
    texts = [PROMPTS[1], " ", PROMPTS[3]]
    calls = [asker.future(prompts_request(text, model="three")) for text in texts]
    assert refusal(calls[1]) == (grpc.StatusCode.INVALID_ARGUMENT, "row 0: the prompt is empty")
    for n in (0, 2):
        answer = answer_in(pb.ModelInferResponse.FromString(calls[n].result()))
        assert same(answer, model, [texts[n]])
    assert asker.statistics("three").execution_count == before + 1


def test_a_cancelled_stream_ends_the_generation(asker):
    call = asker.stream(prompts_request(PROMPT, model="talker"), timeout=None)
    assert len(part_of(next(call))[0]) == 1
    call.cancel()
    # The only worker is free again.
    assert len(asker.parts(PROMPT, max_tokens=3, model="talker")) == 3


def test_a_deadline_ends_the_generation(asker):
    late = asker.future(prompts_request(PROMPT, model="talker"), timeout=0.3)
    assert refusal(late)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(asker.ask(PROMPT, max_tokens=3, model="talker")[0]) == 1


def test_a_cancelled_call_without_a_stream_ends_the_generation(asker):
    other = asker.stream(prompts_request(PROMPT, model="pair"), timeout=None)
    plain = asker.future(prompts_request(PROMPT, model="pair"), timeout=None)
    next(other)  # they are worked on, together
    plain.cancel()
    next(other)
    other.cancel()
    assert len(asker.ask(PROMPT, PROMPT, max_tokens=3, model="pair")[0]) == 2


def test_a_call_is_answered_when_another_of_its_batch_leaves(asker):
    """The answer of the other one would take hours."""
    leaves = asker.stream(prompts_request(PROMPT, model="pair"), timeout=None)
    stays = asker.stream(prompts_request(PROMPTS[2], max_tokens=100, model="pair"), timeout=None)
    next(leaves)
    leaves.cancel()
    texts = [part_of(data)[0] for data in stays]
    assert texts[-1] == asker.ask(PROMPTS[2], max_tokens=100, model="talker")[0]


def test_many_prompts_in_one_call_are_answered_in_their_order(asker, model):
    prompts = [f"{PROMPTS[i % len(PROMPTS)]} {i}" for i in range(150)]
    assert same(asker.ask(*prompts, max_tokens=4), model, prompts, 4)


def test_each_of_a_thousand_calls_at_once_is_answered_or_asked_to_retry(generator, model):
    texts, _ = reference(model, PROMPTS, 2)
    with callers(generator.address, 10) as connections:
        calls = [
            (row, connection.future(prompts_request(PROMPTS[row], max_tokens=2)))
            for n in range(100)
            for row, connection in ((n % len(PROMPTS), one) for one in connections)
        ]
        answered = 0
        for row, call in calls:
            if call.code() is grpc.StatusCode.OK:
                answered += 1
                answer = answer_in(pb.ModelInferResponse.FromString(call.result()))
                assert answer[0] == [texts[row]]
            else:
                assert refusal(call)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert pushback_ms(call) > 0
    # At least as many as may wait.
    assert answered >= 128


def test_a_prompt_over_the_context_is_refused_with_its_length(asker, model):
    long = "my card " * 60
    code, words = refusal(asker.future(prompts_request(PROMPT, long)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    tokens = len(model[1].tokenizer(long)["input_ids"])
    assert words.startswith(f"row 1: the prompt has {tokens} tokens: the context of 96 has")


def test_a_prompt_that_is_far_too_long_is_not_tokenized(asker, model):
    text = "my card " * 15_000
    code, words = refusal(asker.future(prompts_request(PROMPT, text)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words == (
        "row 1: the prompt has 120000 characters, far more than the context's 96 tokens can hold"
    )
    # A prompt that is only a little too long is counted in tokens.
    longest = max(map(len, model[1].tokenizer.get_vocab()))
    _, words = refusal(asker.future(prompts_request("x" * 4 * longest * 96)))
    assert "tokens: the context of 96 has no room" in words


@pytest.mark.parametrize(
    ("prompts", "fields", "why"),
    [
        (["what", " \n"], {}, "row 1: the prompt is empty"),
        ([""], {}, "row 0: the prompt is empty"),
        ([b"what \xff"], {}, "expected texts in UTF-8, row 0 is not"),
        (["what"], {"max_tokens": 0}, "'max_tokens' as a whole number from 1 to 24, got '0'"),
        (["what"], {"max_tokens": -1}, "'max_tokens' as a whole number from 1 to 24, got '-1'"),
        (["what"], {"max_tokens": MOST + 1}, "from 1 to 24, got '25'"),
        (["what"], {"max_tokens": 2**63 - 1}, f"from 1 to 24, got '{2**63 - 1}'"),
        (["what"], {"max_tokens": -(2**63)}, f"from 1 to 24, got '{-(2**63)}'"),
        (["what", b"\xed\xa0\x80"], {}, "expected texts in UTF-8, row 1 is not"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_a_reason(
    asker, model, prompts, fields, why
):
    code, words = refusal(asker.future(prompts_request(*prompts, **fields)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert why in words
    assert same(asker.ask(PROMPT), model, [PROMPT])


@pytest.mark.parametrize(
    ("field", "value"), [("string_param", "8"), ("double_param", 8.0), ("bool_param", True)]
)
def test_a_number_of_tokens_of_another_type_is_refused(asker, field, value):
    request = pb.ModelInferRequest.FromString(prompts_request("what"))
    setattr(request.parameters["max_tokens"], field, value)
    code, words = refusal(asker.future(request.SerializeToString()))
    assert (code, "as a whole number" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_tokens_instead_of_text_are_refused(asker):
    request = pb.ModelInferRequest(model_name="large")
    request.inputs.add(name="text", datatype="INT64", shape=[1])
    request.raw_input_contents.append(bytes(8))
    code, words = refusal(asker.future(request.SerializeToString()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "expected text as BYTES [n] with n >= 1, got INT64 [1]" in words


def test_a_bad_prompt_fails_only_its_request_of_a_stream(asker, model):
    requests = [prompts_request(" "), prompts_request(PROMPT, max_tokens=2)]
    refused, *parts = map(part_of, asker.stream(*requests))
    assert refused == "row 0: the prompt is empty"
    assert same(parts[-1], model, [PROMPT], 2)


def test_an_answer_ends_at_any_end_token_of_the_model_and_does_not_contain_it(save_tiny):
    folder, lm = save_tiny("chatty", 96)
    end = int(lm.generate(PROMPTS[:1], 9).tokens[0, 4])
    lm.model.generation_config.eos_token_id = [lm.tokenizer.eos_token_id, end]
    save_language_model(lm, folder)
    wanted = open_language_model(folder).generate(PROMPTS, 9)
    assert wanted.counted.sum(axis=1)[0] <= 5
    backend = LanguageBackend(folder, 1, kind="sum_logprob", max_new_tokens=9, max_rows=8)
    inputs = {"text": list(PROMPTS), "max_tokens": np.full(len(PROMPTS), 9)}
    *_, answer = backend.infer(Batch(inputs, len(PROMPTS), np.inf))
    assert [text.decode() for text in answer["text"]] == list(wanted.texts)
    np.testing.assert_allclose(answer["confidence"], wanted.confidence("sum_logprob"), atol=1e-4)


def test_nvidia_s_client_asks_and_streams(generator, model):
    import tritonclient.grpc as triton

    prompts = np.array([text.encode() for text in PROMPTS[:2]], object)
    texts = triton.InferInput("text", [2], "BYTES").set_data_from_numpy(prompts)
    replies = queue.Queue()
    with triton.InferenceServerClient(generator.address) as client:
        whole = client.infer("large", [texts], parameters={"max_tokens": 6})
        client.start_stream(lambda result, error: replies.put((result, error)))
        client.async_stream_infer("large", [texts], parameters={"max_tokens": 6})
        client.stop_stream()
    parts = list(replies.queue)
    # The rows differ in length and need not begin with the same token.
    assert {error for _, error in parts} == {None}
    assert 6 <= len(parts) <= 12
    for result in (whole, parts[-1][0]):
        answers = [text.decode() for text in result.as_numpy("text")]
        assert same((answers, result.as_numpy("confidence")), model, PROMPTS[:2], 6)
