"""The edge runtime against MLServer, which runs for real in an environment of its own."""

import json
import math
import signal
import subprocess
import time

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tools.foreign_models import Logits, write_onnx
from tools.mlserver import add_contract_model, add_foreign_model, write_word_counter
from tools.processes import ROOT
from tools.secured import Authority

from benchmarks.serving.mlserver import EXECUTABLE, MLServer, write_settings
from cloud_stub.protocol.pictures import _decode
from edge_runtime import Cascade, CloudMisconfiguredError, CloudModel, Security, Source
from edge_runtime.cli import main
from edge_runtime.cloud.breaker import BreakerSettings
from edge_runtime.commands.doctor import DoctorSettings
from edge_runtime.commands.run import RunSettings
from edge_runtime.errors import (
    CloudDeadlineError,
    CloudProtocolError,
    CloudRejectedError,
    CloudUnavailableError,
)
from edge_runtime.inputs.pictures import decode_picture
from export.commands.build import BuildSettings
from train.classifier.settings import FitSettings
from train.data.pictures import PictureFiles
from train.models import open_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not EXECUTABLE.exists(), reason="no MLServer: make .venv-mlserver/.installed"
    ),
]
DIGITS = tuple(map(str, range(10)))
TOPICS = {"card": ("card", "pin"), "loan": ("loan", "rate"), "weather": ("rain", "für")}
# The engine's order is its own; names tell the classes apart, not numbers.
SHUFFLED = tuple("5093817264")
FOREIGN = {
    "cloud_input": "input",
    "cloud_output": "scores",
    "cloud_reduce": "argmax",
    "cloud_labels": SHUFFLED,
}
PATIENT_S = 60.0
COMMANDS = {"run": RunSettings, "doctor": DoctorSettings}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return the checkpoint of a model that predicts every digit, so that mixed-up rows show."""
    out = tmp_path_factory.mktemp("fitted") / "checkpoint"
    FitSettings(out=out, epochs=4, learning_rate=3e-3).run()
    return out


@pytest.fixture(scope="module")
def large_bundle(fitted, tmp_path_factory):
    out = tmp_path_factory.mktemp("large") / "bundle"
    BuildSettings(checkpoint=fitted, out=out, threshold=0.0).run()
    return out


@pytest.fixture(scope="module")
def plain_bundle(small_checkpoint, tmp_path_factory):
    """A bundle without preprocessing: it takes float32, as the engine's model does."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    BuildSettings(
        checkpoint=small_checkpoint,
        out=out,
        calibrate="digits",
        target_deferral=0.3,
        preprocessing="none",
    ).run()
    return out


@pytest.fixture(scope="module")
def graphs(large_bundle, fitted, tmp_path_factory):
    """Return name -> ONNX file of what is served."""
    folder = tmp_path_factory.mktemp("graphs")
    return {
        "large": large_bundle / "model.onnx",
        "scores": write_onnx(Logits(open_checkpoint(fitted)), folder / "scores.onnx"),
        "texts": write_word_counter(folder / "texts.onnx", list(TOPICS.values())),
    }


@pytest.fixture(scope="module")
def repository(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlserver") / "repository"
    add_contract_model(folder, "large", graphs["large"], list(DIGITS))
    add_contract_model(
        folder, "merged", graphs["large"], list(DIGITS), max_batch_size=8, max_batch_time=0.01
    )
    add_contract_model(folder, "texts", graphs["texts"], list(TOPICS))
    add_foreign_model(folder, "scores", graphs["scores"])
    add_foreign_model(folder, "graph", graphs["large"])
    write_settings(folder)
    return folder


@pytest.fixture(scope="module")
def server(repository):
    """A server that no test here harms."""
    with MLServer(repository) as server:
        yield server


@pytest.fixture
def mortal(graphs, tmp_path):
    """A server to be killed, with one model."""
    add_contract_model(tmp_path / "repository", "large", graphs["large"], list(DIGITS))
    write_settings(tmp_path / "repository")
    with MLServer(tmp_path / "repository") as server:
        yield server


@pytest.fixture
def ask(server):
    """Ask one of the server's models once."""

    def infer(model, rows, *, labels=DIGITS, **settings):
        settings = {"deadline_s": PATIENT_S} | settings
        with CloudModel.open(server.address, model, labels=labels, **settings) as cloud:
            return cloud.infer(rows)

    return infer


@pytest.fixture
def expected(graphs, pictures):
    """Return (prediction, confidence) of the large model, here and now."""
    session = onnxruntime.InferenceSession(graphs["large"])
    return session.run(["prediction", "confidence"], {"image": pictures})


@pytest.fixture
def files(pictures, tmp_path):
    """Return four pictures as files of a format that loses nothing."""
    for place, picture in enumerate(pictures[:4]):
        Image.fromarray(picture).save(tmp_path / f"{place}.png")
    return sorted(tmp_path.glob("*.png"))


@pytest.fixture
def command(capfd):
    def call(*words):
        """Return (status, standard output, standard error)."""
        capfd.readouterr()
        argv = [str(word) for word in words]
        status = main("python -m edge_runtime", COMMANDS, argv=argv)
        return status, *capfd.readouterr()

    return call


def floats(pictures):
    """Return pictures as an engine's model takes them."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1


def test_a_runtime_of_the_contract_answers_a_batch_of_pixels(ask, pictures, expected):
    answers = ask("large", pictures)
    assert answers.prediction.tolist() == expected[0].tolist()
    assert answers.label == [DIGITS[index] for index in expected[0]]
    assert answers.confidence == pytest.approx(expected[1], rel=1e-5)
    assert len(set(answers.label)) > 5  # a mix-up of rows would show


def test_labels_are_mapped_by_name(ask, pictures, expected):
    answers = ask("large", pictures, labels=SHUFFLED)
    assert answers.label == [DIGITS[index] for index in expected[0]]
    assert answers.prediction.tolist() == [SHUFFLED.index(label) for label in answers.label]


def test_picture_files_are_decoded_there(ask, files, expected):
    encoded = np.array([file.read_bytes() for file in files], object)
    answers = ask("large", encoded, cloud_input="image")
    assert answers.prediction.tolist() == expected[0][:4].tolist()


def test_texts_are_classified(ask):
    texts = np.array(["my pin and my card", "rain für den Tag", "the rate", ""], object)
    answers = ask("texts", texts, labels=tuple(TOPICS), cloud_input="text")
    assert answers.label[:3] == ["card", "weather", "loan"]
    assert answers.confidence[3] == pytest.approx(1 / 3)


def test_raw_logits_under_foreign_names_are_reduced(ask, pictures, expected):
    answers = ask("scores", floats(pictures), **FOREIGN)
    assert answers.label == [SHUFFLED[index] for index in expected[0]]
    assert answers.prediction.tolist() == [int(label) for label in answers.label]
    assert all(map(math.isnan, answers.confidence))


def test_class_indices_of_a_bundles_graph_are_read_with_its_confidences(ask, pictures, expected):
    answers = ask("graph", pictures, cloud_output="prediction")
    assert answers.prediction.tolist() == expected[0].tolist()
    assert answers.confidence == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize("model", ["large", "merged"])
def test_a_cascade_defers_to_it(bundle, server, pictures, expected, model):
    with Cascade.open(bundle, cloud=server.address, model=model, deadline_s=PATIENT_S) as cascade:
        answers = cascade.batch(pictures)
        one = cascade(pictures[0])
        futures = [cascade.submit(picture) for picture in pictures]
        single = [future.result() for future in futures]
    assert {answer.source for answer in answers} == {Source.EDGE, Source.CLOUD}
    for index, answer, alone in zip(expected[0], answers, single, strict=True):
        if answer.source is Source.CLOUD:
            assert answer.label == DIGITS[index]
        assert (alone.label, alone.source) == (answer.label, answer.source)
    assert (one.label, one.source) == (answers[0].label, answers[0].source)


def test_a_cascade_forwards_picture_files(bundle, server, files, expected):
    with Cascade.open(
        bundle, cloud=server.address, threshold=math.inf, deadline_s=PATIENT_S
    ) as cascade:
        answers = cascade.batch(files)
    assert [(answer.prediction, answer.source) for answer in answers] == [
        (index, Source.CLOUD) for index in expected[0][:4]
    ]


def test_run_and_doctor_ask_a_runtime_of_the_contract(bundle, server, files, expected, command):
    deferring = ["--threshold", "inf", "--deadline-s", PATIENT_S, "--json"]
    asked = ["--bundle", bundle, "--cloud", server.address]
    status, out, error = command("run", *asked, *deferring, *files)
    assert status == 0, error
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["label"], line["source"]) for line in lines] == [
        (DIGITS[index], "cloud") for index in expected[0][:4]
    ]
    status, out, _ = command("doctor", *asked, "--deadline-s", PATIENT_S)
    assert status == 0, out
    assert f"ok    link: {server.address} takes connections" in out
    assert "ok    certificates: none, the link is in plaintext" in out
    assert "ok    cloud: answered in" in out


def test_run_and_doctor_map_a_foreign_model(
    plain_bundle, server, pictures, expected, tmp_path, command
):
    np.save(tmp_path / "a.npy", floats(pictures[:1])[0])
    (tmp_path / "labels.txt").write_text("\n".join(SHUFFLED) + "\n")
    mapped = [
        "--model=scores",
        "--forward=model_input",
        "--cloud-input=input",
        "--cloud-output=scores",
        "--cloud-reduce=argmax",
        f"--cloud-labels={tmp_path / 'labels.txt'}",
        f"--deadline-s={PATIENT_S}",
    ]
    asked = ["--bundle", plain_bundle, "--cloud", server.address, *mapped]
    status, out, error = command("run", *asked, "--threshold=inf", "--json", tmp_path / "a.npy")
    assert status == 0, error
    answer = json.loads(out)
    assert (answer["label"], answer["source"]) == (SHUFFLED[expected[0][0]], "cloud")
    status, out, _ = command("doctor", *asked)
    assert status == 0, out
    assert "ok    cloud: answered in" in out


@pytest.mark.parametrize(
    ("model", "settings", "kind", "why"),
    [
        ("absent", {}, CloudRejectedError, "NOT_FOUND: Model absent .*not found"),
        ("large", {"cloud_input": "pixels"}, CloudRejectedError, "INTERNAL: .*pixels"),
        ("graph", {}, CloudProtocolError, "unknown outputs defer: .*cloud_output="),
        ("graph", {"cloud_output": "label"}, CloudProtocolError, "an output 'label', got predict"),
        (
            "graph",
            {"cloud_output": "prediction", "cloud_reduce": "argmax"},
            CloudProtocolError,
            "expected scores as floats",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_one_line_with_the_reason(
    ask, pictures, model, settings, kind, why
):
    with pytest.raises(kind, match=why) as caught:
        ask(model, pictures, **settings)
    assert "\n" not in str(caught.value)


def test_an_input_of_the_wrong_shape_is_refused_and_the_next_one_answered(ask, pictures):
    with pytest.raises(CloudRejectedError, match="INTERNAL"):
        ask("scores", np.zeros((1, 5), np.float32), **FOREIGN)
    with pytest.raises(CloudRejectedError, match="INVALID_ARGUMENT: expected a picture file"):
        ask("large", np.array([b"no picture"], object))
    assert len(ask("large", pictures).label) == len(pictures)


def test_a_request_over_its_message_limit_is_refused_with_a_message(ask):
    # 4 MiB unless `grpc_max_message_length` says otherwise.
    with pytest.raises(CloudRejectedError, match=r"larger than max.*send smaller inputs"):
        ask("large", np.zeros((1, 1200, 1200, 3), np.uint8))


def test_readiness_of_a_model_is_reported_and_of_a_missing_one_refused(server):
    with CloudModel.open(server.address, "scores", labels=DIGITS) as cloud:
        assert cloud.check(deadline_s=PATIENT_S)
    with (
        CloudModel.open(server.address, "absent", labels=DIGITS) as cloud,
        pytest.raises(CloudRejectedError, match=r"Model absent .*not found"),
    ):
        cloud.check(deadline_s=PATIENT_S)


def test_tls_is_found_missing_at_open(server, tmp_path):
    pytest.importorskip("trustme")
    security = Security(ca=Authority(tmp_path / "ours").ca)
    with pytest.raises(CloudMisconfiguredError, match="speaks no TLS there"):
        CloudModel.open(server.address, labels=DIGITS, security=security)


def test_a_halted_server_takes_no_longer_than_the_deadline(mortal, pictures):
    with CloudModel.open(mortal.address, labels=DIGITS) as cloud:
        cloud.infer(pictures, deadline_s=PATIENT_S)
        mortal.send(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(CloudDeadlineError, match=r"no answer within 0\.2 s"):
            cloud.infer(pictures, deadline_s=0.2)
        assert time.monotonic() - begin < 5
        mortal.send(signal.SIGCONT)
        assert len(cloud.infer(pictures, deadline_s=PATIENT_S).label) == len(pictures)


def test_a_killed_server_is_found_again_at_its_address(bundle, mortal, pictures):
    breaker = BreakerSettings(failures=1)
    with Cascade.open(
        bundle, cloud=mortal.address, threshold=math.inf, deadline_s=PATIENT_S, breaker=breaker
    ) as cascade:
        before = cascade(pictures[0])
        assert before.source is Source.CLOUD
        mortal.kill()
        during = cascade(pictures[0])
        assert during.source is Source.EDGE_FALLBACK
        assert CloudUnavailableError.__name__ in during.error
        mortal.start()
        until = time.monotonic() + PATIENT_S
        while (after := cascade(pictures[0])).source is not Source.CLOUD:
            assert time.monotonic() < until, after.error
            time.sleep(0.05)
    assert after.label == before.label


_DECODE = """
import sys
from pathlib import Path
import numpy as np
import gatekeeper_runtime

for file in sorted(Path(sys.argv[1]).iterdir()):
    np.save(f"{sys.argv[2]}/{file.name}.npy", gatekeeper_runtime._pixels(file.read_bytes()))
"""


def test_training_device_and_servers_decode_the_same_pixels(tmp_path):
    files, decoded = tmp_path / "files", tmp_path / "decoded"
    files.mkdir()
    decoded.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("png", "jpg", "webp", "bmp", "gif"):
        Image.fromarray(colours).save(files / f"turned.{form}", exif=exif)
    Image.fromarray(colours).save(files / "turned.tif", tiffinfo={0x0112: 6})
    Image.fromarray(colours).save(files / "xmp.webp", xmp=b'tiff:Orientation="6"')
    Image.fromarray(colours[..., 0].astype(np.uint16) * 200).save(files / "wide.png", exif=exif)
    palette = Image.fromarray(colours).quantize(8)
    palette.save(files / "palette.png", transparency=b"\x00\x80")
    Image.fromarray(colours).convert("CMYK").save(files / "cmyk.jpg")
    Image.fromarray(colours).save(files / "damaged.webp", exif=b"Exif\0\0XX")
    python = EXECUTABLE.with_name("python")
    folder = ROOT / "examples" / "mlserver"
    subprocess.run([python, "-c", _DECODE, files, decoded], cwd=folder, check=True, timeout=120)
    for file in sorted(files.iterdir()):
        expected = decode_picture(file, file.name)
        np.testing.assert_array_equal(np.load(decoded / f"{file.name}.npy"), expected, file.name)
        np.testing.assert_array_equal(PictureFiles([file])[0], expected)
        np.testing.assert_array_equal(_decode(1 << 20, file.read_bytes(), 0), expected)
