"""The answers in generated texts; the expected values are read off the texts by eye."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.tasks.parsers import (
    LabelParser,
    LetterParser,
    canonical_number,
    parse_number,
    parse_text,
)

pytestmark = pytest.mark.once
letter = LetterParser(("A", "B", "C", "D"))
label = LabelParser(("card arrival", "reverted card payment?", "w2"))


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        (" B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("\n D\n", "D"),
        ("**C**", "C"),
        ("B food", "B"),
        ("A. carbon dioxide", "A"),
        ("A", "A"),
        ("The answer is B.", "B"),
        ("I think the answer is (d), because of heat", "D"),
        ("Answer: C", "C"),
        (" B\n\nQuestion: Which?\nA. one\nAnswer: C", "B"),
        ("E", None),
        ("A bacterial population", None),
        ("Because of heat", None),
        ("food", None),
        ("The answer isn't known", None),
        ("the answer is a bacterium", None),
        ("the answer is A because of heat", "A"),
        ("I see: the answer is b", "B"),
        ("the answer is d'oh", None),
        ("d'oh", None),
        ("'c'", "C"),
        ("E. No: the answer is B", "B"),
        ("", None),
        (" \n\n", None),
        ("\n\nQuestion: Which?\nAnswer: B", None),
    ],
)
def test_the_letter_of_a_text(text, gives):
    assert letter(text) == gives


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        ("72", "72"),
        (" 72.0", "72"),
        ("72.", "72"),
        ("-5", "-5"),
        ("\N{MINUS SIGN}5", "-5"),
        ("-0.0", "0"),
        ("007", "7"),
        (".5", "0.5"),
        ("-.50", "-0.5"),
        ("1,080", "1080"),
        ("$1,080.00", "1080"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("$ 12", "12"),
        ("109,200,000", "109200000"),
        ("It costs 5 dollars and 10 cents", "10"),
        ("She sold 48/2 = 24 clips.", "24"),
        ("48-24", "24"),
        ("(3)-4", "4"),
        ("x=-24", "-24"),
        ("one of 1,2,3", "3"),
        ("5%", "5"),
        ("72kg", "72"),
        ("first 12\n#### 24", "24"),
        ("#### 24 clips in 2 months", "24"),
        ("#### 1\n#### 24", "24"),
        ("She has 12\n####", None),
        ("#### none", None),
        ("#### 72\n\nQuestion: How many of 5?\nAnswer: 2\n#### 3", "72"),
        ("w2", None),
        ("1.5e3", None),
        ("1e400", None),
        ("seventy-two", None),
        ("", None),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", None),
        ("nan", None),
    ],
)
def test_the_final_number_of_a_text(text, gives):
    assert parse_number(text) == gives


@given(st.integers(min_value=-(10**40), max_value=10**40))
def test_a_whole_number_is_read_however_it_is_grouped(number):
    for written in (str(number), f"{number:,}", f" {number}.00", f"so\n#### ${number:,}."):
        assert parse_number(written) == str(number)


@given(
    st.decimals(min_value=-(10**9), max_value=10**9, places=6),
    st.sampled_from([5, 0.25, 1000]),
)
def test_the_last_of_two_numbers_is_read_to_its_last_digit(last, first):
    found = parse_number(f"of {first} she has {last:f} left")
    assert Decimal(found) == last


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9))
def test_equal_numbers_have_one_form(number):
    written = f"{number:f}"
    form = canonical_number(written)
    more = f"{written}0" if "." in written else f"{written}.0"
    assert canonical_number(more) == form == canonical_number(form)
    assert Decimal(form) == number


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    number = parse_number(text)
    assert number is None or parse_number(number) == number
    assert letter(text) in {None, "A", "B", "C", "D"}
    assert label(text) in {None, "card arrival", "reverted card payment?", "w2"}


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        (" card arrival", "card arrival"),
        ("Card_Arrival", "card arrival"),
        ("\n\n card \t arrival \nText: more", "card arrival"),
        ("reverted_card_payment?", "reverted card payment?"),
        ("w2", "w2"),
        ("card", None),
        ("card arrivals", None),
        ("", None),
        ("\n", None),
    ],
)
def test_the_label_of_a_text(text, gives):
    assert label(text) == gives


@pytest.mark.parametrize(
    ("text", "gives"), [(" a  b\n", "a b"), ("A b", "A b"), ("", None), (" \n\t", None)]
)
def test_a_plain_completion_is_compared_without_its_white_space(text, gives):
    assert parse_text(text) == gives
