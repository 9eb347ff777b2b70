"""The figures of `benchmarks decoding` distinguish sound graphs and stops from broken ones."""

import json

import numpy as np
import pytest
import torch
from tools.language_models import PROMPTS, by_hand, tiny

from benchmarks.commands.language import DecodingSettings
from benchmarks.errors import BenchmarkError
from benchmarks.figures import check
from benchmarks.language.promises import prompts
from benchmarks.language.promises.certainty import Tally, measure_certainty
from benchmarks.language.promises.corpora import Corpus, story_openings
from benchmarks.language.promises.memory import measure_memory
from benchmarks.language.promises.random_models import RandomModels, write_random_model
from benchmarks.language.promises.reference import ExactModel, Split, answer_greedily, find_splits
from benchmarks.language.promises.savings import measure_corpus
from benchmarks.language.promises.tokens import measure_tokens
from edge_runtime.language import Decoder, Generation, generation
from edge_runtime.metrics import SEQUENCE_KINDS

CASE = ("llama", "sum_logprob")


def test_answers_part_at_their_first_different_token():
    ours = [(1, 2, 3), (1, 2), (5, 5), (4,)]
    theirs = [(1, 2, 3), (1, 2, 9), (5, 6), (7,)]
    expected = [Split("b", (1, 2)), Split("c", (5,)), Split("d", ())]
    assert find_splits("abcd", ours, theirs) == expected


def test_variety_counts_answers_tokens_and_repetitions():
    text = prompts.describe_variety([(1, 2, 1, 2), (3, 4), (3, 4)])
    assert text == (
        "2 different answers of 4 different tokens; within an answer 83% of the tokens are "
        "different"
    )  # (2/4 + 1 + 1) / 3


def test_prompts_are_short_and_long_and_openings_do_not_repeat():
    words = [len(prompt.split()) for prompt in prompts.random_prompts(300, 0)]
    assert (min(words), max(words)) == (1, 40)
    assert prompts.random_prompts(3, 0) != prompts.random_prompts(3, 1)
    assert len(set(story_openings())) == len(story_openings()) == 600


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_reference_is_a_whole_forward_pass_for_each_token(architecture):
    model = tiny(architecture)
    answers = answer_greedily(model, PROMPTS, 7)
    exact = ExactModel(model)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        tokens, entropies, logprobs = by_hand(model, prompt, 7)
        assert answer == tuple(tokens)
        found = exact.confidences(prompt, answer, SEQUENCE_KINDS)
        assert found == pytest.approx(
            {
                "neg_entropy": entropies.mean(),
                "mean_logprob": logprobs.mean(),
                "sum_logprob": logprobs.sum(),
                "min_prob": np.exp(logprobs.min()),
                "max_softmax": np.exp(logprobs[0]),
            },
            abs=1e-5,
        )


def test_the_gap_is_that_of_the_two_greatest_logits():
    model = tiny("llama")
    ids = model.tokenizer(PROMPTS[0])["input_ids"]
    with torch.no_grad():
        logits = model.model(torch.tensor([[*ids, 9, 8]])).logits[0, -1].sort().values
    assert ExactModel(model).gap(PROMPTS[0], (9, 8)) == pytest.approx(
        float(logits[-1] - logits[-2])
    )


def made(tokens, ended, *, defer, confidence=-1.0):
    return Generation(tokens, "", confidence, defer, ended)


def test_a_tally_counts_decisions_and_the_tokens_saved_in_deferred_generations():
    tally = Tally()
    whole = made((1, 2, 3, 4), "length", defer=True)
    kept = made((1, 2), "eos", defer=False)
    tally.add(whole, made((1,), "certain", defer=True, confidence=-2.0))
    tally.add(kept, kept)
    assert (tally.changed, tally.other, tally.early) == (0, 0, 1)
    assert (tally.saved, tally.deferred_tokens, tally.tokens, tally.deferred) == (3, 4, 6, 1)
    tally.add(kept, made((1,), "certain", defer=True))
    tally.add(whole, made((7,), "certain", defer=True))
    tally.add(kept, made((1, 2), "eos", defer=False, confidence=-1.5))
    assert (tally.pairs, tally.changed, tally.other) == (5, 1, 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a random llama, exported with one confidence."""
    models = RandomModels(tmp_path_factory.mktemp("random"), 0, *((one,) for one in CASE))
    models.bundles()
    return models


@pytest.mark.slow
def test_a_sound_export_meets_its_figures(models):
    tokens, confidence = measure_tokens(models, 20)
    assert (tokens.value, tokens.is_met, confidence.is_met) == (0, True, True)
    assert "20 prompts" in tokens.detail
    assert 0 < confidence.value < 1e-4


@pytest.mark.slow
def test_a_graph_of_another_model_misses_its_figures(models, tmp_path):
    (architecture, kind) = CASE
    other = RandomModels(models.folder, 0, (architecture,), (kind,))
    other._written[architecture] = write_random_model(architecture, tmp_path / "other", 1)
    tokens, confidence = measure_tokens(other, 20)
    assert (tokens.is_met, confidence.is_met) == (False, False)
    assert tokens.value >= 19
    assert f"in 0 of the {int(tokens.value)} the two largest logits tie" in tokens.detail


@pytest.mark.slow
def test_a_stop_that_comes_too_soon_changes_decisions(models, monkeypatch):
    changed, other, early = measure_certainty(models, 150)
    assert (changed.value, other.value, early.is_met) == (0, 0, True)
    assert "of 150 generations of 1 exported graphs" in changed.detail
    monkeypatch.setattr(generation, "floor_of", lambda kind, threshold, limit: threshold / 2)
    changed, other, _ = measure_certainty(models, 150)
    assert changed.value > 0
    assert (changed.is_met, other.is_met) == (False, True)


@pytest.mark.slow
def test_saved_tokens_are_those_that_stopped_generations_lack(models):
    texts = prompts.random_prompts(60, 5)
    bundle = models.bundles()[CASE]
    corpus = Corpus(
        name="made up",
        bundles={CASE[1]: bundle},
        calibration=texts[:30],
        test=texts[30:],
        model="a llama",
    )
    changed, *saved = measure_corpus(corpus)
    assert (changed.value, changed.is_met) == (0, True)
    assert [figure.name.split(" at ")[1] for figure in saved] == [
        f"{ratio}: tokens saved" for ratio in ("10%", "30%", "50%")
    ]
    with Decoder.open(bundle) as decoder:
        calibration = decoder.generate(texts[:30], stop_when_certain=False)
        # Of 30 confidences 15 lie under the sixteenth.
        half = sorted(answer.confidence for answer in calibration)[15]
        whole = decoder.generate(texts[30:], threshold=half, stop_when_certain=False)
        stopped = decoder.generate(texts[30:], threshold=half)
    pairs = [(w.token_count, s.token_count) for w, s in zip(whole, stopped, strict=True) if w.defer]
    total = sum(one for one, _ in pairs)
    assert saved[2].samples == ((100 * (total - sum(other for _, other in pairs)), total),)
    assert 0 < saved[2].value < 100


@pytest.mark.slow
def test_memory_is_watched_in_a_process_of_its_own(models, tmp_path):
    figures = measure_memory(models.bundles()[CASE], 0, 110, words=3)
    growth, long, closed, *held = figures
    assert growth.name == "memory growth, generations 100 to 110"
    assert all(abs(figure.value) < 100 for figure in (growth, long, closed))
    assert [figure.limit for figure in held] == [None, None]
    with pytest.raises(BenchmarkError, match=r"promises\.memory failed: .*bundle"):
        measure_memory(tmp_path, 0, 110, words=3)


@pytest.mark.slow
def test_the_chosen_groups_are_printed_and_written_and_missing_data_is_named(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("GATEKEEPER_DATA", str(tmp_path))
    out = tmp_path / "d.json"
    DecodingSettings(only=("savings", "story"), out=out).run()
    printed = capsys.readouterr().out
    assert "== story" in printed
    assert "== tokens" not in printed
    assert printed.splitlines()[-1] == "4 figures, 0 missed"
    figures = json.loads(out.read_text())["figures"]
    names = [figure["name"].split(":")[0] for figure in figures]
    assert names == ["clinc150", "svamp", "stories260k", "stories260k"]
    assert all(f"under {tmp_path}" in figure["detail"] for figure in figures)
    assert [(figure["value"], figure["met"]) for figure in figures] == [(None, None)] * 4
    assert check(out) == 4
