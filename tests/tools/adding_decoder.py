"""A decoder whose next token is a table's entry for the sum of all tokens: every answer is known.

The sum is taken over the cache under the attention mask, so filling, a lost or a foreign cache, and
a row in another's place all change the answer. The gate behind it is the exporter's own.
"""

import itertools
import json
import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edge_runtime import contract
from edge_runtime.bundle import file_sha256, read_bundle
from edge_runtime.contract import GateMetadata, InputDescription
from export.language.gate import append_sequence_gate

PAD, BOS, EOS = 256, 257, 258
VOCABULARY = 259
CONTEXT = 40
PRODUCTS, SIDE = 4000, 1024
"""Products of square matrices, of 2 * 1024^3 operations each: they take minutes on one core."""
SILENT = "\0"
"""A character that the tokenizer drops."""


def byte_tokenizer():
    """Return a tokenizer of UTF-8 bytes, a token each by its number, with a token before a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = dict(zip(range(256), _letters(), strict=True))
    assert sorted(names.values()) == alphabet
    vocabulary = {letter: byte for byte, letter in names.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.normalizer = normalizers.Replace(SILENT, "")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", BOS)])
    return tokenizer


def _letters():
    """Return what the byte-level scheme writes for each byte: itself where it can be seen."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


@dataclass(frozen=True)
class Adder:
    """What the model says.

    Attributes:
        follows: By (last token * `last` + sum of all tokens * `total`) mod V: the next token.
        sharpness: By the same: the logit of that token, the others' are 0.
        last: See there.
        total: See there.
    """

    follows: list[int]
    sharpness: list[float]
    last: int = 0
    total: int = 1

    @classmethod
    def random(cls, seed, ends=8):
        """Return one that says anything, and ends after some 30 tokens."""
        random = np.random.default_rng(seed)
        follows = random.integers(0, 256, VOCABULARY)
        follows[random.choice(VOCABULARY, ends, replace=False)] = EOS
        return cls(follows.tolist(), random.uniform(0.5, 14.0, VOCABULARY).tolist())

    @classmethod
    def saying(cls, text, sharpness=9.0):
        """Return one that answers "?" with a text of different bytes, and ends."""
        tokens = [ord("?"), *text.encode(), EOS]
        assert len(set(tokens)) == len(tokens)
        follows = [EOS] * VOCABULARY
        for token, after in itertools.pairwise(tokens):
            follows[token] = after
        return cls(follows, [sharpness] * VOCABULARY, last=1, total=0)

    def answer(self, prompt, most):
        """Return the tokens, their log-probabilities and negative entropies, in float64."""
        tokens = [BOS, *prompt.encode()]
        answer, logprobs, entropies = [], [], []
        while len(answer) < most and answer[-1:] != [EOS]:
            at = (tokens[-1] * self.last + sum(tokens) * self.total) % VOCABULARY
            answer.append(self.follows[at])
            tokens.append(self.follows[at])
            total = math.exp(self.sharpness[at]) + VOCABULARY - 1
            logprobs.append(self.sharpness[at] - math.log(total))
            top = math.exp(self.sharpness[at]) / total
            entropies.append(top * self.sharpness[at] - math.log(total))
        return answer, logprobs, entropies


def write_adder(folder, adder, *, kind="neg_entropy", threshold=-1.0, quantization=None, **changes):
    """Write its bundle.

    Args:
        folder: Where to.
        adder: What it says.
        kind: Name of the confidence.
        threshold: The baked one.
        quantization: What the metadata say of it.
        **changes: Of the metadata.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = _logits(adder)
    append_sequence_gate(model, kind=kind, threshold=threshold, ends=[EOS], pad=PAD)
    settings = {
        "contract_version": contract.CONTRACT_VERSION,
        "task": contract.TASK_GENERATION,
        "confidence_kind": kind,
        "confidence_range": (-math.log(VOCABULARY), 0.0),
        "threshold": threshold,
        "labels": ("text",),
        "input": InputDescription(name="text", dtype="str", shape=("batch",)),
        "extra": {
            contract.TOKENIZER: "tokenizer.json",
            contract.GENERATION: {
                "max_new_tokens": 16, "context": CONTEXT, "eos_token_ids": [EOS],
                "pad_token_id": PAD, "layers": 1, "kv_heads": 1, "head_dim": 1,
            },
        },
    }  # fmt: skip
    if quantization is not None:
        settings["extra"][contract.QUANTIZATION] = quantization
    metadata = GateMetadata(**(settings | changes))
    entry = model.metadata_props.add()
    entry.key, entry.value = contract.METADATA_KEY, metadata.to_json()
    onnx.save(model, folder / "model.onnx")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    seal(folder, metadata)
    return folder


def seal(folder, metadata, role=contract.ROLE_DECODER):
    """Write `bundle.json` with the hashes of the files as they are."""
    record = {
        "graphs": {role: "model.onnx"},
        "metadata": json.loads(metadata.to_json()),
        "verification": {},
        "files": {n: file_sha256(folder / n) for n in ("model.onnx", "tokenizer.json")},
    }
    (folder / contract.BUNDLE_FILE).write_text(json.dumps(record), encoding="utf-8")


def _logits(adder):
    cache = ["batch", 1, "past", 1]
    info = helper.make_tensor_value_info
    caches = ("0.key", "0.value")
    constants = {
        "follows": np.array(adder.follows, np.int64),
        "sharpness": np.array(adder.sharpness, np.float32),
        "vocabulary": np.array(VOCABULARY, np.int64),
        "depth": np.array([VOCABULARY], np.int64),
        "zero_one": np.array([0, 1], np.float32),
        "around": np.array([1, 3], np.int64),
        "last_at": np.array(-1, np.int64),
        "column": np.array([1], np.int64),
        "by_last": np.array(adder.last, np.int64),
        "by_total": np.array(adder.total, np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["numbers", "around"], ["added"]),
        *(node("Concat", [f"past.{c}", "added"], [f"present.{c}"], axis=2) for c in caches),
        node("Squeeze", ["present.0.key", "around"], ["all"]),
        node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        node("Mul", ["all", "seen"], ["parts"]),
        node("ReduceSum", ["parts", "column"], ["sum"], keepdims=0),
        node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        node("Mul", ["whole", "by_total"], ["of_total"]),
        node("Gather", ["input_ids", "last_at"], ["last"], axis=1),
        node("Mul", ["last", "by_last"], ["of_last"]),
        node("Add", ["of_total", "of_last"], ["number"]),
        node("Mod", ["number", "vocabulary"], ["at"]),
        node("Gather", ["follows", "at"], ["after"]),
        node("Gather", ["sharpness", "at"], ["sharp"]),
        node("OneHot", ["after", "depth", "zero_one"], ["hot"]),
        node("Unsqueeze", ["sharp", "column"], ["tall"]),
        node("Mul", ["hot", "tall"], ["logits"]),
    ]
    longer = ["batch", 1, "total", 1]
    graph = helper.make_graph(
        nodes,
        "adder",
        [
            info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            info("attention_mask", TensorProto.INT64, ["batch", "total"]),
            *(info(f"past.{c}", TensorProto.FLOAT, cache) for c in caches),
        ],
        [
            info("logits", TensorProto.FLOAT, ["batch", VOCABULARY]),
            *(info(f"present.{c}", TensorProto.FLOAT, longer) for c in caches),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_slow_adder(folder):
    """Write a bundle that reads a long prompt for minutes, and a short one at once."""
    write_adder(folder, Adder.random(0))
    file = folder / "model.onnx"
    metadata = read_bundle(folder, contract.ROLE_DECODER).metadata
    model = onnx.load(file)
    graph, node = model.graph, helper.make_node
    constants = {
        "far": np.array(35, np.int64),
        "ones": np.full((SIDE, SIDE), 1 / SIDE, np.float32),
        "nought": np.array(0, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    for one in graph.node:
        if one.output[0] == "numbers":
            one.output[0] = "plain_numbers"
    slow = [
        node("Shape", ["input_ids"], ["read_"], start=1),
        node("Squeeze", ["read_"], ["read"]),
        node("Greater", ["read", "far"], ["is_long"]),
        node("Cast", ["is_long"], ["factor"], to=TensorProto.FLOAT),
        node("Mul", ["ones", "factor"], ["product0"]),  # depends on the prompt: not folded
        node("If", ["is_long"], ["spun"], then_branch=_products(), else_branch=_nothing()),
        node("ReduceMax", ["spun"], ["most"], keepdims=0),
        node("Mul", ["most", "nought"], ["nothing"]),
        node("Add", ["plain_numbers", "nothing"], ["numbers"]),
    ]
    (at,) = [n for n, one in enumerate(graph.node) if one.output[0] == "plain_numbers"]
    nodes = [*graph.node[: at + 1], *slow, *graph.node[at + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, file)
    seal(folder, metadata)
    return folder


def _products():
    """Return a branch that multiplies a matrix by another many times."""
    names = [f"product{n}" for n in range(PRODUCTS + 1)]
    pairs = itertools.pairwise(names)
    nodes = [helper.make_node("MatMul", [one, "product0"], [to]) for one, to in pairs]
    return helper.make_graph(nodes, "products", [], [_matrix(names[-1])])


def _nothing():
    return helper.make_graph(
        [helper.make_node("Identity", ["product0"], ["same"])], "nothing", [], [_matrix("same")]
    )


def _matrix(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE])
