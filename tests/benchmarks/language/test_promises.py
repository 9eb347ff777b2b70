"""The figures of `benchmarks decoding` tell a sound graph and a sound stop from broken ones."""

import json
import math

import numpy as np
import pytest
import torch
from tools.language_models import PROMPTS, by_hand, tiny

from benchmarks import figures as verdicts
from benchmarks.commands.language import DecodingSettings
from benchmarks.figures import STATISTICS
from benchmarks.language.promises import certainty, memory, prompts
from benchmarks.language.promises import tokens as token_figures
from benchmarks.language.promises.certainty import Tally
from benchmarks.language.promises.corpora import Corpus, story_openings
from benchmarks.language.promises.random_models import RandomModels, write_random_model
from benchmarks.language.promises.reference import Exact, Split, greedy_answers, splits
from benchmarks.language.promises.savings import corpus_figures, saving_figures
from benchmarks.language.promises.story import story_figures
from edge_runtime.errors import GatekeeperError
from edge_runtime.language import Decoder, Generation
from edge_runtime.language import generation as rows
from edge_runtime.metrics import SEQUENCE_KINDS

CASE = ("llama", "sum_logprob")


def test_a_share_is_of_all_parts_in_all_wholes_and_the_greatest_is_never_hidden():
    assert STATISTICS["share"]([(1, 2), (2, 10)]) == 3 / 12
    assert STATISTICS["share"]([(0, 0)]) == 0
    assert STATISTICS["greatest"]([1.0, 3.0, 2.0]) == 3
    assert math.isnan(STATISTICS["greatest"]([1.0, math.nan]))


def test_answers_part_at_their_first_other_token():
    ours = [(1, 2, 3), (1, 2), (5, 5), (4,)]
    theirs = [(1, 2, 3), (1, 2, 9), (5, 6), (7,)]
    assert splits("abcd", ours, theirs) == [Split("b", (1, 2)), Split("c", (5,)), Split("d", ())]


def test_variety_counts_answers_tokens_and_repetitions():
    said = prompts.variety([(1, 2, 1, 2), (3, 4), (3, 4)])
    assert said == (
        "2 different answers of 4 different tokens, of an answer's own tokens 83% are different"
    )  # (2/4 + 1 + 1) / 3


def test_prompts_are_short_and_long_and_openings_do_not_repeat():
    words = [len(prompt.split()) for prompt in prompts.random_prompts(300, 0)]
    assert (min(words), max(words)) == (1, 40)
    assert prompts.random_prompts(3, 0) != prompts.random_prompts(3, 1)
    assert len(set(story_openings())) == len(story_openings()) == 600


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_reference_is_a_whole_forward_pass_for_each_token(architecture):
    model = tiny(architecture)
    answers = greedy_answers(model, PROMPTS, 7)
    exact = Exact(model)
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
    assert Exact(model).gap(PROMPTS[0], (9, 8)) == pytest.approx(float(logits[-1] - logits[-2]))


def generation(tokens, ended, *, defer, confidence=-1.0):
    return Generation(tokens, "", confidence, defer, ended)


def test_a_tally_counts_decisions_and_what_deferred_generations_are_spared():
    tally = Tally()
    whole = generation((1, 2, 3, 4), "length", defer=True)
    kept = generation((1, 2), "eos", defer=False)
    tally.add(whole, generation((1,), "certain", defer=True, confidence=-2.0))
    tally.add(kept, kept)
    assert (tally.changed, tally.other, tally.early) == (0, 0, 1)
    assert (tally.spared, tally.had, tally.told, tally.deferred) == (3, 4, 6, 1)
    tally.add(kept, generation((1,), "certain", defer=True))
    tally.add(whole, generation((7,), "certain", defer=True))
    tally.add(kept, generation((1, 2), "eos", defer=False, confidence=-1.5))
    assert (tally.pairs, tally.changed, tally.other) == (5, 1, 2)


def test_without_data_the_figures_are_left_out_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEKEEPER_DATA", str(tmp_path))
    figures = [*saving_figures(tmp_path, 0, 10), *story_figures(tmp_path)]
    assert [figure.value for figure in figures] == [None] * 4
    assert [figure.is_met for figure in figures] == [None] * 4
    assert [figure.name.split(":")[0] for figure in figures] == [
        *("clinc150", "svamp"),
        *["stories260k"] * 2,
    ]
    assert all(f"under {tmp_path}" in figure.detail for figure in figures)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a random llama, exported with one confidence."""
    made = RandomModels(tmp_path_factory.mktemp("random"), 0, *((one,) for one in CASE))
    made.bundles()
    return made


@pytest.mark.slow
def test_a_sound_export_meets_its_figures(models):
    tokens, confidence = token_figures.token_figures(models, 20)
    assert (tokens.value, tokens.is_met, confidence.is_met) == (0, True, True)
    assert "20 prompts" in tokens.detail
    assert 0 < confidence.value < 1e-4


@pytest.mark.slow
def test_a_graph_of_another_model_misses_its_figures(models, tmp_path):
    (architecture, kind) = CASE
    other = RandomModels(models.folder, 0, (architecture,), (kind,))
    other._written[architecture] = write_random_model(architecture, tmp_path / "other", 1)
    tokens, confidence = token_figures.token_figures(other, 20)
    assert (tokens.is_met, confidence.is_met) == (False, False)
    assert tokens.value >= 19
    assert f"in 0 of the {int(tokens.value)} the two greatest logits tie" in tokens.detail


@pytest.mark.slow
def test_a_stop_that_comes_too_soon_changes_decisions(models, monkeypatch):
    changed, other, early = certainty.certainty_figures(models, 150)
    assert (changed.value, other.value, early.is_met) == (0, 0, True)
    assert "of 150 generations of 1 exported graphs" in changed.detail
    monkeypatch.setattr(rows, "floor_of", lambda kind, threshold, limit: threshold / 2)
    changed, other, _ = certainty.certainty_figures(models, 150)
    assert changed.value > 0
    assert (changed.is_met, other.is_met) == (False, True)


@pytest.mark.slow
def test_saved_tokens_are_those_that_deferred_generations_lack(models):
    asked = prompts.random_prompts(60, 5)
    bundle = models.bundles()[CASE]
    corpus = Corpus(
        name="made up",
        bundles={CASE[1]: bundle},
        calibration=asked[:30],
        test=asked[30:],
        model="a llama",
    )
    changed, *saved = corpus_figures(corpus)
    assert (changed.value, changed.is_met) == (0, True)
    assert [figure.name.split(" at ")[1] for figure in saved] == [
        f"{ratio}: tokens saved" for ratio in ("10%", "30%", "50%")
    ]
    with Decoder.open(bundle) as decoder:
        tried = decoder.generate(asked[:30], stop_when_certain=False)
        # Of 30 confidences 15 lie under the sixteenth.
        half = sorted(answer.confidence for answer in tried)[15]
        whole = decoder.generate(asked[30:], threshold=half, stop_when_certain=False)
        ended = decoder.generate(asked[30:], threshold=half)
    pairs = [(w.token_count, e.token_count) for w, e in zip(whole, ended, strict=True) if w.defer]
    had = sum(one for one, _ in pairs)
    assert saved[2].samples == ((100 * (had - sum(other for _, other in pairs)), had),)
    assert 0 < saved[2].value < 100


@pytest.mark.slow
def test_memory_is_watched_in_a_process_of_its_own(models, tmp_path):
    figures = memory.memory_figures(models.bundles()[CASE], 0, 120, 3)
    growth, long, closed, *told = figures
    assert growth.name == "memory, generations 100 to 120"
    assert all(abs(figure.value) < 100 for figure in (growth, long, closed))
    assert [figure.limit for figure in told] == [None, None]
    with pytest.raises(GatekeeperError, match=r"the process of 120 generations ended: .*bundle"):
        memory.memory_figures(tmp_path, 0, 120, 3)


@pytest.mark.slow
def test_the_groups_that_were_asked_for_are_printed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GATEKEEPER_DATA", str(tmp_path))
    out = tmp_path / "d.json"
    DecodingSettings(only=("story", "savings"), out=out).run()
    printed = capsys.readouterr().out
    assert "== story" in printed
    assert "== tokens" not in printed
    assert printed.splitlines()[-1] == "4 figures, 0 missed"
    assert verdicts.check(out) == len(json.loads(out.read_text())["figures"]) == 4
