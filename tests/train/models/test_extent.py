"""A configuration that asks for an endless model is refused before anything is allocated for it."""

import json
import resource

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.modules import module as torch_modules

from train.errors import CheckpointError
from train.models.checkpoint import open_checkpoint
from train.models.language import open_language_model
from train.models.registry import build

LARGE = 1 << 24
ONE_HEAD = {"num_attention_heads": 1}
CLASSIFIERS = [
    {"model_type": "vit", "hidden_size": 10**9},
    {"model_type": "vit", "hidden_size": LARGE, **ONE_HEAD},
    {"model_type": "vit", "num_hidden_layers": 1900, "hidden_size": 1 << 13, **ONE_HEAD},
    {"model_type": "vit", "image_size": LARGE, "patch_size": 1},
    {"model_type": "vit", "num_labels": LARGE},
    {"model_type": "vit", "backbone_config": {"depths": [10**7]}},
    {"model_type": "beit", "use_relative_position_bias": True, "image_size": 1 << 20},
    {"model_type": "swin", "window_size": LARGE},
    {"model_type": "convnext", "depths": [2000] * 4, "hidden_sizes": [1 << 14] * 4},
    {"model_type": "resnet", "hidden_sizes": [LARGE] * 4, "layer_type": "basic"},
    {"model_type": "efficientnet", "width_coefficient": 1e9},
    {"model_type": "mobilenet_v2", "depth_multiplier": 1e9},
    {"model_type": "gatekeeper-small-resnet", "widths": [LARGE] * 3},
    {"model_type": "bert", "vocab_size": 10**12},
    {"model_type": "bert", "vocab_size": LARGE, "hidden_size": 1 << 13, **ONE_HEAD},
    {"model_type": "bert", "num_hidden_layers": 1e7},
    {"model_type": "distilbert", "sinusoidal_pos_embds": True, "max_position_embeddings": LARGE},
    {"model_type": "albert", "inner_group_num": LARGE},
    {"model_type": "longformer", "max_position_embeddings": LARGE, "hidden_size": 1 << 12},
]
LANGUAGE_MODELS = [
    {"model_type": "llama", "hidden_size": 1 << 22, **ONE_HEAD},
    {"model_type": "llama", "vocab_size": LARGE, "hidden_size": 1 << 14},
    {"model_type": "llama", "max_position_embeddings": 10**12},
    {"model_type": "gpt2", "n_positions": 1 << 17, "n_embd": 8, "n_head": 1, "vocab_size": 8},
    {"model_type": "gpt2", "n_inner": LARGE, "n_embd": 1 << 12, "n_head": 1},
    {"model_type": "gpt_neo", "max_position_embeddings": 1 << 17, "hidden_size": 8, "num_heads": 1},
    {"model_type": "mixtral", "num_local_experts": LARGE},
    {"model_type": "mixtral", "num_local_experts": 2000, "hidden_size": 1 << 13},
    {"model_type": "bloom", "hidden_size": 1 << 20, "n_head": 1},
    {"model_type": "mamba", "state_size": LARGE, "hidden_size": 1 << 12},
    {"model_type": "xlm", "n_langs": LARGE, "emb_dim": 1 << 12, "n_heads": 1},
    {"model_type": "marian", "max_position_embeddings": LARGE, "d_model": 64},
    {"model_type": "ctrl", "n_positions": LARGE, "n_embd": 1 << 10, "n_head": 1},
]


def name(config):
    return f"{config['model_type']}-{list(config)[1]}"


def write(folder, config, *, has_weights):
    (folder / "config.json").write_text(json.dumps(config))
    if has_weights:
        weights = {"layer": torch.zeros(10)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def is_refused(opened, *arguments, **options):
    """Require a refusal in one line, without memory for what was asked."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as refused:
        opened(*arguments, **options)
    assert "\n" not in str(refused.value)
    taken_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken_kib < 300 << 10
    return str(refused.value)


@pytest.mark.parametrize("config", CLASSIFIERS, ids=name)
def test_no_model_of_endless_size_is_built(config, tmp_path):
    write(tmp_path, config, has_weights=False)
    is_refused(build, str(tmp_path), labels=("a", "b"))
    write(tmp_path, config, has_weights=True)
    is_refused(open_checkpoint, tmp_path, kind=None)
    is_refused(build, str(tmp_path), labels=("a", "b"))


@pytest.mark.parametrize("config", LANGUAGE_MODELS, ids=name)
def test_no_language_model_of_endless_size_is_built(config, tmp_path):
    write(tmp_path, {"architectures": ["AForCausalLM"], **config}, has_weights=True)
    is_refused(open_language_model, tmp_path)


def test_a_model_of_countless_parts_is_not_built(tmp_path, monkeypatch):
    monkeypatch.setattr("train.models.files._MOST_PARTS", 1000)
    write(tmp_path, {"model_type": "vit", "num_hidden_layers": 100}, has_weights=False)
    assert "more parts" in is_refused(build, str(tmp_path), labels=("a", "b"))


def test_a_model_of_usual_size_is_counted_and_built(tmp_path):
    write(tmp_path, {"model_type": "vit", "num_hidden_layers": 1}, has_weights=False)
    assert (
        build(str(tmp_path), labels=("a", "b")).model.vit.embeddings.cls_token.device.type == "cpu"
    )
    hooks = ("parameter", "buffer", "module")
    assert not any(getattr(torch_modules, f"_global_{kind}_registration_hooks") for kind in hooks)
    assert torch.zeros(1).device.type == "cpu"
