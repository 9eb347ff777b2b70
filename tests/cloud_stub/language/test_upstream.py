"""A server with OpenAI's interface behind ours, each a process of its own."""

import http.client
import json
import math

import grpc
import pytest
from tools.adding_decoder import Adder, write_adder
from tools.callers import refusal, wait_until
from tools.completions_server import answer_to
from tools.prompts import Asker, part_of, prompts_request
from tools.secured import Authority

from edge_runtime import Cascade, Source
from edge_runtime.wire import messages as pb

pytestmark = [pytest.mark.slow, pytest.mark.once]

KEY = "sk-a-key-of-the-test"
OTHER_KEY = "sk-another-key"
PROMPT = "look at the"
INVALID, INTERNAL, UNAVAILABLE, EXPIRED, EXHAUSTED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def expected(prompt, most=16):
    """Return the text and the mean log-probability from the table."""
    words, logprobs, _ = answer_to(prompt, most)
    return "".join(words), sum(logprobs) / len(logprobs)


@pytest.fixture(scope="module")
def port(open_completions):
    with open_completions("--key", KEY) as number:
        yield number


@pytest.fixture(scope="module")
def front(port, start, tmp_path_factory):
    """One server with several links to the upstream; no test may harm it."""
    folder = tmp_path_factory.mktemp("upstream")
    for name, key in (("key", KEY), ("wrong", OTHER_KEY)):
        (folder / name).write_text(f"{key}\n")
        (folder / name).chmod(0o600)
    here = f"http://127.0.0.1:{port}/v1"
    links = {
        "large": f'upstream = "{here}"\nupstream_key_file = "key"\nupstream_timeout = 20',
        "hasty": f'upstream = "{here}"\nupstream_key_file = "key"\nupstream_timeout = 0.3',
        "locked": f'upstream = "{here}"\nupstream_key_file = "wrong"',
        "astray": f'upstream = "http://127.0.0.1:{port}/v2"\nupstream_key_file = "key"',
        "down": 'upstream = "http://127.0.0.1:1/v1"',
        "sure": f'upstream = "{here}"\nupstream_key_file = "key"\nconfidence = "min_prob"',
    }
    file = folder / "models.toml"
    file.write_text(
        "".join(
            f'[[model]]\nmodel = "{name}"\nupstream_model = "table"\nmax_new_tokens = 16\n{link}\n'
            for name, link in links.items()
        )
    )
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "all_proxy"):  # nothing answers there
            environment.setenv(name, "http://127.0.0.1:1")
        environment.delenv("no_proxy", raising=False)
        running = start("--models", str(file), "--port", "0")
    yield running
    assert running.stop() == 0
    log = "".join(running.errors)
    assert "Traceback" not in log
    assert KEY not in log


@pytest.fixture
def asker(front):
    with Asker(front.address) as opened:
        yield opened


def state(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_texts_get_the_answers_of_the_upstream(asker, port):
    texts, confidence = asker.ask(PROMPT, max_tokens=3)
    text, mean = expected(PROMPT, 3)
    assert texts == [text] == [" sea is blue"]
    assert confidence == pytest.approx([mean])
    assert state(port, "/request") == {
        "model": "table", "prompt": PROMPT, "max_tokens": 3, "temperature": 0, "logprobs": 1,
        "stream": True,
    }  # fmt: skip


def test_several_hundred_prompts_are_answered_in_their_order(asker):
    prompts = [f"{n} {word}" for n in range(100) for word in ("the", "is", "天気", "nobody")]
    texts, confidence = asker.ask(*prompts)
    pairs = [expected(prompt) for prompt in prompts]
    assert texts == [text for text, _ in pairs]
    assert confidence == pytest.approx([mean for _, mean in pairs])


def test_other_kinds_of_confidence_come_from_the_same_log_probabilities(asker):
    _, logprobs, _ = answer_to(PROMPT, 16)
    assert asker.ask(PROMPT, model="sure")[1] == pytest.approx([math.exp(min(logprobs))])


def test_a_stream_passes_on_every_piece(asker):
    words, *_ = answer_to(PROMPT, 4)
    parts = asker.parts(PROMPT, max_tokens=4)
    texts = [text for (text,), _ in parts]
    assert list(dict.fromkeys(texts)) == ["".join(words[: n + 1]) for n in range(4)]


def test_the_metadata_describe_inputs_and_outputs(asker):
    metadata = asker.call(
        "ModelMetadata", pb.ModelMetadataRequest(name="large"), pb.ModelMetadataResponse
    )
    assert metadata.platform == "gatekeeper_upstream"
    tensors = [(t.name, t.datatype, list(t.shape)) for t in (*metadata.inputs, *metadata.outputs)]
    assert tensors == [
        ("text", "BYTES", [-1]), ("text", "BYTES", [-1]), ("confidence", "FP32", [-1]),
    ]  # fmt: skip


def test_a_cancelled_call_ends_the_upstream_s_generation(asker, port):
    call = asker.stream(prompts_request(f"!pause 0.2 {PROMPT}", max_tokens=16))
    part_of(next(call))
    call.cancel()

    def is_silent():
        before = state(port, "/words")
        wait_until(lambda: asker.ask("the", max_tokens=2)[0])  # two words of another call
        return state(port, "/words") == before + 2

    wait_until(is_silent)


@pytest.mark.parametrize(
    ("prompt", "model", "code", "why"),
    [
        ("!status 400 too long a prompt", "large", INVALID, "answered 400: too long a prompt"),
        ("!status 500 out of memory", "large", INTERNAL, "answered 500: out of memory"),
        ("!status 302 elsewhere", "large", INTERNAL, "answered 302: elsewhere"),
        ("!status 503 loading", "large", UNAVAILABLE, "answered 503: loading"),
        ("!status 429 slowly", "large", EXHAUSTED, "answered 429: slowly"),
        ("!status 504 gateway", "large", EXPIRED, "answered 504: gateway"),
        (PROMPT, "locked", INTERNAL, "answered 401: Bearer [token] is not the key"),
        (PROMPT, "astray", INTERNAL, "answered 404: no /v2/completions here"),
        (PROMPT, "down", UNAVAILABLE, "the upstream cannot be reached: "),
        (f"!pause 5 {PROMPT}", "hasty", EXPIRED, "the upstream sent nothing for 0.3 s"),
        (f"!cut {PROMPT}", "large", UNAVAILABLE, "it ended before the answer did"),
        ("!html", "large", INTERNAL, "expected a stream of events, got text/html"),
        ("!garbage", "large", INTERNAL, "expected HTTP, got BadStatusLine"),
        ("!event data: {", "large", INTERNAL, "expected events of JSON"),
        ("!event data: [1]", "large", INTERNAL, "expected choices with index, text"),
        ("!event data: " + "[" * 100_000, "large", INTERNAL, "expected events of JSON"),
        ("!event data: 7", "large", INTERNAL, "expected choices with"),
        ('!event data: {"choices": [{"index": 0}]}', "large", INTERNAL, "expected choices"),
        ('!event data: {"choices": [{"index": -1, "text": ""}]}', "large", INTERNAL, "index"),
        ('!event data: {"choices": [{"text": "a"}]}', "large", INTERNAL, "token_logprobs"),
        (
            '!event data: {"choices": [{"text": "", "logprobs": {"token_logprobs": [NaN]}}]}',
            "large", INTERNAL, "expected events of JSON",
        ),
        (
            '!event data: {"choices": [{"text": "", "logprobs": {"token_logprobs": [-1e999]}}]}',
            "large", INTERNAL, "expected choices with",
        ),
        ('!event data: {"error": {"message": "broke"}}', "large", INTERNAL, "broke"),
        ('!event data: {"error": "\\u001b[2J\\n\\u202e"}', "large", INTERNAL, r"\x1b[2J \u202e"),
        (f'!event data: {{"error": "{KEY} {OTHER_KEY}"}}', "large", INTERNAL, "[token] [token]"),
        (f'!event data: {{"text": "{KEY}"}}', "large", INTERNAL, "got {'text': '[token]'}"),
        (f"!kind text/{KEY}", "large", INTERNAL, "got text/[token]"),
        ("!event : nothing", "large", INTERNAL, "it ended before all answers did"),
        (" \n", "large", INVALID, "row 0: the prompt is empty"),
    ],
)  # fmt: skip
def test_every_failure_is_a_status_and_one_line(asker, prompt, model, code, why):
    status, details = refusal(asker.future(prompts_request(prompt, model=model)))
    assert (status, why in details) == (code, True), details


def test_an_answer_without_tokens_has_the_lowest_confidence(asker):
    event = '!event data: {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}'
    assert asker.ask(event, model="sure") == ([""], [0.0])


def events(*chunks):
    """Return a prompt whose answer are these chunks."""
    return "!event " + "~~".join(f"data: {json.dumps(chunk)}" for chunk in chunks)


def choice(**fields):
    return {"choices": [{"index": 0, "logprobs": {"token_logprobs": [-1.0]}, **fields}]}


@pytest.mark.parametrize(
    "last",
    [
        [choice(text="c", finish_reason="stop"), {"choices": None, "usage": {"total_tokens": 3}}],
        [choice(text="c", finish_reason="stop"), choice(text="", finish_reason=None)],
        [choice(text="c"), choice(text=None, finish_reason="stop", logprobs=None)],
        [choice(text="c", finish_reason=None)],
        [choice(text="c", finish_reason=""), choice(text="", logprobs={"token_logprobs": None})],
        [choice(text="c", index=None), {"choices": [], "error": None}],
    ],
)
def test_null_in_a_chunk_loses_nothing_of_the_answer(last, asker):
    texts, (confidence,) = asker.ask(events(choice(text="a"), choice(text="b"), *last))
    assert texts == ["abc"]
    assert confidence == -1.0


def test_a_surrogate_pair_that_two_chunks_share_is_one_character(asker):
    halves = events(choice(text="a\ud83d"), choice(text="\ude00b", finish_reason="stop"))
    assert asker.ask(halves)[0] == ["a😀b"]
    assert [text for (text,), _ in asker.parts(halves)] == ["a", "a😀b", "a😀b"]
    single = events(choice(text="a\ude00b\ud83d", finish_reason="stop"))
    assert asker.ask(single)[0] == ["a\ufffdb\ufffd"]


def test_the_caller_s_deadline_ends_a_slow_answer(asker):
    late = asker.future(prompts_request(f"!pause 5 {PROMPT}"), timeout=0.3)
    assert refusal(late)[0] == EXPIRED
    assert asker.ask(PROMPT, max_tokens=1)[0] == [" sea"]


def test_the_certificate_of_the_upstream_is_checked(open_completions, start, tmp_path):
    pytest.importorskip("trustme")
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    pair = authority.issue("server", "localhost", "127.0.0.1")
    flags = ["--certificate", str(pair["certificate"]), "--private-key", str(pair["key"])]
    with open_completions(*flags) as port:
        file = tmp_path / "models.toml"
        file.write_text(
            "".join(
                f'[[model]]\nmodel = "{name}"\nupstream = "https://localhost:{port}/v1"\n'
                f'upstream_model = "table"\nupstream_ca = "{ca}"\n'
                for name, ca in (("large", authority.ca), ("stranger", other.ca))
            )
        )
        running = start("--models", str(file), "--port", "0")
        try:
            with Asker(running.address) as asker:
                assert asker.ask(PROMPT, max_tokens=1)[0] == [" sea"]
                code, words = refusal(asker.future(prompts_request(PROMPT, model="stranger")))
                assert (code, "certificate verify failed" in words) == (UNAVAILABLE, True)
        finally:
            assert running.stop() == 0


def test_a_prompt_that_the_upstream_refuses_does_not_affect_the_others_of_a_device(front, tmp_path):
    bundle = write_adder(tmp_path / "adder", Adder.random(0))
    # That server follows the order in the first prompt of a call.
    prompts = ["!status 400 too long", PROMPT, "the grass", "and the sea"]
    with Cascade.open(bundle, cloud=front.address, threshold=math.inf, deadline_s=60) as cascade:
        answers = cascade.batch(prompts)
    assert answers[0].source is Source.EDGE_FALLBACK
    assert "INVALID_ARGUMENT: the upstream answered 400: too long" in answers[0].error
    assert [(a.text, a.source) for a in answers[1:]] == [
        (expected(prompt)[0], Source.CLOUD) for prompt in prompts[1:]
    ]
