import gc
import math
import threading
import weakref

import numpy as np
import pytest
from tools.adding_decoder import CONTEXT, EOS, PAD, SILENT, Adder, write_adder

from edge_runtime.errors import InputError, SettingError, UseError
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.graph import Sequences

SPOKEN = "aé€😀b"
KINDS = ("neg_entropy", "mean_logprob", "sum_logprob", "min_prob", "max_softmax")
PROMPTS = ["hello", "a", "what is this", "é", "one two three four", "b c", "0" * 30, "z" * 38]


def confidence(kind, logprobs, entropies):
    return {
        "neg_entropy": np.mean(entropies),
        "mean_logprob": np.mean(logprobs),
        "sum_logprob": np.sum(logprobs),
        "min_prob": np.exp(np.min(logprobs)),
        "max_softmax": np.exp(logprobs[0]),
    }[kind]


def room(prompt, most=16):
    return min(most, CONTEXT - 1 - len(prompt.encode()))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_verdicts_are_the_models_own(kind, adder, tmp_path):
    decoder = Decoder.open(write_adder(tmp_path, adder, kind=kind, threshold=-1.0), threads=1)
    answers = decoder.generate(PROMPTS, stop_when_certain=False)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        tokens, logprobs, entropies = adder.answer(prompt, room(prompt))
        assert list(answer.tokens) == tokens
        assert answer.confidence == pytest.approx(confidence(kind, logprobs, entropies), abs=1e-5)
        assert answer.defer == (answer.confidence < -1.0)
        assert answer.ended == ("eos" if tokens[-1] == EOS else "length")
        assert (answer.reason, answer.saved) == (None, 0)


def test_an_answer_does_not_depend_on_those_beside_it(decoder):
    together = decoder.generate(PROMPTS, batch_size=8)
    alone = [decoder.generate([prompt])[0] for prompt in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        assert (one.tokens, one.ended, one.defer) == (other.tokens, other.ended, other.defer)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)
    assert {answer.ended for answer in alone} == {"eos", "length", "certain"}


def test_rows_that_leave_their_batch_take_nothing_of_the_others(decoder):
    stay = decoder.generate(PROMPTS)
    for one, other in zip(decoder.generate(PROMPTS, compact=True), stay, strict=True):
        assert (one.tokens, one.text, one.ended) == (other.tokens, other.text, other.ended)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_rows_that_share_a_scale_are_answered_one_by_one(adder, tmp_path, monkeypatch):
    plain = write_adder(tmp_path / "plain", adder)
    quantized = write_adder(tmp_path / "quantized", adder, quantization="int8-dynamic")
    sizes = []
    start = Sequences.__init__

    def watched(self, graph, prompts, threshold):
        sizes.append(len(prompts))
        start(self, graph, prompts, threshold)

    monkeypatch.setattr(Sequences, "__init__", watched)
    for bundle in (plain, quantized):
        Decoder.open(bundle, threads=1).generate(["one", "two"])
    assert sizes == [2, 1, 1]


def test_what_follows_an_end_is_no_part_of_the_answer(decoder):
    for answer in decoder.generate(PROMPTS, stop_when_certain=False):
        assert PAD not in answer.tokens
        assert EOS not in answer.tokens[:-1]
        assert answer.token_count == len(answer.tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_the_certain_deferral_stop_changes_no_decision(kind, tmp_path):
    random = np.random.default_rng(7)
    prompts = [bytes(random.integers(97, 123, 8).tolist()).decode() for _ in range(24)]
    saved = 0
    for seed in range(3):
        bundle = write_adder(tmp_path / str(seed), Adder.random(seed), kind=kind)
        decoder = Decoder.open(bundle, threads=1)
        whole = decoder.generate(prompts, threshold=-math.inf)
        # Thresholds that part them, one of them the confidence of an answer itself.
        for share in (0.25, 0.75):
            threshold = float(
                np.quantile([a.confidence for a in whole], share, method="inverted_cdf")
            )
            full = decoder.generate(prompts, threshold=threshold, stop_when_certain=False)
            short = decoder.generate(prompts, threshold=threshold)
            for one, other in zip(short, full, strict=True):
                assert one.defer == other.defer
                assert one.tokens == other.tokens[: one.token_count]
                if one.ended == "certain":
                    assert one.saved == 16 - one.token_count > 0
                else:
                    # To the last digit, though those beside it have ended.
                    assert (one.tokens, one.ended, one.saved) == (other.tokens, other.ended, 0)
                    assert one.confidence == other.confidence
            saved += sum(answer.saved for answer in short)
    assert saved > 0


def test_a_kind_that_is_not_known_is_generated_to_the_end(adder, tmp_path):
    bundle = write_adder(tmp_path, adder, confidence_kind="of_another_toolkit")
    answers = Decoder.open(bundle, threads=1).generate(PROMPTS, threshold=0.0)
    assert all(answer.defer and answer.ended != "certain" for answer in answers)


def test_a_model_that_breaks_defers(tmp_path):
    broken = Adder([97] * 259, [9.0] * 200 + [math.nan] * 59)
    answers = Decoder.open(write_adder(tmp_path, broken), threads=1).generate(["a", "b"])
    assert all(math.isnan(answer.confidence) and answer.defer for answer in answers)
    assert [answer.ended for answer in answers] == ["certain"] * 2


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        (SILENT, "the prompt has no token"),
        ("\ud800", "the prompt is not valid text: it holds half of a surrogate pair"),
        ("x" * 39, "the prompt has 40 tokens: the context of 40 has no room for an answer"),
    ],
)
def test_a_prompt_that_cannot_be_answered_defers_with_the_reason(prompt, reason, decoder):
    before, answer, after = decoder.generate(["hello", prompt, "hello"], stop_when_certain=False)
    assert (answer.ended, answer.reason, answer.defer) == ("refused", reason, True)
    assert math.isnan(answer.confidence)
    assert (answer.tokens, answer.text, answer.token_count) == ((), "", 0)
    assert before.tokens == after.tokens != ()
    assert [said.reason for said in decoder.stream(prompt)] == [reason]


def test_an_answer_ends_with_the_context(decoder, adder):
    (answer,) = decoder.generate(["z" * 38], stop_when_certain=False)
    assert (answer.token_count, answer.ended) == (1, "length")


def test_no_prompts_have_no_answers(decoder):
    assert decoder.generate([]) == []


def test_a_stop_string_ends_an_answer_and_is_not_in_it(speaker):
    (answer,) = speaker.generate(["?"], stop=["😀", "nothing"])
    assert (answer.text, answer.ended, answer.defer) == ("aé€", "stop", False)
    assert answer.token_count == len("aé€😀".encode())


def test_an_answer_says_how_long_it_took(speaker):
    (answer,) = speaker.generate(["?"])
    times = answer.timings
    assert 0 < times.first_token_s < times.total_s
    assert times.per_token_s == pytest.approx((times.total_s - times.first_token_s) / 11)
    assert answer.tokens_per_s == pytest.approx(12 / times.total_s)


def test_a_stream_says_whole_characters_and_at_last_the_verdict(speaker):
    *pieces, verdict = speaker.stream("?")
    (answer,) = speaker.generate(["?"])
    assert pieces == list(SPOKEN)
    assert verdict.text == answer.text == SPOKEN
    assert (verdict.tokens, verdict.confidence) == (answer.tokens, answer.confidence)
    assert (verdict.ended, verdict.defer) == ("eos", False)


def test_a_stream_says_a_half_character_only_at_its_end(speaker):
    *pieces, verdict = speaker.stream("?", max_new_tokens=2)
    assert pieces == ["a", "\N{REPLACEMENT CHARACTER}"]
    assert verdict.text == "a\N{REPLACEMENT CHARACTER}"
    assert verdict.ended == "length"


def test_a_stream_never_says_the_beginning_of_a_stop_string(speaker):
    *pieces, verdict = speaker.stream("?", stop=["€😀"])
    assert (pieces, verdict.text, verdict.ended) == (["a", "é"], "aé", "stop")


def test_a_cancelled_stream_ends_at_once_and_defers(speaker):
    cancel = threading.Event()
    stream = speaker.stream("?", cancel=cancel)
    assert [next(stream), next(stream)] == ["a", "é"]
    cancel.set()
    (verdict,) = stream
    assert (verdict.text, verdict.ended, verdict.defer) == ("aé", "cancelled", True)
    assert verdict.reason == "cancelled before its end"
    assert verdict.token_count == 3


def test_a_stream_that_is_closed_generates_nothing_more(speaker):
    stream = speaker.stream("?")
    assert next(stream) == "a"
    stream.close()
    assert list(stream) == []


def test_what_was_cancelled_before_it_began_defers_without_a_token(decoder):
    cancel = threading.Event()
    cancel.set()
    answers = decoder.generate(["hello", "", "what"], cancel=cancel)
    assert [answer.ended for answer in answers] == ["cancelled", "refused", "cancelled"]
    assert all(a.defer and math.isnan(a.confidence) and a.tokens == () for a in answers)


def test_a_closed_decoder_answers_nothing_and_frees_the_model(spoken_bundle):
    with Decoder.open(spoken_bundle, threads=1) as decoder:
        graph = weakref.ref(decoder._graph)
        stream = decoder.stream("?")
        assert next(stream) == "a"
        decoder.close()
        assert next(stream) == "é"  # what runs goes on
    stream.close()
    with pytest.raises(UseError, match=r"^expected a decoder that is open"):
        decoder.generate(["?"])
    with pytest.raises(UseError):
        next(decoder.stream("?"))
    gc.collect()
    assert graph() is None


def test_threads_share_a_decoder(decoder):
    expected = [answer.tokens for answer in decoder.generate(PROMPTS)]
    found = {}

    def generate(number):
        found[number] = [answer.tokens for answer in decoder.generate(PROMPTS)]

    threads = [threading.Thread(target=generate, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 4


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_new_tokens": 0}, SettingError),
        ({"threshold": math.nan}, SettingError),
        ({"stop": "END"}, SettingError),
        ({"stop": [""]}, SettingError),
        ({"batch_size": 0}, SettingError),
    ],
)
def test_a_setting_without_sense_is_refused(settings, error, decoder):
    with pytest.raises(error, match=r"^expected"):
        decoder.generate(["hello"], **settings)


@pytest.mark.parametrize("prompts", ["hello", b"hello", [b"hello"], [None]])
def test_what_is_no_list_of_texts_is_refused(prompts, decoder):
    with pytest.raises(InputError, match=r"^expected"):
        decoder.generate(prompts)
