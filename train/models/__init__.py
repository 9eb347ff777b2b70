"""Architectures and checkpoints: what `export` and `cloud_stub` may import of `train`."""

from train.models.checkpoint import Checkpoint, open_checkpoint, save
from train.models.mobilenet_v3 import MobileNetV3Small, MobileNetV3SmallConfig
from train.models.registry import NAMES, Normalisation, build
from train.models.small_cnn import SmallCNN, SmallCNNConfig
from train.models.small_resnet import SmallResNet, SmallResNetConfig
from train.models.views import VIEWS

__all__ = [
    "NAMES",
    "VIEWS",
    "Checkpoint",
    "MobileNetV3Small",
    "MobileNetV3SmallConfig",
    "Normalisation",
    "SmallCNN",
    "SmallCNNConfig",
    "SmallResNet",
    "SmallResNetConfig",
    "build",
    "open_checkpoint",
    "save",
]
