"""The devices that a test runs on: the CPU always, CUDA where it is."""

import pytest
import torch

cuda = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
    ],
)
DEVICES = ["cpu", cuda]
