"""Classifiers as backends, without a server."""

import json
import shutil

import pytest
from tools.adding_decoder import Adder, write_adder

from cloud_stub.backends.classifiers import BundleBackend, CascadeBackend
from cloud_stub.model_settings import ModelSettings
from cloud_stub.models import open_backend
from edge_runtime.errors import BundleError, GatekeeperError, SettingError

pytestmark = pytest.mark.slow


def pickle_weights(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def take_several_labels(path):
    config = json.loads((path / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (path / "config.json").write_text(json.dumps(config))


def truncate_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "nothing is at"),
        (pickle_weights, "pickled weights can run code"),
        (truncate_weights, "does not open"),
        (take_several_labels, "one label an input"),
        (lambda path: (path / "config.json").write_text("{}"), "config.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused_on_one_line(damage, why, small_checkpoint, tmp_path):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    damage(path)
    with pytest.raises(GatekeeperError, match=why) as caught:
        open_backend(ModelSettings(checkpoint=path))
    assert "\n" not in str(caught.value)


def test_a_classifier_takes_no_flags_of_text_generation(small_checkpoint, bundle):
    with pytest.raises(SettingError, match="got a classifier's bundle: leave it out"):
        open_backend(ModelSettings(bundle=bundle, confidence="min_prob"))
    with pytest.raises(SettingError, match="got a classifier's checkpoint"):
        open_backend(ModelSettings(checkpoint=small_checkpoint, max_new_tokens=8))
    assert open_backend(ModelSettings(checkpoint=small_checkpoint)).labels[0] == "0"


@pytest.mark.parametrize("kind", [BundleBackend, CascadeBackend])
def test_a_language_models_bundle_is_refused(kind, tmp_path):
    folder = write_adder(tmp_path, Adder.saying("a"))
    options = {} if kind is BundleBackend else {"cloud": "localhost:1", "deadline_s": 1.0}
    with pytest.raises(BundleError, match=r"expected a classifier in .* got a decoder") as caught:
        kind(folder, 1, **options)
    assert "\n" not in str(caught.value)


def test_a_middle_tier_refuses_a_missing_file_of_authorities(bundle):
    link = {"cloud": "far.example:1", "cloud_tls": True, "cloud_ca": bundle / "none.pem"}
    with pytest.raises(SettingError, match=r"none\.pem"):
        open_backend(ModelSettings(bundle=bundle, **link))
