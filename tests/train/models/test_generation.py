"""Answers of a language model, and the figures for confidences, against slow computations."""

import math

import numpy as np
import pytest
import torch
from tools.devices import cuda
from tools.language_models import DECODED, PROMPTS, SHAPE, by_hand, tiny, tolerance
from transformers import GenerationConfig

from edge_runtime import metrics
from edge_runtime.errors import InputError
from train.models.decoding import Recorder, decode, greedy_mode
from train.models.generation import EMPTY
from train.models.language import open_language_model, save_language_model
from train.models.untrained import Shape

pytestmark = pytest.mark.slow

MOST = 6
NINE = 9
# The repeated prompt is of middle length: the others come before and after it in a batch.
MANY = PROMPTS[2:3] * NINE + [PROMPTS[0], PROMPTS[1], PROMPTS[3]]


@pytest.fixture(scope="module", params=DECODED)
def lm(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def gemma():
    return tiny("gemma")


def with_end(lm, token):
    """Let a language model's answers end at another token."""
    lm.tokenizer.eos_token = lm.tokenizer.convert_ids_to_tokens(int(token))
    return lm


def ending_early(architecture, window=None):
    """Return a model whose answers to the first of `MANY` end before the others; and when."""
    lm = tiny(architecture, seed=2 if architecture == "gpt2" else 1)
    if window is not None:
        lm.model.config.sliding_window = window
        for layer in lm.model.model.layers:
            if layer.self_attn.sliding_window:
                layer.self_attn.sliding_window = window
    free = lm.generate(MANY, 7)
    others = set(free.tokens[NINE:].ravel())
    at = next(i for i, token in enumerate(free.tokens[0]) if token not in others)
    assert at < 6
    return with_end(lm, free.tokens[0, at]), at + 1


def assert_answers(generated, lm, prompts, most=MOST):
    expected = {prompt: by_hand(lm, prompt, most) for prompt in set(prompts)}
    for row, prompt in enumerate(prompts):
        tokens, entropies, logs = expected[prompt]
        counted = generated.counted[row]
        assert generated.tokens[row][counted].tolist() == tokens.tolist(), prompt
        np.testing.assert_allclose(
            generated.neg_entropy[row][counted], entropies, atol=tolerance(lm)
        )
        np.testing.assert_allclose(generated.logprob[row][counted], logs, atol=tolerance(lm))
        shown = [token for token in tokens if token not in {0, 1, 2, lm.tokenizer.eos_token_id}]
        assert generated.texts[row] == lm.tokenizer.decode(shown)


def test_answers_are_those_of_one_prompt_at_a_time_without_a_cache(lm):
    generated = lm.generate(PROMPTS, MOST)
    assert_answers(generated, lm, PROMPTS)
    assert generated.refused == {}
    assert len({tuple(row) for row in generated.tokens.tolist()}) == len(PROMPTS)


def test_answers_are_those_of_the_models_own_generate(lm):
    generated = lm.generate(PROMPTS, MOST)
    for row, prompt in enumerate(PROMPTS):
        ids = lm.tokenizer(prompt, return_tensors="pt")["input_ids"]
        config = GenerationConfig(
            max_new_tokens=MOST, eos_token_id=lm.tokenizer.eos_token_id, pad_token_id=0
        )
        out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        own = out[0, ids.shape[1] :].tolist()
        assert generated.tokens[row][generated.counted[row]].tolist() == own


def test_no_confidence_depends_on_the_other_prompts_of_a_batch(lm):
    together = lm.generate(PROMPTS, MOST)
    alone = [lm.generate([prompt], MOST) for prompt in PROMPTS]
    for kind in metrics.SEQUENCE_KINDS:
        values = [one.confidence(kind).item() for one in alone]
        np.testing.assert_allclose(together.confidence(kind), values, rtol=0, atol=tolerance(lm))
        assert np.isfinite(values).all()


def test_batches_change_no_answer(gemma):
    done = []
    generated = gemma.generate(PROMPTS, MOST, batch_size=2, progress=done.append)
    assert_answers(generated, gemma, PROMPTS)
    assert done == [2, 2, 1]


def test_long_prompts_and_large_vocabularies_make_batches_smaller(gemma, monkeypatch):
    monkeypatch.setattr("train.models.generation._TOKENS", 40)
    done = []
    assert_answers(gemma.generate(PROMPTS, MOST, progress=done.append), gemma, PROMPTS)
    assert len(done) > 1
    monkeypatch.undo()
    monkeypatch.setattr("train.models.generation._LOGITS", 2 * gemma.vocabulary)
    done.clear()
    gemma.generate(PROMPTS, MOST, progress=done.append)
    assert done == [2, 2, 1]


def test_the_end_counts_and_nothing_after_it_does(lm):
    free = lm.generate(PROMPTS, MOST)
    lm = with_end(lm, free.tokens[1, 2])
    try:
        generated = lm.generate(PROMPTS, MOST)
        assert_answers(generated, lm, PROMPTS)
        assert generated.counted[1].sum() <= 3
        assert generated.tokens[1][generated.counted[1]][-1] == lm.tokenizer.eos_token_id
    finally:
        lm.tokenizer.eos_token = "<eos>"


@pytest.mark.parametrize("architecture", DECODED)
def test_rows_that_have_ended_are_decoded_no_further(architecture):
    lm, end = ending_early(architecture)
    with greedy_mode(lm.model), torch.inference_mode():
        encoded = lm.tokenizer(MANY)["input_ids"]
        pieces = list(decode(lm.model, lm.tokenizer, encoded, 7, ends=lm.ends))
    assert [(s.first, s.rows.tolist()) for s in pieces] == [
        (0, list(range(NINE + 3))),
        (end, list(range(NINE, NINE + 3))),
    ]
    assert_answers(lm.generate(MANY, 7), lm, MANY, most=7)


def test_a_sliding_window_survives_a_smaller_batch():
    lm, _ = ending_early("gemma2", window=5)
    generated = lm.generate(MANY, 7)
    assert_answers(generated, lm, MANY, most=7)
    assert len(set(generated.counted.sum(axis=1))) > 1


def test_the_models_own_generation_settings_change_nothing():
    plain, bent = tiny("llama"), tiny("llama")
    own = GenerationConfig(repetition_penalty=3.0, suppress_tokens=[5, 6, 7], min_new_tokens=4)
    bent.model.generation_config = own
    assert_answers(bent.generate(PROMPTS, MOST), plain, PROMPTS)
    assert bent.model.generation_config is own


def chatty(folder, ends):
    """Return a Llama from a folder whose `generation_config.json` names ends of a turn."""
    lm = tiny("llama")
    lm.model.float()
    lm.model.generation_config.eos_token_id = ends
    save_language_model(lm, folder)
    return open_language_model(folder)


def test_any_of_a_models_ends_ends_an_answer(tmp_path):
    """Chat models end a turn with another token than a text."""
    free = chatty(tmp_path / "free", 2).generate(PROMPTS, 9)
    first, second = int(free.tokens[0, 3]), int(free.tokens[1, 5])
    lm = chatty(tmp_path / "chatty", [first, second, 10**6])
    assert lm.ends == tuple(sorted({lm.tokenizer.eos_token_id, first, second}))
    generated = lm.generate(PROMPTS, 9)
    batch, steps = lm.batch(lm.tokenizer(PROMPTS)["input_ids"], [9] * len(PROMPTS)), []
    while len(batch):
        steps.append(batch.step())
    for row, tokens in enumerate(free.tokens.tolist()):
        length = next((i + 1 for i, token in enumerate(tokens) if token in lm.ends), 9)
        assert generated.tokens[row][generated.counted[row]].tolist() == tokens[:length]
        assert [int(s.tokens[s.rows == row][0]) for s in steps if row in s.rows] == tokens[:length]
        shown = [token for token in tokens[:length] if token not in lm.ends]
        assert generated.texts[row] == lm.tokenizer.decode(shown, skip_special_tokens=True)
    assert generated.counted.sum(axis=1)[0] == 4


def test_a_model_is_left_as_it_was():
    lm = tiny("gpt2")
    lm.model.train()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        lm.generate(PROMPTS, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert lm.model.training
    lm.model.eval()
    lm.generate(PROMPTS, 2)
    assert not lm.model.training


def test_a_prompt_that_cannot_be_answered_has_a_reason_and_no_tokens(gemma):
    long = "card " * 200
    tokens = len(gemma.tokenizer(long)["input_ids"])
    prompts = ["", PROMPTS[0], " \n\t", long, "half a pair \ud800"]
    generated = gemma.generate(prompts, MOST)
    assert generated.refused == {
        0: EMPTY,
        2: EMPTY,
        3: f"the prompt has {tokens} tokens: the context of 96 has no room for an answer",
        4: "the prompt is not valid text: it holds half of a surrogate pair",
    }
    for row in generated.refused:
        assert not generated.counted[row].any()
        assert generated.texts[row] == ""
    assert_answers(gemma.generate(prompts[1:2], MOST), gemma, prompts[1:2])
    for kind in metrics.SEQUENCE_KINDS:
        assert np.isnan(generated.confidence(kind)).tolist() == [True, False, True, True, True]


def test_an_answer_ends_with_the_context_and_no_neighbour_shortens_another(lm):
    prompts = ["my" + "z" * size for size in range(lm.context)]
    rooms = [lm.context - len(ids) for ids in lm.tokenizer(prompts)["input_ids"]]
    near = [i for i, room in enumerate(rooms) if -1 <= room <= 7]
    chosen = [prompts[i] for i in near] + PROMPTS[:1]
    expected = [min(5, max(0, rooms[i])) for i in near] + [5]
    assert {0, 1, 5} < set(expected)
    generated = lm.generate(chosen, 5)
    assert generated.counted.sum(axis=1).tolist() == expected
    assert [i in generated.refused for i in range(len(chosen))] == [room == 0 for room in expected]
    for row in (expected.index(1), len(chosen) - 1):
        tokens = by_hand(lm, chosen[row], 5)[0]
        assert generated.tokens[row][generated.counted[row]].tolist() == tokens.tolist()


def test_no_token_at_all_defers(gemma):
    generated = gemma.generate(PROMPTS, 0)
    assert generated.tokens.shape == (len(PROMPTS), 0)
    assert generated.texts == ("",) * len(PROMPTS)
    assert set(generated.refused.values()) == {"no token may be generated: max_new_tokens is 0"}
    for kind in metrics.SEQUENCE_KINDS:
        assert np.isnan(generated.confidence(kind)).all()


def test_no_prompt_gives_no_answer(gemma):
    generated = gemma.generate([], MOST)
    assert generated.tokens.shape == (0, 0)
    assert generated.confidence("neg_entropy").shape == (0,)


@pytest.mark.parametrize(("most", "batch"), [(-1, 1), (1, 0)])
def test_limits_out_of_range_are_refused(gemma, most, batch):
    with pytest.raises(InputError, match="max_new_tokens of at least 0 and batch_size"):
        gemma.generate(PROMPTS, most, batch_size=batch)


def test_weights_that_are_nan_defer_every_answer():
    lm = tiny("llama")
    with torch.no_grad():
        lm.model.model.norm.weight.fill_(math.nan)
    generated = lm.generate(PROMPTS, 3)
    for kind in metrics.SEQUENCE_KINDS:
        assert np.isnan(generated.confidence(kind)).all()


def test_bytes_that_are_not_utf_8_become_replacement_characters():
    lm = tiny("llama")
    # The character that stands for the byte 0xFF in byte-level BPE; no UTF-8 text has that byte.
    broken = lm.tokenizer.convert_tokens_to_ids("\N{LATIN SMALL LETTER Y WITH DIAERESIS}")
    with torch.no_grad():
        lm.model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(lm.model.lm_head.weight))
        lm.model.lm_head.weight[broken] = 1.0
        lm.model.model.norm.weight.abs_()
    generated = lm.generate(PROMPTS, 3)
    assert broken in generated.tokens
    assert any("\N{REPLACEMENT CHARACTER}" in text for text in generated.texts)
    assert all(text.encode() for text in generated.texts)


def test_the_watched_token_has_its_log_probability_at_the_first_step(lm):
    watched = int(lm.tokenizer("N", add_special_tokens=False)["input_ids"][0])
    generated = lm.generate([*PROMPTS, ""], MOST, watch=watched)
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            logits = lm.model(lm.tokenizer(prompt, return_tensors="pt")["input_ids"]).logits
        z = logits[0, -1].double().numpy()
        expected = z[watched] - z.max() - np.log(np.exp(z - z.max()).sum())
        assert generated.watched[row] == pytest.approx(expected, abs=tolerance(lm))
    assert np.isnan(generated.watched[-1])
    assert np.isnan(lm.generate(PROMPTS, 1).watched).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 40.0])
@pytest.mark.parametrize("vocabulary", [1, 2, 280, 50_000])
def test_entropy_and_log_probability_are_right_to_1e_6(vocabulary, scale, generator):
    logits = (scale * generator.standard_normal((8, vocabulary))).astype(np.float32)
    logits[0, 1:] = -np.inf
    recorder = Recorder()
    kept = recorder(None, torch.from_numpy(logits.copy()))
    np.testing.assert_array_equal(kept.numpy(), logits)
    z = logits.astype(np.float64)
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    entropy = np.where(np.isinf(log_p), 0.0, np.exp(log_p) * np.maximum(log_p, -1e9)).sum(-1)
    np.testing.assert_allclose(recorder.neg_entropy[0], entropy, rtol=0, atol=1e-6)
    np.testing.assert_allclose(recorder.logprob[0], log_p.max(-1), rtol=0, atol=1e-6)
    assert np.all(recorder.logprob[0].numpy() <= 0.0)
    assert np.all(recorder.neg_entropy[0].numpy() <= 0.0)


@pytest.mark.parametrize("broken", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_are_no_distribution_give_nan(broken):
    recorder = Recorder(watched=1)
    recorder(None, torch.tensor([broken]))
    assert recorder.neg_entropy[0].isnan().all()
    assert recorder.logprob[0].isnan().all()
    assert recorder.watched.isnan().all()


def test_half_precision_weights_give_figures_in_full_precision():
    lm = tiny("gemma", shape=Shape(**{**vars(SHAPE), "layers": 1}))
    lm.model.bfloat16()
    generated = lm.generate(PROMPTS, 2)
    assert generated.neg_entropy.dtype == np.float64
    assert len(np.unique(generated.confidence("mean_logprob"))) == len(PROMPTS)


@pytest.mark.parametrize("device", [cuda])
@pytest.mark.parametrize("architecture", DECODED)
def test_a_gpu_answers_as_a_cpu_does(architecture, device):
    lm, _ = ending_early(architecture)
    expected = lm.generate(MANY, 7, watch=5)
    lm.model.to(device)
    found = lm.generate(MANY, 7, watch=5)
    assert found.texts == expected.texts
    np.testing.assert_array_equal(found.counted, expected.counted)
    for kind in metrics.SEQUENCE_KINDS:
        np.testing.assert_allclose(found.confidence(kind), expected.confidence(kind), atol=1e-5)
    np.testing.assert_allclose(found.watched, expected.watched, atol=1e-5)
