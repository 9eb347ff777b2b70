from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from tools.adding_decoder import byte_tokenizer

from edge_runtime.language.text import StopStrings, TextPieces

BYTES = byte_tokenizer()
BROKEN = "\N{REPLACEMENT CHARACTER}"
TEXTS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters=BROKEN + "\0"), max_size=20
)


def said(tokens, decode):
    pieces = TextPieces(decode)
    return [*(pieces.add(token) for token in tokens), pieces.rest()]


@given(text=TEXTS)
def test_pieces_are_whole_characters_and_together_the_text(text):
    pieces = said(text.encode(), BYTES.decode)
    assert "".join(pieces) == text
    # Each token is a byte: a character is said with its last one.
    assert [piece for piece in pieces if piece] == list(text)


@given(tokens=st.lists(st.integers(0, 255), max_size=20))
def test_incomplete_characters_are_emitted_once_they_can_no_longer_be_completed(tokens):
    pieces = said(tokens, BYTES.decode)
    assert "".join(pieces) == bytes(tokens).decode(errors="replace")


def test_a_word_keeps_the_space_before_it():
    tokenizer = Tokenizer(models.WordLevel({"▁the": 0, "▁sea": 1, "s": 2}))
    tokenizer.decoder = decoders.Metaspace()
    assert said([0, 1, 2], tokenizer.decode) == ["the", " sea", "s", ""]


def test_bytes_of_a_tokenizer_that_falls_back_to_them_make_characters():
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE({name: n for n, name in enumerate(names)}, []))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    pieces = said("aé€😀ü".encode(), tokenizer.decode)
    assert [piece for piece in pieces if piece] == ["a", "é", "€", "😀", "ü"]


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    size=st.integers(1, 4),
)
def test_a_text_passes_up_to_its_first_stop_string(text, stops, size):
    watch = StopStrings(stops)
    passed = "".join(watch.add(text[i : i + size]) for i in range(0, len(text), size))
    passed += watch.rest()
    places = [text.find(stop) for stop in stops if stop in text]
    assert watch.is_found == bool(places)
    # Of two that overlap, the one that ends first may have ended it.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not places:
        assert passed == text
    else:
        cut = min(ends) + size - 1
        assert text.startswith(passed)
        assert min(places) <= len(passed) <= cut
        assert not any(stop in passed for stop in stops)


def test_what_may_become_a_stop_string_is_held_back_and_nothing_else():
    watch = StopStrings(["\n\n", "END"])
    assert [watch.add(c) for c in "aE\nENx"] == ["a", "", "E", "\n", "", "ENx"]
    assert watch.add("\n\n") == ""
    assert watch.is_found
