"""`python -m benchmarks generation` and `latency` of a language model, with tiny ones."""

import contextlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks.commands.figures import LatencySettings
from benchmarks.commands.language import GenerationSettings
from benchmarks.errors import BenchmarkError
from benchmarks.language.speed import figures as speed_figures
from benchmarks.language.speed import models
from benchmarks.language.speed.answer_loop import Request
from benchmarks.language.speed.comparison import (
    GENAI,
    GENAI_GATED,
    OPTIMUM,
    OPTIMUM_GATED,
    OPTIMUM_GRAPH,
    OURS,
    Comparison,
    alternate,
    engine_versions,
    install_hint,
    running_engines,
)
from benchmarks.language.speed.engine_process import EngineProcess
from benchmarks.language.speed.figures import measure_prefill, measure_quantized, measure_tokens
from benchmarks.language.speed.models import ModelForms, make_model, numbered_tokenizer
from benchmarks.processes import running_server
from edge_runtime.errors import SettingError
from edge_runtime.language import Decoder
from train.models.untrained import Shape

pytestmark = pytest.mark.slow
SHAPE = Shape(width=32, layers=1, heads=2, kv_heads=1, inner=48, context=160)
VOCABULARY, ANSWER = 300, 6
REQUEST = Request("", "", (), 3)
FAKE = "tests.tools.fake_engine"
PEERS = (OPTIMUM, OPTIMUM_GATED, OPTIMUM_GRAPH, GENAI, GENAI_GATED)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every form of a tiny model that can be made here."""
    folder = tmp_path_factory.mktemp("made")
    return make_model(folder, VOCABULARY, 0, shape=SHAPE, answer_tokens=ANSWER)


@pytest.fixture(scope="module")
def engines(made, tmp_path_factory):
    """The engines of that model, running."""
    with running_engines(made, PEERS, tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="module")
def shared_engines(engines):
    """Let the measurements use the running engines: optimum takes seconds to start."""
    share = contextlib.nullcontext(engines)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(speed_figures, "running_engines", lambda *_: share)
        yield


@pytest.fixture(scope="module")
def token_figures(made, shared_engines):
    """The figures of the group tokens, by name."""
    figures = measure_tokens(made, Path(), GenerationSettings(rounds=2, tokens=10))
    return {figure.name: figure for figure in figures}


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    log = tmp_path_factory.mktemp("fake") / "log"
    with EngineProcess(sys.executable, FAKE, log=log) as process:
        yield process


def test_a_prompt_has_the_number_of_tokens_that_it_should_have():
    places = dict.fromkeys(("checkpoint", "bundle", "optimum", "genai"), Path())
    request = ModelForms(SHAPE, VOCABULARY, **places).request(17, 5, seed=1)
    assert len(request.tokens) == 17
    tokens = numbered_tokenizer(VOCABULARY)(request.text)["input_ids"]
    assert tokens == list(request.tokens)


def test_our_process_generates_what_the_decoder_does(made, engines):
    request = made.request(9, 12, seed=3)
    with Decoder.open(made.bundle) as decoder:
        (answer,) = decoder.generate([request.text], 12, stop_when_certain=False)
    process, mode = engines[OURS]
    output = process(request._replace(mode=mode))
    assert output.tokens == answer.tokens
    assert output.confidence == pytest.approx(answer.confidence)
    assert output.took_ns > 0
    # With the usual weights a model repeats one token.
    assert len(set(output.tokens)) > 3


@pytest.mark.parametrize(
    ("peer", "gated", "distribution"),
    [
        (OPTIMUM, OPTIMUM_GATED, "optimum-onnx"),
        (GENAI, GENAI_GATED, "onnxruntime-genai"),
    ],
    ids=["optimum", "genai"],
)
def test_a_peer_generates_the_same_tokens(peer, gated, distribution, made, token_figures):
    each, first = f"time per token, ours / {peer}", f"time to first token, ours / {peer}"
    figures = [token_figures[name] for name in (each, first, f"time per token, ours / {gated}")]
    if {OPTIMUM: made.optimum, GENAI: made.genai}[peer] is None:
        assert {figure.detail for figure in figures} == {install_hint(peer)}
        pytest.skip(install_hint(peer))
    for figure in figures:
        assert figure.value > 0
        assert len(figure.samples) == 2
        assert f"{distribution} " in figure.detail
    assert "mean of 10 tokens, hidden 32, 1 layers, vocabulary 300, 1 thread" in figures[0].detail


def test_one_figure_of_tokens_has_a_limit(token_figures):
    limits = {name: f.limit for name, f in token_figures.items() if f.limit is not None}
    assert limits == {f"time per token, ours / {OPTIMUM}": 0.6}
    assert len(token_figures) == 6


def test_a_quantized_bundle_is_compared_with_the_float_one(made, tmp_path):
    settings = GenerationSettings(rounds=2, tokens=5)
    (figure,) = measure_quantized(made, tmp_path, settings, ["int8-dynamic"])
    assert figure.name == "time per token, int8-dynamic / float32"
    assert len(figure.samples) == 2
    assert figure.value > 0
    decoder = Decoder.open(tmp_path / "int8-dynamic")
    assert "int8-dynamic" in str(decoder.metadata.extra["quantization"])


@pytest.mark.usefixtures("shared_engines")
def test_a_prefill_is_compared_with_logits_of_every_position(made, tmp_path):
    if made.optimum is None:
        pytest.skip(install_hint(OPTIMUM))
    graph, generate = measure_prefill(made, tmp_path, GenerationSettings(rounds=1))
    assert graph.name == "prefill of 128 tokens at vocabulary 300, ours / optimum's graph"
    assert (graph.limit, generate.limit) == (0.15, None)
    assert min(graph.value, generate.value) > 0


def test_a_missing_peer_is_named_with_its_installation(made, tmp_path):
    bare = ModelForms(SHAPE, VOCABULARY, made.checkpoint, made.bundle, None, None)
    with running_engines(bare, [OPTIMUM, GENAI], tmp_path) as running:
        turns = alternate(running, made.request(4, 2, 0), 1, peers=[OPTIMUM, GENAI])
        versions = engine_versions(running)
    assert list(turns) == [OURS]
    comparison = Comparison("time", "c", turns, versions)
    figure = comparison.figure(GENAI)
    assert (figure.value, figure.detail) == (None, models.GENAI_MISSING)
    assert "make .venv-genai/.installed" in figure.detail
    assert "optimum" in comparison.figure(OPTIMUM, 0.6).detail


def test_output_that_a_library_prints_is_no_answer(fake):
    assert fake(REQUEST._replace(mode="counts")).tokens == (7, 8, 9)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("fewer", r"expected the same 3 tokens .* \(7, 8, 9\) from ours and \(7, 8\) from x"),
        ("others", r"from ours and \(7, 8, 10\) from x: take another --seed"),
        ("surer", "got -2.0 from ours and -1.999 from x"),
    ],
)
def test_times_of_different_work_are_not_compared(mode, says, fake):
    running = {OURS: (fake, "gated"), "x": (fake, mode)}
    with pytest.raises(BenchmarkError, match=says):
        alternate(running, REQUEST, 1, peers=["x"])


def test_equal_work_is_compared_with_and_without_a_gate(fake):
    running = {OURS: (fake, "gated"), "x": (fake, "counts")}
    turns = alternate(running, REQUEST, 3, peers=["x"], calls=2)
    assert [len(turn) for turn in turns.values()] == [3, 3]


def test_a_process_that_ends_leaves_its_reason(tmp_path):
    with (
        EngineProcess(sys.executable, FAKE, log=tmp_path / "log") as process,
        pytest.raises(BenchmarkError, match="fake_engine, it ended: the memory is full"),
    ):
        process(REQUEST._replace(mode="ends"))
    with (
        pytest.raises(BenchmarkError, match="No module named"),
        EngineProcess(sys.executable, "tests.tools.nobody", log=tmp_path / "log"),
    ):
        pytest.fail("it started")


def test_the_ratio_is_the_median_of_the_pairs():
    turns = {OURS: [1.0, 2.0, 8.0], GENAI: [2.0, 2.0, 4.0]}
    comparison = Comparison("time", "10 tokens", turns, {GENAI: "genai 1.0"}, divisor=10)
    figure = comparison.figure(GENAI, 0.6)
    assert (figure.value, figure.samples, figure.is_met) == (1.0, (0.5, 1.0, 2.0), False)
    assert figure.detail.startswith(
        "0.2 and 0.2 ms, 10 tokens; genai 1.0; 95 % interval 0.500 to 2.000"
    )


def test_a_genai_builder_that_fails_says_why(tmp_path):
    if not models.is_genai_installed():
        pytest.skip(models.GENAI_MISSING)
    (tmp_path / "model").mkdir()
    with pytest.raises(BenchmarkError, match="a graph from onnxruntime-genai's builder: "):
        models.build_genai(tmp_path / "model", tmp_path / "out")


@pytest.fixture(scope="module")
def prompts(made, tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    lines = [made.request(size, 1, size).text for size in (4, 12, 5)]
    file.write_text("\n\n".join(lines) + "\n")
    return file


def test_the_latency_of_a_language_model_is_listed_by_kind_of_call(made, prompts, tmp_path, capsys):
    out = tmp_path / "l.json"
    served = ["cloud_stub", "--checkpoint", str(made.checkpoint), "--port", "0", "--threads", "1"]
    with running_server(served) as address:
        LatencySettings(
            bundle=made.bundle, cloud=address, prompts=prompts, calls=3, deadline_s=60, out=out
        ).run()
    result = json.loads(out.read_text())
    assert (result["prompts"], result["calls"]) == (3, 3)
    kinds = [result[kind] for kind in ("edge", "deferred_whole", "deferred")]
    for kind in kinds:
        assert 0 < kind["first_token"]["p50_ms"] <= kind["verdict"]["p50_ms"]
        assert 0 < kind["further_token"]["p50_ms"] <= kind["verdict"]["p50_ms"]
    whole, _, stopped = (kind["tokens"] for kind in kinds)
    assert 1 <= stopped <= whole == ANSWER
    assert result["deferred_cloud"]["answer"]["p50_ms"] > result["edge"]["first_token"]["p50_ms"]
    printed = capsys.readouterr().out
    assert "answered on the edge" in printed
    assert "deferred, the cloud's text" in printed


def test_latency_of_a_language_model_needs_no_cloud_and_no_prompts(made, capsys):
    LatencySettings(bundle=made.bundle, calls=1).run()
    printed = capsys.readouterr().out
    assert "1 calls each" in printed
    assert "cloud" not in printed


def test_a_cloud_that_does_not_answer_is_an_error(made, prompts):
    with pytest.raises(BenchmarkError, match="expected an answer from the cloud, got "):
        LatencySettings(
            bundle=made.bundle, cloud="localhost:1", prompts=prompts, deadline_s=0.3
        ).run()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n \n", "one per line, got none"),
        ("w3 " * 160, "one is refused: the prompt has 161 tokens"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused(text, says, made, tmp_path):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(BenchmarkError, match=says):
        LatencySettings(bundle=made.bundle, prompts=tmp_path / "p.txt").run()


def test_prompts_are_for_language_models(bundle, tmp_path):
    with pytest.raises(SettingError, match="--prompts needs a language model's bundle"):
        LatencySettings(bundle=bundle, prompts=tmp_path / "p.txt").run()
