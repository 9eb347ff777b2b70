import json

import pytest
from tools.adding_decoder import Adder, write_adder

from edge_runtime.cli import main
from edge_runtime.commands.doctor import DoctorSettings
from edge_runtime.commands.generate import GenerateSettings

COMMANDS = {"generate": GenerateSettings}


@pytest.fixture
def generate(spoken_bundle, capsys):
    def run(*words, bundle=spoken_bundle):
        line = ["generate", "--bundle", str(bundle), "--threads", "1", *words]
        status = main("python -m edge_runtime", COMMANDS, argv=line)
        return status, *capsys.readouterr()

    return run


def test_it_prints_text_confidence_and_decision(generate):
    status, out, err = generate("?")
    text, verdict, end = out.split("\n")
    assert (status, err, text, end) == (0, "", "aé€😀b", "")
    # A logit of 9 against 258 of 0: p = 1 / (1 + 258 / e^9) = 0.969142, H = 0.309058
    assert verdict.startswith("  confidence -0.3091  edge  12 tokens (eos)  ")
    assert verdict.endswith(" tokens/s")


def test_a_stream_ends_with_the_same_lines(generate):
    _, whole, _ = generate("?")
    status, streamed, _ = generate("?", "--stream")
    assert status == 0
    assert streamed.split("  ")[:-1] == whole.split("  ")[:-1]


@pytest.mark.parametrize("words", [(), ("--stream",)])
def test_what_a_model_says_does_not_steer_the_terminal(words, generate, tmp_path):
    bundle = write_adder(tmp_path, Adder.saying("a\x1b[\n\t\x7fb\r"))
    _, out, _ = generate("?", *words, bundle=bundle)
    assert out.startswith("a\\x1b[\n\t\\x7fb\\r\n  confidence")


def test_json_lines_are_one_answer_each_in_order(generate):
    status, out, _ = generate("?", "", "--json")
    first, second = map(json.loads, out.splitlines())
    assert status == 0
    assert (first["prompt"], first["text"], first["defer"]) == ("?", "aé€😀b", False)
    assert (first["token_count"], first["ended"], first["saved"]) == (12, "eos", 0)
    assert first["confidence"] == pytest.approx(-0.309058, abs=1e-5)
    assert first["tokens_per_s"] > 0
    assert (second["confidence"], second["defer"]) == (None, True)
    assert (second["ended"], second["reason"]) == ("refused", "the prompt is empty")


def test_streamed_json_lines_are_pieces_and_then_the_answer(generate):
    _, out, _ = generate("?", "--json", "--stream", "--stop", "😀")
    *pieces, answer = map(json.loads, out.splitlines())
    assert [piece["piece"] for piece in pieces] == ["a", "é", "€"]
    assert (answer["text"], answer["ended"]) == ("aé€", "stop")


@pytest.mark.parametrize(
    ("words", "text"), [(["--stop", ","], "a"), (["--stop=c", "--stop=d,"], "a,b")]
)
def test_a_stop_string_may_hold_a_comma(words, text, generate, tmp_path):
    bundle = write_adder(tmp_path, Adder.saying("a,bcd"))
    _, out, _ = generate("?", "--json", *words, bundle=bundle)
    assert json.loads(out)["text"] == text
    assert json.loads(out)["ended"] == "stop"


def test_a_certain_deferral_ends_early_but_to_the_end_on_request(generate, tmp_path):
    bundle = write_adder(tmp_path, Adder.saying("abcdefgh"), kind="sum_logprob", threshold=-0.05)
    _, short, _ = generate("?", "--json", bundle=bundle)
    _, whole, _ = generate("?", "--json", "--to-the-end", bundle=bundle)
    short, whole = json.loads(short), json.loads(whole)
    # log p = -0.03134: the sum falls under -0.05 with the second token.
    assert (short["text"], short["ended"], short["saved"]) == ("ab", "certain", 14)
    assert (whole["text"], whole["ended"], whole["saved"]) == ("abcdefgh", "eos", 0)
    assert short["defer"] is whole["defer"] is True


def test_flags_set_limit_and_threshold(generate):
    _, out, _ = generate("?", "--json", "--max-new-tokens", "1", "--threshold", "-0.3")
    answer = json.loads(out)
    assert (answer["text"], answer["ended"], answer["defer"]) == ("a", "length", True)


def test_a_line_without_a_prompt_is_bad_usage(generate):
    status, out, err = generate()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "expected at least one prompt" in err


def test_doctor_sends_a_text_to_a_decoder(spoken_bundle, capsys):
    DoctorSettings(bundle=spoken_bundle).run()
    # The last byte of the text is followed by the end, with the confidence of the others.
    line = "bundle: text-generation, threshold -1, a blank input gets confidence -0.3091"
    assert line in capsys.readouterr().out


def test_a_folder_that_is_no_bundle_is_refused_in_one_line(generate, tmp_path):
    status, out, err = generate("?", bundle=tmp_path)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "expected a bundle folder" in err
