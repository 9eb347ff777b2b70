"""Architectures and checkpoints; with `train.data`, all that `export` and `cloud_stub` import."""

from train.models.checkpoint import (
    FILE,
    VIEWS,
    Checkpoint,
    Training,
    open_checkpoint,
    save,
    training_of,
    weights_sha256,
)
from train.models.deferral_head import HEAD_FILE, DeferralHead, features_of, read_head, write_head
from train.models.files import check_regular, weight_files
from train.models.generation import Generated
from train.models.language import LanguageModel, open_language_model, save_language_model
from train.models.mobilenet_v3 import MobileNetV3Small, MobileNetV3SmallConfig
from train.models.registry import NAMES, Normalisation, build, has_attention, is_pretrained
from train.models.single_label import naming_hint
from train.models.small_cnn import SmallCNN, SmallCNNConfig
from train.models.small_resnet import SmallResNet, SmallResNetConfig

__all__ = [
    "FILE",
    "HEAD_FILE",
    "NAMES",
    "VIEWS",
    "Checkpoint",
    "DeferralHead",
    "Generated",
    "LanguageModel",
    "MobileNetV3Small",
    "MobileNetV3SmallConfig",
    "Normalisation",
    "SmallCNN",
    "SmallCNNConfig",
    "SmallResNet",
    "SmallResNetConfig",
    "Training",
    "build",
    "check_regular",
    "features_of",
    "has_attention",
    "is_pretrained",
    "naming_hint",
    "open_checkpoint",
    "open_language_model",
    "read_head",
    "save",
    "save_language_model",
    "training_of",
    "weight_files",
    "weights_sha256",
    "write_head",
]
