"""The chain end to end, with the large model in a real server process."""

import json

import numpy as np
import pytest
from PIL import Image
from tools.processes import finish

from benchmarks.processes import running_server
from edge_runtime import Cascade, InputError, SettingError, Source, UseError
from edge_runtime.commands.doctor import DoctorError, DoctorSettings
from export.commands.build import BuildSettings


@pytest.mark.slow
def test_only_deferred_rows_are_forwarded_and_return_to_their_places(
    bundle, address, pictures, large_checkpoint, small_checkpoint
):
    from train.models import open_checkpoint

    large = open_checkpoint(large_checkpoint).predict(pictures).argmax(-1)
    small = open_checkpoint(small_checkpoint).predict(pictures).argmax(-1)
    assert (large != small).any()
    with Cascade.open(bundle, cloud=address, deadline_s=20) as cascade:
        answers = cascade.batch(pictures)
        deferred = np.array([a.deferred for a in answers])
        assert 0 < deferred.sum() < len(pictures)
        for row, answer in enumerate(answers):
            wanted = large[row] if deferred[row] else small[row]
            assert answer.source is (Source.CLOUD if deferred[row] else Source.EDGE)
            assert (answer.prediction, answer.label) == (wanted, str(wanted))
            assert answer.error is None
        pixels = int(deferred.sum()) * pictures[0].nbytes
        assert pixels < cascade.request_bytes < pixels + 2000
        one = cascade(pictures[0])
    assert (one.prediction, one.source) == (answers[0].prediction, answers[0].source)


@pytest.mark.slow
def test_two_classes_of_one_name_stay_two_on_the_way_to_the_cloud_and_back(tmp_path, pictures):
    from train.models import build, open_checkpoint, save

    names = ["cat", "dog"] + ["crane"] * 8
    for seed, kind in enumerate(("small-cnn", "resnet-20")):
        save(build(kind, labels=names, image_size=(8, 8), seed=seed), tmp_path / kind)
    bundle = tmp_path / "bundle"
    BuildSettings(checkpoint=tmp_path / "small-cnn", out=bundle, threshold=2.0).run()
    # A bundle of an older release holds the names as the model has them.
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["metadata"]["labels"][2] == "crane (2)"
    record["metadata"]["labels"] = names
    (bundle / "bundle.json").write_text(json.dumps(record))
    large = open_checkpoint(tmp_path / "resnet-20").predict(pictures).argmax(-1)
    assert len(set(large.tolist())) > 1
    server = ["cloud_stub", "--checkpoint", str(tmp_path / "resnet-20"), "--port", "0"]
    with (
        running_server(server) as address,
        Cascade.open(bundle, cloud=address, deadline_s=20) as cascade,
    ):
        answers = cascade.batch(pictures)
    expected = [names[i] if i < 2 else f"crane ({i})" for i in large]
    assert [(a.prediction, a.label) for a in answers] == list(zip(large, expected, strict=True))
    assert {a.source for a in answers} == {Source.CLOUD}


def test_an_unreachable_cloud_falls_back_with_the_reason(bundle, pictures):
    with Cascade.open(bundle, cloud="127.0.0.1:9", threshold=2.0, deadline_s=2) as cascade:
        answer = cascade(pictures[0])
    assert answer.source is Source.EDGE_FALLBACK
    assert answer.deferred
    assert "127.0.0.1:9" in answer.error


def test_without_a_cloud_a_deferred_input_has_the_reason(bundle, pictures):
    answer = Cascade.open(bundle, threshold=2.0)(pictures[0])
    assert (answer.source, answer.error) == (Source.EDGE_FALLBACK, "no cloud address was given")


def test_a_threshold_of_minus_infinity_keeps_everything_on_the_edge(bundle, pictures):
    answers = Cascade.open(bundle, threshold=float("-inf")).batch(list(pictures))
    assert {a.source for a in answers} == {Source.EDGE}
    assert len(answers) == len(pictures)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),  # a single picture, not eight grey ones
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
        [],
    ],
)
def test_an_input_that_does_not_fit_is_refused(bundle, wrong):
    with pytest.raises(InputError, match="expected"):
        Cascade.open(bundle).batch(wrong)


def test_a_nan_threshold_is_refused(bundle):
    with pytest.raises(SettingError, match="NaN"):
        Cascade.open(bundle, threshold=float("nan"))


@pytest.mark.slow
def test_run_and_doctor_as_processes(bundle, address, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    line = ["--bundle", bundle, "--cloud", address, "--deadline-s", 20]
    code, error, out = finish("edge_runtime", "run", *line, "--json", tmp_path / "a.png")
    assert code == 0, error
    assert json.loads(out)["source"] in {"edge", "cloud"}
    code, _, out = finish("edge_runtime", "doctor", *line)
    assert code == 0, out
    assert "ok    cloud: answered in" in out


def test_doctor_fails_where_the_cloud_does(bundle, capsys):
    with pytest.raises(DoctorError):
        DoctorSettings(bundle=bundle, cloud="127.0.0.1:9").run()
    assert "FAIL  cloud" in capsys.readouterr().out


def test_a_classifier_streams_nothing(bundle):
    with Cascade.open(bundle) as cascade, pytest.raises(UseError, match="call the cascade"):
        cascade.stream(np.zeros((8, 8, 3), np.uint8))


def test_an_answer_and_a_cascade_show_what_matters(bundle, pictures):
    with Cascade.open(bundle, threshold=2.0) as cascade:
        answer = cascade(pictures[0])._replace(label="<b>cat\x1b[2J</b>")
        assert repr(cascade) == f"Cascade(small={str(bundle)!r}, threshold=2, large='none')"
        assert "<th>edge_fallback</th><td>1, " in cascade._repr_html_()
    assert repr(answer).startswith("Answer(label='<b>cat\\x1b[2J</b>', confidence=0.")
    assert repr(answer).endswith("error='no cloud address was given')")
    assert "<td>&lt;b&gt;cat\\x1b[2J&lt;/b&gt;</td>" in answer._repr_html_()


def test_an_answer_without_a_confidence_is_valid_json(bundle, pictures):
    answer = Cascade.open(bundle, threshold=float("inf"))(pictures[0])
    fields = answer._replace(confidence=float("nan")).as_dict()
    read = json.loads(json.dumps(fields, allow_nan=False))
    assert (read["confidence"], read["threshold"], read["source"]) == (None, None, "edge_fallback")
    assert read["timings"]["total_s"] > 0
