"""`python -m benchmarks generation` and `latency` of a language model, with tiny ones."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks.language.speed.peer_process import Generating

from benchmarks.commands.figures import LatencySettings
from benchmarks.commands.language import GenerationSettings
from benchmarks.errors import BenchmarkError
from benchmarks.language.speed import genai
from benchmarks.language.speed.answer_loop import Request
from benchmarks.language.speed.comparison import (
    GENAI,
    GENAI_GATED,
    OPTIMUM,
    OPTIMUM_GATED,
    OURS,
    Compared,
    alternate,
    field_of,
    how_to_install,
    versions,
)
from benchmarks.language.speed.figures import prefill_figures, token_figures
from benchmarks.language.speed.models import Made, make, numbered_words
from benchmarks.language.speed.verdict import quantized_figures
from benchmarks.processes import running_server
from edge_runtime.errors import SettingError
from edge_runtime.language import Decoder
from train.models.untrained import Shape

pytestmark = pytest.mark.slow
SHAPE = Shape(width=32, layers=1, heads=2, kv_heads=1, inner=48, context=160)
VOCABULARY, ANSWER = 300, 6
REQUEST = Request("", "", (), 3)
SAYING = "tests.tools.saying_process"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every form of a tiny model that can be made here."""
    folder = tmp_path_factory.mktemp("made")
    return make(folder, VOCABULARY, 0, shape=SHAPE, answer_tokens=ANSWER)


@pytest.fixture(scope="module")
def saying(tmp_path_factory):
    log = tmp_path_factory.mktemp("saying") / "log"
    with Generating(sys.executable, SAYING, log=log) as process:
        yield process


def test_a_prompt_has_as_many_tokens_as_were_asked_for():
    places = dict.fromkeys(("checkpoint", "bundle", "optimum", "genai"), Path())
    request = Made(SHAPE, VOCABULARY, **places).request(17, 5, seed=1)
    assert len(request.tokens) == 17
    tokens = numbered_words(VOCABULARY)(request.text)["input_ids"]
    assert tokens == list(request.tokens)


def test_a_process_generates_what_the_decoder_does(made, tmp_path):
    request = made.request(9, 12, seed=3)
    with Decoder.open(made.bundle) as decoder:
        (answer,) = decoder.generate([request.text], 12, stop_when_certain=False)
    with field_of(made, [], tmp_path) as field:
        process, way = field[OURS]
        timed = process(request._replace(way=way))
    assert timed.tokens == answer.tokens
    assert timed.confidence == pytest.approx(answer.confidence)
    assert timed.took_ns > 0
    # Weights as they are usually drawn would say one token again and again.
    assert len(set(timed.tokens)) > 3


@pytest.fixture(scope="module")
def figures(made, tmp_path_factory):
    """The figures of tokens, by name."""
    logs = tmp_path_factory.mktemp("logs")
    found = token_figures(made, logs, GenerationSettings(rounds=2, tokens=10))
    return {figure.name: figure for figure in found}


@pytest.mark.parametrize(
    ("peer", "gated", "distribution"),
    [
        (OPTIMUM, OPTIMUM_GATED, "optimum-onnx"),
        (GENAI, GENAI_GATED, "onnxruntime-genai"),
    ],
    ids=["optimum", "genai"],
)
def test_a_peer_generates_the_same_tokens(peer, gated, distribution, made, figures):
    each, first = f"time per token, ours / {peer}", f"time to first token, ours / {peer}"
    beside = [figures[each], figures[first], figures[f"time per token, ours / {gated}"]]
    if {OPTIMUM: made.optimum, GENAI: made.genai}[peer] is None:
        assert {figure.detail for figure in beside} == {how_to_install(peer)}
        pytest.skip(how_to_install(peer))
    for figure in beside:
        assert figure.value > 0
        assert len(figure.samples) == 2
        assert f"{distribution} " in figure.detail
    assert "mean of 10 tokens, hidden 32, 1 layers, vocabulary 300, 1 thread" in beside[0].detail


def test_one_figure_of_tokens_has_a_limit(figures):
    limits = {name: figure.limit for name, figure in figures.items() if figure.limit is not None}
    assert limits == {f"time per token, ours / {OPTIMUM}": 0.6}
    assert len(figures) == 6


def test_a_quantized_bundle_is_timed_beside_the_float_one(made, tmp_path):
    settings = GenerationSettings(rounds=2, tokens=5)
    (figure,) = quantized_figures(made, tmp_path, settings, ["int8-dynamic"])
    assert figure.name == "time per token, int8-dynamic / float32"
    assert len(figure.samples) == 2
    assert figure.value > 0
    decoder = Decoder.open(tmp_path / "int8-dynamic")
    assert "int8-dynamic" in str(decoder.metadata.extra["quantization"])


def test_a_prefill_is_compared_with_logits_of_every_position(made, tmp_path):
    if made.optimum is None:
        pytest.skip(how_to_install(OPTIMUM))
    graph, generate = prefill_figures(made, tmp_path, GenerationSettings(rounds=1))
    assert graph.name == "prefill of 128 tokens at vocabulary 300, ours / optimum's graph"
    assert (graph.limit, generate.limit) == (0.15, None)
    assert min(graph.value, generate.value) > 0


def test_a_peer_that_is_not_there_is_named_with_what_to_do(made, tmp_path):
    bare = Made(SHAPE, VOCABULARY, made.checkpoint, made.bundle, None, None)
    with field_of(bare, [OPTIMUM, GENAI], tmp_path) as field:
        turns = alternate(field, made.request(4, 2, 0), 1, peers=[OPTIMUM, GENAI])
    assert list(turns) == [OURS]
    compared = Compared("time", "c", turns, versions(field))
    found = compared.figure(GENAI)
    assert (found.value, found.detail) == (None, genai.MISSING)
    assert "make .venv-genai/.installed" in genai.MISSING
    assert "optimum" in compared.figure(OPTIMUM, 0.6).detail


def test_what_a_library_prints_is_no_answer(saying):
    assert saying(REQUEST._replace(way="counts")).tokens == (7, 8, 9)


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("fewer", r"expected 3 tokens, the same of all, got \(7, 8, 9\) of ours and \(7, 8\) of x"),
        ("others", r"of ours and \(7, 8, 10\) of x: take another --seed"),
        ("surer", "got -2.0 of ours and -1.999 of x"),
    ],
)
def test_times_of_different_work_are_not_compared(way, says, saying):
    field = {OURS: (saying, "gated"), "x": (saying, way)}
    with pytest.raises(BenchmarkError, match=says):
        alternate(field, REQUEST, 1, peers=["x"])


def test_equal_work_is_compared_whether_gated_or_not(saying):
    field = {OURS: (saying, "gated"), "x": (saying, "counts")}
    turns = alternate(field, REQUEST, 3, peers=["x"], calls=2)
    assert [len(turn) for turn in turns.values()] == [3, 3]


def test_a_process_that_ends_says_its_last_words(tmp_path):
    with (
        Generating(sys.executable, SAYING, log=tmp_path / "log") as process,
        pytest.raises(BenchmarkError, match="saying_process, it ended: the memory is full"),
    ):
        process(REQUEST._replace(way="ends"))
    with (
        pytest.raises(BenchmarkError, match="No module named"),
        Generating(sys.executable, "tests.tools.nobody", log=tmp_path / "log"),
    ):
        pytest.fail("it started")


def test_the_ratio_is_that_of_the_pairs():
    turns = {OURS: [1.0, 2.0, 8.0], GENAI: [2.0, 2.0, 4.0]}
    found = Compared("time", "10 tokens", turns, {GENAI: "genai 1.0"}, share=10).figure(GENAI, 0.6)
    assert (found.value, found.samples, found.is_met) == (1.0, (0.5, 1.0, 2.0), False)
    assert found.detail.startswith(
        "0.2 and 0.2 ms, 10 tokens; genai 1.0; 95 % interval 0.500 to 2.000"
    )


def test_a_genai_builder_that_fails_says_why(tmp_path):
    if not genai.is_installed():
        pytest.skip(genai.MISSING)
    (tmp_path / "model").mkdir()
    with pytest.raises(BenchmarkError, match="onnxruntime-genai's builder, it failed: "):
        genai.build(tmp_path / "model", tmp_path / "out")


@pytest.fixture(scope="module")
def prompts(made, tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    lines = [made.request(size, 1, size).text for size in (4, 12, 5)]
    file.write_text("\n\n".join(lines) + "\n")
    return file


def test_the_latency_of_a_language_model_is_told_by_kind(made, prompts, tmp_path, capsys):
    out = tmp_path / "l.json"
    served = ["cloud_stub", "--checkpoint", str(made.checkpoint), "--port", "0"]
    with running_server(served) as address:
        LatencySettings(
            bundle=made.bundle, cloud=address, prompts=prompts, calls=6, deadline_s=60, out=out
        ).run()
    told = json.loads(out.read_text())
    assert (told["prompts"], told["calls"]) == (3, 6)
    kinds = [told[kind] for kind in ("edge", "deferred_whole", "deferred")]
    for kind in kinds:
        assert 0 < kind["first_token"]["p50_ms"] <= kind["verdict"]["p50_ms"]
        assert 0 < kind["further_token"]["p50_ms"] <= kind["verdict"]["p50_ms"]
    whole, _, stopped = (kind["tokens"] for kind in kinds)
    assert 1 <= stopped <= whole == ANSWER
    assert told["deferred_cloud"]["answer"]["p50_ms"] > told["edge"]["first_token"]["p50_ms"]
    printed = capsys.readouterr().out
    assert "answered by the edge" in printed
    assert "deferred, the cloud's text" in printed


def test_latency_of_a_language_model_needs_no_cloud_and_no_prompts(made, capsys):
    LatencySettings(bundle=made.bundle, calls=1).run()
    printed = capsys.readouterr().out
    assert "1 calls each" in printed
    assert "cloud" not in printed


def test_a_cloud_that_does_not_answer_is_an_error(made, prompts):
    with pytest.raises(BenchmarkError, match="the cloud does not answer: "):
        LatencySettings(
            bundle=made.bundle, cloud="localhost:1", prompts=prompts, deadline_s=0.3
        ).run()


@pytest.mark.parametrize(
    ("text", "says"),
    [("\n \n", "one a line, got none"), ("w3 " * 160, "one is not: the prompt has 161 tokens")],
)
def test_prompts_that_cannot_be_answered_are_refused(text, says, made, tmp_path):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(BenchmarkError, match=says):
        LatencySettings(bundle=made.bundle, prompts=tmp_path / "p.txt").run()


def test_prompts_are_for_language_models(bundle, tmp_path):
    with pytest.raises(SettingError, match="a language model's bundle with --prompts"):
        LatencySettings(bundle=bundle, prompts=tmp_path / "p.txt").run()
