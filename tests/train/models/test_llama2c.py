"""Weights and tokenizers of llama2.c: files written here, and the published `stories260K`."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.language.promises.story import PUBLISHED
from train.errors import CheckpointError
from train.language.settings import ConvertLanguageSettings
from train.models import open_language_model
from train.models.decoding import decode, greedy_mode
from train.models.llama2c import read_llama, read_tokenizer

STEPS = 256  # the default of llama2.c
BOS = 1
WIDTH, INNER, LAYERS, HEADS, KV_HEADS, CONTEXT = 16, 12, 2, 4, 2, 10
PIECES = ("a", "b", "c", " ", "ab", " a", "abc", "bc", "ß", "aa", " ab")
VOCABULARY = 259 + len(PIECES)
HEAD = (WIDTH, INNER, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT)


class Reference:
    """llama2.c in float64 numpy, one token after the other, from the bytes of a file."""

    def __init__(self, path):
        content = path.read_bytes()
        self.head = struct.unpack_from("<7i", content)
        dim, inner, layers, heads, kv_heads, vocabulary, context = self.head
        values = iter(np.frombuffer(content, "<f4", offset=28).astype(np.float64))
        size = dim // heads

        def take(*shape):
            return np.fromiter(values, np.float64, int(np.prod(shape))).reshape(shape)

        self.embedding = take(abs(vocabulary), dim)
        self.norm_1 = take(layers, dim)
        self.q = take(layers, dim, dim)
        self.k = take(layers, kv_heads * size, dim)
        self.v = take(layers, kv_heads * size, dim)
        self.o = take(layers, dim, dim)
        self.norm_2 = take(layers, dim)
        self.w1 = take(layers, inner, dim)
        self.w2 = take(layers, dim, inner)
        self.w3 = take(layers, inner, dim)
        self.norm = take(dim)
        take(context, size)  # the rotary tables, which the program computes itself
        self.out = self.embedding if vocabulary > 0 else take(-vocabulary, dim)
        self.past = [([], []) for _ in range(layers)]

    def logits(self, token):
        """Return the logits after a token, which becomes part of the past."""
        dim, _, layers, heads, kv_heads, _, _ = self.head
        x, position, size = self.embedding[token], len(self.past[0][0]), dim // heads
        for i in range(layers):
            h = norm(x, self.norm_1[i])
            q = turn((self.q[i] @ h).reshape(heads, size), position)
            self.past[i][0].append(turn((self.k[i] @ h).reshape(kv_heads, size), position))
            self.past[i][1].append((self.v[i] @ h).reshape(kv_heads, size))
            keys, values = (np.repeat(np.array(p), heads // kv_heads, axis=1) for p in self.past[i])
            scores = np.einsum("hs,ths->ht", q, keys) / np.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            x = x + self.o[i] @ np.einsum("ht,ths->hs", weights, values).ravel()
            h = norm(x, self.norm_2[i])
            gate = self.w1[i] @ h
            x = x + self.w2[i] @ (gate / (1 + np.exp(-gate)) * (self.w3[i] @ h))
        return self.out @ norm(x, self.norm)


def norm(x, weight):
    return weight * x / np.sqrt(np.mean(x * x) + 1e-5)


def turn(heads, position):
    """Turn each pair of neighbours as a complex number."""
    size = heads.shape[1]
    z = heads[:, 0::2] + 1j * heads[:, 1::2]
    z = z * np.exp(1j * position * 10000.0 ** (-np.arange(0, size, 2) / size))
    return np.stack([z.real, z.imag], axis=-1).reshape(heads.shape)


def merged(text, path):
    """Encode as llama2.c does: characters or bytes, then the best pair, again and again."""
    content, at, pieces = path.read_bytes(), 4, []
    while at < len(content):
        score, length = struct.unpack_from("<fi", content, at)
        pieces.append((content[at + 8 : at + 8 + length], score))
        at += 8 + length
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    tokens = []
    for letter in f" {text}" if text else "":
        raw = letter.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        best = None
        for i in range(len(tokens) - 1):
            union = ids.get(pieces[tokens[i]][0] + pieces[tokens[i + 1]][0])
            if union is not None and (best is None or pieces[union][1] > best[0]):
                best = pieces[union][1], i, union
        if best is None:
            return [BOS, *tokens]
        tokens[best[1] : best[1] + 2] = [best[2]]


def weights_file(path, *, head=HEAD, tied=True, change=None):
    """Write weights with correct rotary tables; `change` may alter the floats."""
    dim, inner, layers, heads, kv_heads, vocabulary, context = head
    keys, size = kv_heads * dim // heads, dim // heads
    draws = np.random.default_rng(0)
    layer = 2 * dim + 2 * dim * dim + 2 * keys * dim + 3 * inner * dim
    floats = [draws.normal(0, 0.4, abs(vocabulary) * dim + layers * layer + dim)]
    angles = np.arange(context)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    floats += [np.cos(angles).ravel(), np.sin(angles).ravel()]
    if not tied:
        floats.append(draws.normal(0, 0.4, abs(vocabulary) * dim))
    values = np.concatenate(floats).astype("<f4")
    if change is not None:
        change(values)
    sign = 1 if tied else -1
    header = struct.pack("<7i", dim, inner, layers, heads, kv_heads, sign * vocabulary, context)
    path.write_bytes(header + values.tobytes())
    return path


def tokenizer_file(path, pieces=PIECES):
    fixed = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{i:02X}>" for i in range(256))]
    entries = [(p.encode(), 0.0) for p in fixed]
    entries += [(p.encode(), -float(i)) for i, p in enumerate(pieces)]
    path.write_bytes(
        struct.pack("<i", max(len(p) for p, _ in entries))
        + b"".join(struct.pack("<fi", score, len(p)) + p for p, score in entries)
    )
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_gives_the_logits_of_an_independent_program(tied, tmp_path):
    path = weights_file(tmp_path / "w.bin", tied=tied)
    reference, model = Reference(path), read_llama(path)
    tokens = [BOS, 260, 5, 261, 261, 3, 269, 0, 2]
    expected = np.array([reference.logits(token) for token in tokens])
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_a_converted_folder_opens_and_answers_as_before(tmp_path, capsys):
    weights, tokenizer = weights_file(tmp_path / "w.bin"), tokenizer_file(tmp_path / "t.bin")
    out = tmp_path / "converted"
    ConvertLanguageSettings(weights=weights, tokenizer=tokenizer, out=out).run()
    lm, reference = open_language_model(out), Reference(weights)
    count = VOCABULARY * 16 + 2 * (2 * 16 + 2 * 256 + 2 * 8 * 16 + 3 * 12 * 16) + 16
    assert capsys.readouterr().out == f"{out}: Llama with {count:,} weights and 270 tokens\n"
    ids, expected = merged("ab", tokenizer), []
    for token in ids[:-1]:
        reference.logits(token)
    last = ids[-1]
    while len(expected) < 4 and last != BOS:
        last = int(reference.logits(last).argmax())
        expected.append(last)
    generated = lm.generate(["ab"], 4)
    assert generated.tokens[0][generated.counted[0]].tolist() == expected


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tokenizer_file(tmp_path_factory.mktemp("tokenizer") / "t.bin")
    return path, read_tokenizer(path, VOCABULARY, CONTEXT)


@given(text=st.text(st.sampled_from("abc ß\n▁é天<x"), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_text_becomes_tokens_as_in_llama2c_and_comes_back(tokenizer, text):
    path, ours = tokenizer
    ids = ours(text)["input_ids"]
    assert ids == merged(text, path)
    assert ours.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ((0, *HEAD[1:]), "sizes above 0.*got dim 0"),
        ((-16, *HEAD[1:]), "got dim -16"),
        ((*HEAD[:5], 0, CONTEXT), "vocab_size 0"),
        ((*HEAD[:3], 3, 3, *HEAD[5:]), "divide the width"),
        ((*HEAD[:3], 4, 3, *HEAD[5:]), "divide the width"),
        ((*HEAD[:3], 16, 4, *HEAD[5:]), "divide the width"),
        ((*HEAD[:6], CONTEXT + 1), r"expected \d+ bytes in .*it is truncated"),
        ((2**31 - 1, *HEAD[1:3], 1, 1, *HEAD[5:]), "divide the width"),
        ((2**30, 2**30, 2**30, 1, 1, 2**30, 2**30), r"expected \d{20,} bytes"),
        ((0x616B3432, 1, *HEAD[:5]), "of version 1 or 2"),
    ],
)
def test_an_impossible_header_is_refused_in_one_line(head, message, tmp_path):
    path = weights_file(tmp_path / "w.bin")
    path.write_bytes(struct.pack("<7i", *head) + path.read_bytes()[28:])
    assert_refused(message, lambda: read_llama(path))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (-1, "is truncated"),
        (1000, "is truncated"),
        (27, "a header of 28 bytes"),
        (0, "a header of 28 bytes"),
    ],
)
def test_a_truncated_file_is_refused_in_one_line(cut, message, tmp_path):
    path = weights_file(tmp_path / "w.bin")
    path.write_bytes(path.read_bytes()[:cut])
    assert_refused(message, lambda: read_llama(path))


def test_impossible_numbers_are_refused_in_one_line(tmp_path):
    def nan(values):
        values[7] = np.nan

    def other_base(values):
        values[-1] += 0.1

    path = weights_file(tmp_path / "w.bin", change=nan)
    assert_refused("embed_tokens holds NaN", lambda: read_llama(path))
    path = weights_file(tmp_path / "w.bin", change=other_base)
    assert_refused("rotary tables of the base 10000", lambda: read_llama(path))


@pytest.mark.parametrize("what", ["missing.bin", "."])
def test_a_missing_file_is_refused_in_one_line(what, tmp_path):
    assert_refused("expected a llama2.c file at", lambda: read_llama(tmp_path / what))
    assert_refused(
        "expected a tokenizer of llama2.c at", lambda: read_tokenizer(tmp_path / what, 270, 10)
    )


def entry(piece):
    return struct.pack("<fi", 0.0, len(piece)) + piece


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "is damaged"),
        (lambda content: content[:-9], "is damaged"),
        (lambda content: content + entry(b"x"), "270 tokens in .*, it has 271"),
        (lambda content: content + entry(b"ab"), "'ab' occurs twice"),
        (lambda content: content + entry(b"\xff"), "is damaged: .*utf-8"),
        (lambda content: content + entry(b""), "has the length 0"),
        (lambda content: content + struct.pack("<fi", 0.0, -5), "has the length -5"),
        (lambda content: content + struct.pack("<fi", np.nan, 1) + b"x", "the score nan"),
        (lambda _: b"", "its first tokens are not"),
        (lambda content: content[:4] + content[12 + len("<unk>") :], "its first tokens are not"),
    ],
)
def test_a_damaged_tokenizer_is_refused_in_one_line(change, message, tmp_path):
    path = tokenizer_file(tmp_path / "t.bin")
    path.write_bytes(change(path.read_bytes()))
    assert_refused(message, lambda: read_tokenizer(path, VOCABULARY, CONTEXT))


def assert_refused(message, action):
    with pytest.raises(CheckpointError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def stories(real_data, tmp_path_factory):
    """Return the published files and the converted model."""
    folder = real_data / "weights" / "stories260k"
    files = folder / "stories260K.bin", folder / "tok512.bin"
    out = tmp_path_factory.mktemp("stories") / "lm"
    ConvertLanguageSettings(weights=files[0], tokenizer=files[1], out=out).run()
    return *files, open_language_model(out)


@pytest.mark.slow
def test_stories260k_generates_the_published_story(stories):
    _, _, lm = stories
    with greedy_mode(lm.model), torch.inference_mode():
        steps = list(decode(lm.model, lm.tokenizer, [[BOS]], STEPS, ends=lm.ends))
    tokens = torch.cat([s.tokens[0] for s in steps])
    assert lm.tokenizer.decode(tokens) == PUBLISHED


def test_stories260k_continues_a_prompt(stories):
    _, _, lm = stories
    opening = "Once upon a time, there was a little girl named Lily."
    generated = lm.generate([opening], 40)
    assert PUBLISHED.removeprefix(opening).strip().startswith(generated.texts[0].strip())
    assert len(generated.texts[0]) > 40


def test_stories260k_has_the_tokens_and_logits_of_an_independent_program(stories):
    weights, _, lm = stories
    reference, tokens, logits = Reference(weights), [BOS], []
    for _ in range(60):
        logits.append(reference.logits(tokens[-1]))
        tokens.append(int(logits[-1].argmax()))
    with torch.no_grad():
        ours = lm.model(torch.tensor([tokens[:-1]])).logits[0].numpy()
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4)
    assert ours.argmax(-1).tolist() == tokens[1:]


def test_stories260k_reads_text_as_llama2c_does(stories):
    _, path, lm = stories
    texts = [PUBLISHED, "", "thethe ththe", "Ünïcode 天气 ▁ and <x> tags", "  two  blanks \n\n"]
    for text in [*texts, *(PUBLISHED[i : i + 9] for i in range(0, 200, 7))]:
        ids = lm.tokenizer(text)["input_ids"]
        assert ids == merged(text, path)
        assert lm.tokenizer.decode(ids, skip_special_tokens=True) == text
