"""Makes text classifiers with real tokenizers, and texts to classify."""

import csv
import string

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

LABELS = ("card", "loan", "travel", "weather")
LONGEST = 24
_WORDS = {
    "card": "card pin chip lost stolen payment declined limit contactless statement",
    "loan": "loan rate interest mortgage repay instalment credit debt borrow statement",
    "travel": "flight hotel passport luggage train booking visa airport payment delay",
    "weather": "rain snow wind sunny storm forecast cloud temperature delay umbrella",
}
_FILLING = "please what is the a my about can you tell me why für ça 天气 on of to now"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_TINY = {
    "bert": {"hidden_size": 32, "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "intermediate_size": 64},
    "distilbert": {"dim": 32, "hidden_dim": 64},
    "gpt2": {"n_embd": 32, "n_positions": LONGEST},
}
_TWO = {"num_hidden_layers": 2, "num_attention_heads": 2}
_LAYERS = {
    "bert": _TWO,
    "roberta": _TWO,
    "distilbert": {"n_layers": 2, "n_heads": 2},
    "gpt2": {"n_layer": 2, "n_head": 2},
}


def write_texts(folder, *, sizes=(400, 300, 300), seed=0):
    """Write `train.csv`, `validation.csv` and `test.csv`; some words belong to several classes."""
    folder.mkdir(exist_ok=True)
    draws = np.random.default_rng(seed)
    for split, size in zip(("train", "validation", "test"), sizes, strict=True):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            rows.writerows(_row(draws, LABELS[i % len(LABELS)]) for i in range(size))
    return folder


def _row(draws, label):
    words = [
        *draws.choice(_FILLING.split(), draws.integers(1, 9)),
        *draws.choice(_WORDS[label].split(), 2),
    ]
    other = LABELS[draws.integers(len(LABELS))]
    words += list(draws.choice(_WORDS[other].split(), draws.integers(0, 2)))
    return " ".join(draws.permutation(words)), label


def write_classifier(path, kind="bert", *, labels=LABELS, seed=0, scale=3.0, **sizes):
    """Write a tiny untrained classifier with a tokenizer of its own.

    Fresh weights are so small that every answer is alike: they are made larger by `scale`.
    """
    tokenizer = make_tokenizer()
    # Room for 24 tokens: RoBERTa numbers them from behind the padding's number, 0.
    positions = LONGEST + 1 if kind == "roberta" else LONGEST
    config = AutoConfig.for_model(
        kind,
        pad_token_id=0,
        max_position_embeddings=positions,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **{"vocab_size": len(tokenizer), **_LAYERS[kind], **_TINY[kind], **sizes},
    )
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    for weight in model.parameters():
        weight.data.mul_(scale)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def make_tokenizer():
    """Return a WordPiece tokenizer; it knows most words, and the rest by their letters."""
    known = sorted({word for words in _WORDS.values() for word in words.split()[:8]})
    known += sorted(set(_FILLING.lower().split()) - set(known))
    letters = sorted(set("".join(known)) | set(string.ascii_lowercase))
    # Trained, the vocabulary would have another order in every process.
    entries = dict.fromkeys([*_SPECIAL, *letters, *(f"##{one}" for one in letters), *known])
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )
