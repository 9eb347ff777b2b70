"""A language model's bundle, served without torch: by a process of its own, and in a cascade."""

import itertools
import math
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from tools.adding_decoder import CONTEXT, EOS, Adder, write_adder, write_slow_adder
from tools.callers import refusal
from tools.processes import refused_here
from tools.prompts import Asker, answer_in, prompts_request

from cloud_stub.__main__ import COMMANDS
from cloud_stub.backends.backend import Batch, Part
from cloud_stub.errors import ModelFailureError
from cloud_stub.language.decoder import DecoderBackend
from cloud_stub.model_settings import ModelSettings
from cloud_stub.models import open_backend
from cloud_stub.settings import ServeSettings
from edge_runtime import Cascade, Source, contract
from edge_runtime.__main__ import COMMANDS as EDGE
from edge_runtime.bundle import read_bundle
from edge_runtime.cli import main
from edge_runtime.language import Decoder
from edge_runtime.wire import messages as pb

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
MOST = 20
PROMPTS = ["what", "how do I freeze", "book", "übermorgen 天気", "my card is my card"]
SPOKEN = "aé€😀b"
"""An answer of twelve tokens to "?"."""
TOO_LONG = "x" * 50


def letters(seed, *, ends=True):
    """Return a model that says random letters, and one that never ends without `ends`."""
    made = Adder.random(seed)
    follows = [token if token == EOS and ends else 97 + token % 26 for token in made.follows]
    return Adder(follows, made.sharpness)


def write_roomy(folder, adder, context, most):
    """Write a bundle with a context and a limit of its own."""
    extra = read_bundle(write_adder(folder, adder), contract.ROLE_DECODER).metadata.extra
    limits = {**extra[contract.GENERATION], "context": context, "max_new_tokens": most}
    return write_adder(folder, adder, extra={**extra, contract.GENERATION: limits})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_adder(tmp_path_factory.mktemp("bundles") / "letters", letters(0))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    return write_adder(tmp_path_factory.mktemp("bundles") / "spoken", Adder.saying(SPOKEN))


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A bundle that talks for hours."""
    folder = tmp_path_factory.mktemp("bundles") / "talker"
    return write_roomy(folder, letters(1, ends=False), 1 << 22, 1 << 20)


@pytest.fixture(scope="module")
def server(bundle, spoken, talker, start, tmp_path_factory):
    """One server of several models; no test harms it."""
    tables = [
        f'model = "large"\nbundle = "{bundle}"\nmax_new_tokens = {MOST}',
        f'model = "own"\nbundle = "{bundle}"\nconfidence = "neg_entropy"',
        f'model = "spoken"\nbundle = "{spoken}"',
        f'model = "talker"\nbundle = "{talker}"\nstall = 3600',
        f'model = "joined"\nbundle = "{bundle}"\nmax_batch = 3\nmax_delay_ms = 50000',
    ]
    file = tmp_path_factory.mktemp("models") / "models.toml"
    file.write_text("".join(f"[[model]]\n{table}\nthreads = 1\n" for table in tables))
    running = start("--models", str(file), "--port", "0")
    yield running
    assert running.stop() == 0
    assert "Traceback" not in "".join(running.errors)


@pytest.fixture
def asker(server):
    with Asker(server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def decoder(bundle):
    with Decoder.open(bundle, threads=1) as opened:
        yield opened


def same(answer, decoder, prompts, most=MOST):
    own = decoder.generate(prompts, most, stop_when_certain=False)
    np.testing.assert_allclose(answer[1], [one.confidence for one in own], atol=1e-6)
    return answer[0] == [one.text for one in own]


def test_texts_are_answered_as_the_device_s_own_decoder_does(asker, decoder):
    assert same(asker.ask(*PROMPTS), decoder, PROMPTS)
    request = pb.ModelMetadataRequest(name="large")
    assert asker.call("ModelMetadata", request, pb.ModelMetadataResponse).platform == (
        "gatekeeper_decoder"
    )


def test_the_limit_is_the_bundle_s_own_unless_the_server_sets_another(asker, decoder):
    assert same(asker.ask(*PROMPTS, model="own"), decoder, PROMPTS, None)
    code, words = refusal(asker.future(prompts_request("what", max_tokens=17, model="own")))
    assert (code, "from 1 to 16, got '17'" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_many_prompts_in_one_call_are_answered_in_their_order(asker, decoder):
    prompts = [f"{PROMPTS[i % len(PROMPTS)]} {i}"[:18] for i in range(150)]
    assert same(asker.ask(*prompts, max_tokens=4), decoder, prompts, 4)


def test_a_stream_sends_a_part_for_each_token_and_ends_as_the_whole_answer(asker, decoder):
    (own,) = decoder.generate([PROMPTS[0]], MOST, stop_when_certain=False)
    parts = asker.parts(PROMPTS[0])
    assert len(parts) == own.token_count
    assert parts[-1] == asker.ask(PROMPTS[0])
    assert same(parts[-1], decoder, [PROMPTS[0]])
    of_three = asker.parts(PROMPTS[0], max_tokens=3)
    assert [confidence for _, confidence in of_three] == [c for _, c in parts[:3]]


def test_a_stream_never_holds_half_a_character(asker):
    texts = [text for (text,), _ in asker.parts("?", model="spoken")]
    assert texts[-1] == SPOKEN
    assert list(dict.fromkeys(texts)) == ["", "a", "aé", "aé€", "aé€😀", SPOKEN][1:]


def test_callers_in_one_batch_get_their_own_answers_and_only_the_bad_prompt_is_refused(
    asker, decoder
):
    lengths = [(PROMPTS[1], 16), (PROMPTS[2], 5)]
    requests = [prompts_request(text, max_tokens=most, model="joined") for text, most in lengths]
    calls = [asker.future(one) for one in (*requests, prompts_request(" ", model="joined"))]
    for call, (text, most) in zip(calls, lengths, strict=False):
        answer = answer_in(pb.ModelInferResponse.FromString(call.result()))
        assert same(answer, decoder, [text], most)
    assert refusal(calls[2]) == (grpc.StatusCode.INVALID_ARGUMENT, "row 0: the prompt is empty")
    code, words = refusal(asker.future(prompts_request("what", "x" * CONTEXT)))
    assert (code, words.startswith("row 1: the prompt has 41 tokens: the context of 40 has")) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        True,
    )


def test_a_short_answer_does_not_wait_for_a_long_one(asker):
    long = asker.stream(prompts_request("what", model="talker"), timeout=None)
    next(long)
    assert len(asker.ask("book", max_tokens=3, model="talker")[0][0]) == 3
    long.cancel()


def test_deadlines_and_callers_that_leave_end_generations(asker):
    """There are four workers, and each answer would take hours."""
    for _ in range(6):
        late = asker.future(prompts_request("what", model="talker"), timeout=0.2)
        assert refusal(late)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        left = asker.stream(prompts_request("what", model="talker"), timeout=None)
        next(left)
        left.cancel()
    assert len(asker.ask("book", max_tokens=3, model="talker")[0][0]) == 3


def test_a_row_whose_caller_left_does_not_hold_up_the_others(talker):
    backend = DecoderBackend(talker, 1)
    inputs = {"text": ["what", "book"], "max_tokens": np.array([100, 100])}
    left = set()
    parts = backend.infer(Batch(inputs, 2, math.inf, is_wanted=lambda row: row not in left))
    next(parts)
    left.add(0)
    assert next(parts).whole_rows == {0}
    text = next(parts).outputs["text"]
    assert (len(text[0]), len(text[1])) == (2, 3)
    left.add(1)
    *_, last = parts
    assert [len(text) for text in last["text"]] == [2, 3]


def test_reading_a_long_prompt_ends_once_its_caller_is_gone(tmp_path):
    """It would take minutes."""
    backend, gone = DecoderBackend(write_slow_adder(tmp_path), 1), threading.Event()
    inputs = {"text": ["x" * 36], "max_tokens": np.array([3])}
    threading.Timer(0.3, gone.set).start()
    *_, last = backend.infer(Batch(inputs, 1, math.inf, is_wanted=lambda _: not gone.is_set()))
    assert last["text"].tolist() == [b""]


def test_a_graph_that_fails_is_a_failure_of_the_model_and_names_no_file(tmp_path):
    made = letters(0)
    folder = write_adder(tmp_path, Adder(made.follows[:1], made.sharpness))
    inputs = {"text": ["what"], "max_tokens": np.array([3])}
    with pytest.raises(ModelFailureError, match=r"the model failed: .*indices") as caught:
        list(DecoderBackend(folder, 1).infer(Batch(inputs, 1, math.inf)))
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_quantization_ties_together_are_answered_alone(tmp_path):
    folder = write_adder(tmp_path, letters(0), quantization="int8-dynamic")
    inputs = {"text": PROMPTS, "max_tokens": np.full(len(PROMPTS), 4)}
    parts = DecoderBackend(folder, 1).infer(Batch(inputs, len(PROMPTS), math.inf))
    grown = [len(part.whole_rows) for part in parts if isinstance(part, Part)]
    assert {later - first for first, later in itertools.pairwise(grown)} <= {0, 1}


def test_flags_that_a_bundle_cannot_follow_are_refused_on_one_line(bundle, capfd):
    def refused(words, why):
        line = ["--bundle", bundle, "--port", "0", *words]
        refused_here("cloud_stub", COMMANDS, line, capfd, says=why, default=ServeSettings)

    refused(["--confidence", "min_prob"], "expected --confidence neg_entropy, which the graph in")
    link = ["--cloud", "localhost:1"]
    refused([*link, "--max-new-tokens", "3"], "--max-new-tokens needs a model that generates text")
    refused([*link, "--confidence", "neg_entropy"], "got a middle tier")


def test_neither_torch_nor_transformers_is_imported(bundle):
    code = (
        "import sys, numpy, pathlib; from cloud_stub.model_settings import ModelSettings as M;"
        "from cloud_stub.models import open_backend; import cloud_stub.server;"
        "from cloud_stub.backends.backend import Batch;"
        "backend = open_backend(M(bundle=pathlib.Path(sys.argv[1])));"
        "inputs = {'text': ['what'], 'max_tokens': numpy.array([2])};"
        "print([*backend.infer(Batch(inputs, 1, 9.0))][-1]['text'][0].decode());"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, bundle], capture_output=True, text=True, check=True, cwd=ROOT
    )
    text, modules = done.stdout.splitlines()
    assert len(text) == 2
    assert {"torch", "transformers", "onnx", "scipy"} & set(modules.split()) == set()


def test_the_edge_defers_to_it(bundle, spoken, server, decoder, capsys):
    with Cascade.open(spoken, cloud=server.address, deadline_s=30, threshold=math.inf) as cascade:
        answers = cascade.batch(PROMPTS)
        *_, last = cascade.stream(PROMPTS[0])
    own = decoder.generate(PROMPTS, MOST, stop_when_certain=False)
    assert [(one.text, one.source) for one in answers] == [(o.text, Source.CLOUD) for o in own]
    assert (last.text, last.source) == (own[0].text, Source.CLOUD)
    words = ["run", "--bundle", str(spoken), "--cloud", server.address, "--deadline-s", "30"]
    line = [*words, "--threshold", "99", "--text", PROMPTS[0]]
    assert main("python -m edge_runtime", EDGE, argv=line) == 0
    assert own[0].text in capsys.readouterr().out


@pytest.fixture(scope="module")
def far_bundle(tmp_path_factory):
    return write_roomy(tmp_path_factory.mktemp("bundles") / "far", letters(5), 400, 16)


@pytest.fixture
def far(far_bundle, launch):
    return launch("--bundle", str(far_bundle), "--threads", "1", "--port", "0")


@pytest.fixture
def middle(bundle, far, launch):
    link = ("--cloud", far.address, "--cloud-deadline-s", "30", "--threads", "1", "--port", "0")
    return launch("--bundle", str(bundle), *link)


def test_a_middle_tier_asks_on_for_what_its_bundle_is_unsure_of(
    decoder, spoken, far_bundle, far, middle
):
    prompts = [f"{PROMPTS[0]} {i}" for i in range(16)]
    own, whole = (decoder.generate(prompts, stop_when_certain=early) for early in (True, False))
    with Decoder.open(far_bundle, threads=1) as large:
        larger = large.generate([*prompts, TOO_LONG], stop_when_certain=False)
    assert {one.defer for one in own} == {True, False}
    wanted = [f.text if o.defer else o.text for f, o in zip(larger, own, strict=False)]
    with Asker(middle.address) as caller:
        texts, confidences = caller.ask(*prompts, TOO_LONG)
        assert texts == [*wanted, larger[-1].text]
        lowest = decoder.metadata.confidence_range[0]
        np.testing.assert_allclose(confidences, [*(o.confidence for o in own), lowest], atol=1e-6)
        unsure = next(i for i, one in enumerate(own) if one.defer)
        *_, ((last,), _) = caller.parts(prompts[unsure])
        assert last == wanted[unsure]
        assert "the prompt is empty" in refusal(caller.future(prompts_request("what", " ")))[1]
        with Cascade.open(
            spoken, cloud=middle.address, deadline_s=30, threshold=math.inf
        ) as cascade:
            answers = cascade.batch(prompts)
        assert [(one.text, one.source) for one in answers] == [(t, Source.CLOUD) for t in wanted]
        # Without the further cloud its own answers stand, to their ends.
        far.process.kill()
        far.process.wait()
        texts, confidences = caller.ask(*prompts)
        assert texts == [one.text for one in whole]
        np.testing.assert_allclose(confidences, [one.confidence for one in whole], atol=1e-6)
        why = "row 1: the prompt has 51 tokens: the context of 40 has no room for an answer"
        assert refusal(caller.future(prompts_request("what", TOO_LONG)))[1] == why
    assert middle.stop() == 0


def test_a_middle_tier_forwards_nothing_for_callers_that_are_gone(bundle):
    link = {"cloud": "127.0.0.1:1", "cloud_deadline_s": 30.0}
    backend = open_backend(ModelSettings(bundle=bundle, threads=1, **link))
    inputs = {"text": ["what 1"]}
    *_, last = backend.infer(Batch(inputs, 1, math.inf, is_wanted=lambda _: False))
    assert last["text"].tolist() == [b""]
    backend.close()
