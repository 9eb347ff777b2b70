"""Foreign texts reach a terminal, a log or a message without what could steer or forge it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.answer import Answer, Source, Timings
from edge_runtime.commands.run import _answer
from edge_runtime.commands.sources import Item
from edge_runtime.errors import InputError
from edge_runtime.files import SHOWN, clean, one_line

ANYTHING = st.text(st.characters(codec=None))


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("Zebra, été 天気 😀", "Zebra, été 天気 😀"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("abc\u202e\u2066\u200f\u061c", r"abc\u202e\u2066\u200f\u061c"),
        ("a\u200bb\ufeff\u2060\U000e0041", r"a\u200bb\ufeff\u2060\U000e0041"),
        ("\ud83d\udcff", r"\ud83d\udcff"),
    ],
)
def test_only_printable_characters_are_left(foreign, shown):
    assert clean(foreign) == one_line(foreign) == shown


@given(ANYTHING)
def test_any_text_becomes_one_line_that_can_be_written(text):
    line = one_line(text)
    assert line.isprintable()
    line.encode()
    assert clean(line) == line


def test_line_feeds_are_spaces_on_one_line_and_stay_in_a_text():
    assert one_line(" a\r\n\tb\u2028c\x85d \x1c") == "a b c d"
    assert clean("a\r\n\tb\u2028", SHOWN) == "a\\r\n\tb\\u2028"


def test_the_cut_comes_last():
    assert one_line("\x1b" * 50, 9) == r"\x1b\x1b" + "\\"


class Fake:
    """Stands for a cascade whose inputs and labels come from strangers."""

    def __call__(self, value):
        if isinstance(value, str):
            raise InputError(f"bad \x1b[31m{value}")
        return Answer(
            0, "a\nb\x9b", 0.5, True, Source.CLOUD, Timings(0, 0, 0, 0, 0), "1", 0.5, "\x1b"
        )


def test_run_prints_names_labels_and_errors_cleaned(capsys):
    for read in (lambda: "\n", lambda: 0):
        _answer(Fake(), Item("x\x1b\n.png", None, read), as_json=False)
    out = capsys.readouterr().out
    first, second, end = out.split("\n")
    assert first == r"x\x1b\n.png  error  (bad \x1b[31m)"
    assert second.startswith(r"x\x1b\n.png  a\nb\x9b  confidence 0.5000  cloud  ")
    assert second.endswith(r" ms  (\x1b)")
    assert end == ""
