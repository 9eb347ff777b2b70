"""The description of a measurement names the machine."""

import pytest

from edge_runtime import environment

NAMES = ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Return a function that puts an `nvidia-smi` with some content into the only path."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(script):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    return install


def test_gpus_are_named(driver):
    driver("\n".join(f"echo '{name}'" for name in NAMES))
    assert environment.hardware()["gpus"] == NAMES


@pytest.mark.parametrize("script", ["exit 9", "exec nothing-of-this-name"])
def test_a_driver_that_fails_counts_as_no_gpu(script, driver):
    driver(script)
    assert environment.hardware()["gpus"] == []


def test_a_machine_without_a_driver_has_no_gpu(driver):
    assert environment.hardware()["gpus"] == []
