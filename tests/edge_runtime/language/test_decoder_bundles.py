import builtins
import json
import shutil

import onnx
import onnxruntime as ort
import pytest
from tools.adding_decoder import seal

from edge_runtime import EdgeModel, contract
from edge_runtime.bundle import read_bundle
from edge_runtime.errors import BundleError, DependencyError
from edge_runtime.language.decoder import Decoder


@pytest.fixture
def copy(spoken_bundle, tmp_path):
    return shutil.copytree(spoken_bundle, tmp_path / "copy")


def changed(folder, **extra):
    """Change the metadata in the graph and beside it."""
    metadata = read_bundle(folder, contract.ROLE_DECODER).metadata
    fields = json.loads(metadata.to_json()) | extra
    metadata = contract.GateMetadata.from_json(json.dumps(fields))
    model = onnx.load(folder / "model.onnx")
    model.metadata_props[0].value = metadata.to_json()
    onnx.save(model, folder / "model.onnx")
    seal(folder, metadata)
    return folder


def refusal(folder):
    with pytest.raises(BundleError) as caught:
        Decoder.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.rstrip().endswith(("again", "takes it", "take it", "update tokenizers"))
    return message


def test_a_bundle_opens_by_its_folder_or_its_graph(spoken_bundle):
    for path in (spoken_bundle, str(spoken_bundle), spoken_bundle / "model.onnx"):
        assert Decoder.open(path, threads=1).generate(["?"])[0].text == "aé€😀b"


def test_a_classifier_is_refused_by_name(copy):
    seal(copy, read_bundle(copy, contract.ROLE_DECODER).metadata, role=contract.ROLE_CLASSIFIER)
    assert "expected a decoder in" in refusal(copy)
    assert "got a classifier" in refusal(copy)


def test_a_decoder_is_no_classifier(copy):
    with pytest.raises(BundleError, match=r"got a decoder .* `python -m edge_runtime generate`"):
        EdgeModel.open(copy)


def test_a_decoder_of_another_task_is_refused(copy):
    message = refusal(changed(copy, task="image-classification"))
    assert "expected a bundle for text-generation, got one for image-classification" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"context": 0}, "context is '0'"),
        ({"layers": True}, "layers is 'True'"),
        ({"layers": 10**9}, "layers is '1000000000'"),
        ({"head_dim": 2**62}, "head_dim is '4611"),
        ({"pad_token_id": 2**63}, "pad_token_id is '9223"),
        ({"eos_token_ids": 5}, "eos_token_ids is not a list"),
        ({"pad_token_id": None}, "pad_token_id is 'None'"),
        ({"least_onnxruntime": "new"}, "least_onnxruntime is 'new'"),
    ],
)
def test_invalid_limits_are_refused(change, named, copy):
    metadata = read_bundle(copy, contract.ROLE_DECODER).metadata
    limits = metadata.extra[contract.GENERATION] | change
    assert named in refusal(changed(copy, generation=limits))


def test_an_onnxruntime_that_would_run_it_wrongly_is_refused(copy):
    limits = read_bundle(copy, contract.ROLE_DECODER).metadata.extra[contract.GENERATION]
    changed(copy, generation=limits | {"least_onnxruntime": "999.1.2"})
    with pytest.raises(BundleError, match=r"expected ONNX Runtime 999\.1\.2 .*onnxruntime>=999"):
        Decoder.open(copy)
    changed(copy, generation=limits | {"least_onnxruntime": ort.__version__})
    assert Decoder.open(copy).generate(["?"])[0].text == "aé€😀b"


def test_a_bundle_without_limits_is_refused(copy):
    assert "got None (not an object)" in refusal(changed(copy, generation=None))


def test_a_graph_of_fewer_layers_than_described_is_refused(copy):
    metadata = read_bundle(copy, contract.ROLE_DECODER).metadata
    limits = metadata.extra[contract.GENERATION] | {"layers": 2}
    assert "a decoder of 2 layers" in refusal(changed(copy, generation=limits))


@pytest.mark.parametrize("output", ["defer", "present.active", "present.0.value"])
def test_a_graph_without_an_output_is_refused(output, copy):
    model = onnx.load(copy / "model.onnx")
    kept = [node for node in model.graph.output if node.name != output]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, copy / "model.onnx")
    seal(copy, read_metadata(model))
    assert f"expected '{output}'" in refusal(copy)


def read_metadata(model):
    return contract.GateMetadata.from_json(model.metadata_props[0].value)


def test_a_truncated_tokenizer_is_refused(copy):
    file = copy / "tokenizer.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "altered or truncated" in refusal(copy)
    # And by itself, where the hash vouches for it.
    seal(copy, read_metadata(onnx.load(copy / "model.onnx")))
    assert "expected a tokenizer in" in refusal(copy)


def test_a_bundle_that_names_no_tokenizer_is_refused(copy):
    assert "expected a tokenizer among the files" in refusal(changed(copy, tokenizer=None))


def test_without_tokenizers_the_error_names_the_extra(copy, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DependencyError, match=r"pip install 'gatekeeper-edge\[text\]'"):
        Decoder.open(copy)
