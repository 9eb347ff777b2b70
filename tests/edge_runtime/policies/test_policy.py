"""The policies of a cascade, each against a real server process."""

import logging
import os
import socket
import threading
import time
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError

import numpy as np
import pytest
from tools.processes import refused_here

from edge_runtime import (
    BreakerSettings,
    Cascade,
    CloudUnavailableError,
    DeferralBudget,
    DriftAlarm,
    Policy,
    SettingError,
    Source,
    UseError,
)
from edge_runtime.__main__ import COMMANDS
from edge_runtime.cli import main
from edge_runtime.commands.run import RunSettings
from edge_runtime.policies.drift_settings import DriftSettings

pytestmark = pytest.mark.slow
EVERYTHING, NOTHING = 2.0, float("-inf")


@pytest.fixture
def dead():
    """An address where nothing listens."""
    return "127.0.0.1:9"


def sources(answers):
    return [answer.source for answer in answers]


def test_an_answer_has_its_source_threshold_and_timings(bundle, address, pictures):
    seen = []
    with Cascade.open(bundle, cloud=address, deadline_s=20, on_answer=seen.append) as cascade:
        answers = cascade.batch(pictures)
        assert seen == answers
        threshold = cascade.edge.threshold
        snapshot = cascade.stats.snapshot()
    deferred = sum(answer.deferred for answer in answers)
    assert snapshot.answers == len(pictures)
    assert snapshot.deferred == deferred
    assert snapshot.sources["cloud"].count == deferred
    assert snapshot.sources["edge"].count == len(pictures) - deferred
    for answer in answers:
        assert answer.contract_version == 1
        assert answer.threshold == threshold
        assert answer.deferred == (answer.confidence < threshold)
        assert answer.request_id == answers[0].request_id
        times = answer.timings
        parts = times.preprocess_s + times.edge_s + times.wire_s + times.cloud_s
        assert min(times) > 0  # our server says how long its model worked
        assert parts == pytest.approx(times.total_s, abs=1e-3)


def test_a_failing_callback_affects_no_answer(bundle, pictures, caplog):
    with Cascade.open(bundle, threshold=NOTHING, on_answer=lambda _: 1 / 0) as cascade:
        assert cascade(pictures[0]).source is Source.EDGE
    assert "ZeroDivisionError" in caplog.text


def test_request_ids_differ_and_can_be_set(bundle, pictures):
    with Cascade.open(bundle, threshold=NOTHING) as cascade:
        ids = {cascade(picture).request_id for picture in pictures}
        given = cascade.batch(pictures[:1], request_id="mine")[0].request_id
    assert len(ids) == len(pictures)
    assert given == "mine"


@pytest.mark.parametrize("mode", ["edge_only", "cloud_only"])
def test_a_mode_decides_which_model_answers(mode, bundle, address, pictures, large_checkpoint):
    with Cascade.open(bundle, cloud=address, deadline_s=20, policy=Policy(mode=mode)) as cascade:
        answers = cascade.batch(pictures)
        small = cascade.edge(pictures)
        request_bytes = cascade.request_bytes
    assert [a.deferred for a in answers] == small.defer.tolist()
    if mode == "edge_only":
        assert set(sources(answers)) == {Source.EDGE}
        assert request_bytes == 0
    else:
        from train.models import open_checkpoint

        large = open_checkpoint(large_checkpoint).predict(pictures).argmax(-1)
        assert set(sources(answers)) == {Source.CLOUD}
        assert [a.prediction for a in answers] == large.tolist()


def test_a_failed_cloud_raises_under_that_policy(bundle, dead, pictures):
    policy = Policy(on_cloud_failure="raise")
    with Cascade.open(bundle, cloud=dead, threshold=EVERYTHING, policy=policy) as cascade:
        with pytest.raises(CloudUnavailableError, match=dead):
            cascade(pictures[0])
        assert cascade.stats.snapshot().errors == {"CloudUnavailableError": 1}
        assert cascade.stats.snapshot().answers == 0


def test_over_the_budget_the_small_model_answers(bundle, address, pictures):
    policy = Policy(budget=DeferralBudget(max_calls=2, window_s=3600))
    with Cascade.open(
        bundle, cloud=address, threshold=EVERYTHING, deadline_s=20, policy=policy
    ) as cascade:
        answers = [cascade(picture) for picture in pictures[:4]]
    assert sources(answers) == [Source.CLOUD] * 2 + [Source.EDGE_BUDGET] * 2
    assert answers[2].error == "the deferral budget is used up"
    assert answers[2].deferred


def test_a_budget_of_bytes_is_never_passed(bundle, address, pictures):
    budget = DeferralBudget(max_bytes=3_000, window_s=3600)
    with Cascade.open(
        bundle, cloud=address, threshold=EVERYTHING, deadline_s=20, policy=Policy(budget=budget)
    ) as cascade:
        answers = [cascade(picture) for picture in pictures]
        assert 0 < cascade.request_bytes <= 3_000
    assert set(sources(answers)) == {Source.CLOUD, Source.EDGE_BUDGET}


def test_calls_that_an_open_breaker_blocks_are_not_charged(bundle, dead, pictures):
    budget = DeferralBudget(max_calls=5, window_s=3600)
    with Cascade.open(
        bundle,
        cloud=dead,
        threshold=EVERYTHING,
        policy=Policy(budget=budget),
        breaker=BreakerSettings(failures=1, probe_interval_s=60),
    ) as cascade:
        answers = [cascade(picture) for picture in pictures]
    assert set(sources(answers)) == {Source.EDGE_FALLBACK}
    assert budget.remaining().calls == 4
    assert "circuit breaker is open" in answers[-1].error


def test_after_the_soft_deadline_the_small_model_answers(bundle, pictures):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        policy = Policy(soft_deadline_s=0.1)
        with Cascade.open(
            bundle, cloud=address, threshold=EVERYTHING, deadline_s=3, policy=policy
        ) as cascade:
            begin = time.monotonic()
            answer = cascade(pictures[0])
            assert time.monotonic() - begin < 1.5
    assert answer.source is Source.EDGE_FALLBACK
    assert "soft deadline of 0.1 s" in answer.error


def test_an_answer_right_at_the_soft_deadline_does_not_raise(
    bundle, address, pictures, monkeypatch
):
    class Late(Future):
        def result(self, timeout=None):
            # The wait ends, and the answer comes before anybody looks again.
            wait([self])
            raise FutureTimeoutError

    monkeypatch.setattr("concurrent.futures.thread._base.Future", Late)
    policy = Policy(soft_deadline_s=0.1)
    with Cascade.open(
        bundle, cloud=address, threshold=EVERYTHING, deadline_s=20, policy=policy
    ) as cascade:
        answer = cascade(pictures[0])
    assert answer.source is Source.EDGE_FALLBACK
    assert "soft deadline" in answer.error


def test_an_answer_before_the_soft_deadline_is_taken(bundle, address, pictures):
    policy = Policy(soft_deadline_s=20)
    with Cascade.open(
        bundle, cloud=address, threshold=EVERYTHING, deadline_s=20, policy=policy
    ) as cascade:
        assert cascade(pictures[0]).source is Source.CLOUD


def test_a_server_that_is_down_is_skipped(bundle, address, dead, pictures):
    with Cascade.open(
        bundle, cloud=[dead, address], threshold=EVERYTHING, deadline_s=20
    ) as cascade:
        answers = [cascade(picture) for picture in pictures[:8]]
        first, second = cascade.cloud.models
        assert first.breaker.is_open
        assert not second.breaker.is_open
    assert set(sources(answers)) == {Source.CLOUD}


def test_with_all_servers_down_the_answer_has_the_reason(bundle, dead, pictures):
    with Cascade.open(bundle, cloud=[dead, dead], threshold=EVERYTHING, deadline_s=5) as cascade:
        answers = [cascade(picture) for picture in pictures[:8]]
    assert set(sources(answers)) == {Source.EDGE_FALLBACK}
    assert "circuit breaker is open" in answers[-1].error


def test_a_cascade_may_stand_behind_another(bundle, address, pictures, large_checkpoint):
    from train.models import open_checkpoint

    middle = Cascade.open(bundle, cloud=address, deadline_s=20)
    large = open_checkpoint(large_checkpoint).predict(pictures).argmax(-1)
    with Cascade.open(bundle, cloud=middle, threshold=EVERYTHING) as cascade:
        answers = cascade.batch(pictures)
        own = middle.edge(pictures)
    assert set(sources(answers)) == {Source.CLOUD}
    expected = np.where(own.defer, large, own.prediction)
    assert [a.prediction for a in answers] == expected.tolist()
    with pytest.raises(UseError, match="is closed"):
        middle(pictures[0])  # closed with the first


def test_a_middle_model_without_its_cloud_answers_with_the_reason(bundle, dead, pictures):
    middle = Cascade.open(bundle, cloud=dead, threshold=EVERYTHING)
    with Cascade.open(bundle, cloud=middle, threshold=EVERYTHING) as cascade:
        answer = cascade(pictures[0])
    assert answer.source is Source.CLOUD
    assert "CloudUnavailableError" in answer.error


def test_a_changed_deferral_ratio_is_logged_once(bundle, pictures, caplog):
    alarm = DriftAlarm(DriftSettings(expected_ratio=0.3, within_calls=200))
    with (
        caplog.at_level(logging.WARNING, "edge_runtime"),
        Cascade.open(bundle, threshold=EVERYTHING, policy=Policy(drift=alarm)) as cascade,
    ):
        for _ in range(40):
            cascade.batch(pictures)
    assert alarm.report is not None
    assert caplog.text.count(alarm.report.text) == 1


def test_submitted_calls_are_answered_in_the_background(bundle, address, pictures):
    with Cascade.open(bundle, cloud=address, deadline_s=20, concurrency=3) as cascade:
        futures = [cascade.submit(picture) for picture in pictures]
        answers = [future.result(timeout=60) for future in futures]
        expected = cascade.batch(pictures)
    assert [a.prediction for a in answers] == [a.prediction for a in expected]
    assert sources(answers) == sources(expected)


def test_submit_blocks_while_too_many_calls_wait(bundle, pictures):
    entered, release = threading.Semaphore(0), threading.Event()

    def hold(_):
        entered.release()
        release.wait(30)

    with Cascade.open(bundle, threshold=NOTHING, on_answer=hold, concurrency=1) as cascade:
        futures = [cascade.submit(pictures[0]) for _ in range(2)]
        third = threading.Thread(target=lambda: futures.append(cascade.submit(pictures[0])))
        third.start()
        entered.acquire(timeout=30)
        third.join(0.2)
        assert third.is_alive()
        release.set()
        third.join(30)
        assert [f.result(timeout=30).source for f in futures] == [Source.EDGE] * 3


def test_closing_waits_for_submitted_calls(bundle, pictures):
    cascade = Cascade.open(bundle, threshold=NOTHING)
    futures = [cascade.submit(picture) for picture in pictures[:8]]
    cascade.close()
    assert [f.result(timeout=0).source for f in futures] == [Source.EDGE] * 8
    for use in (cascade, cascade.submit):
        with pytest.raises(UseError, match="is closed"):
            use(pictures[0])
    cascade.close()


def test_a_picture_file_is_forwarded_unchanged(bundle, address, pictures, tmp_path):
    from PIL import Image, PngImagePlugin

    # What a file holds beside its pixels shows which of the two was sent.
    note = PngImagePlugin.PngInfo()
    note.add_text("note", "x" * 5_000)
    files = []
    for place, picture in enumerate(pictures[:3]):
        files.append(tmp_path / f"{place}.png")
        Image.fromarray(picture).save(files[-1], pnginfo=note)
    with Cascade.open(bundle, cloud=address, threshold=EVERYTHING, deadline_s=20) as cascade:
        answers = cascade.batch(files)
        sizes = sum(file.stat().st_size for file in files)
        assert sizes < cascade.request_bytes < sizes + 400
        assert [a.prediction for a in answers] == [
            a.prediction for a in cascade.batch(pictures[:3])
        ]
        assert cascade(files[0]).prediction == answers[0].prediction


def test_a_child_process_must_open_its_own_cascade(bundle, pictures):
    with Cascade.open(bundle, threshold=NOTHING) as cascade:
        cascade(pictures[0])
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                cascade(pictures[0])
                said = "nothing"
            except UseError as error:
                said = str(error)
            os.write(writing, said.encode())
            os._exit(0)
        os.waitpid(child, 0)
        said = os.read(reading, 1000).decode()
        os.close(reading)
        os.close(writing)
        assert "open one after it" in said
        assert cascade(pictures[0]).source is Source.EDGE


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mode": "sometimes"}, "expected mode as one of cascade, edge_only, cloud_only"),
        ({"on_cloud_failure": "panic"}, "expected on_cloud_failure as one of edge, raise"),
        ({"soft_deadline_s": 0.0}, "soft_deadline_s in seconds over 0"),
        ({"soft_deadline_s": float("nan")}, "soft_deadline_s in seconds over 0"),
        ({"mode": "edge_only", "on_cloud_failure": "raise"}, "mode='edge_only'"),
        ({"mode": "edge_only", "soft_deadline_s": 1.0}, "mode='edge_only'"),
    ],
)
def test_an_invalid_policy_is_refused(settings, says):
    with pytest.raises(SettingError, match=says):
        Policy(**settings)


def test_a_policy_that_needs_a_cloud_is_refused_without(bundle):
    for policy in (Policy(mode="cloud_only"), Policy(on_cloud_failure="raise")):
        with pytest.raises(SettingError, match="expected a cloud"):
            Cascade.open(bundle, policy=policy)
    with pytest.raises(SettingError, match="at least one cloud address"):
        Cascade.open(bundle, cloud=[])


def test_the_command_line_takes_the_same_policies(bundle, dead, pictures, tmp_path, capfd):
    for place in range(2):
        np.save(tmp_path / f"{place}.npy", pictures[place])
    words = ["run", "--bundle", bundle, "--cloud", dead, "--threshold", "2", tmp_path]
    line = [str(word) for word in words]
    assert main("edge", COMMANDS, argv=[*line, "--on-cloud-failure", "raise"]) == 1
    out, error = capfd.readouterr()
    assert error.count("\n") == 1
    assert "2 of 2 inputs got no answer" in error
    assert out.count("127.0.0.1:9: UNAVAILABLE") == 2
    assert main("edge", COMMANDS, argv=[*line, "--budget-calls", "0"]) == 0
    assert capfd.readouterr().out.endswith("edge_budget 2\n")
    says = "expected the calibrated threshold"
    refused_here("edge_runtime", COMMANDS, [*words, "--drift"], capfd, says=says)


def test_the_command_line_watches_for_drift(bundle, pictures, tmp_path, caplog):
    # Two in three of these are deferred, where calibration expects 30 %.
    with Cascade.open(bundle) as cascade:
        gated = cascade.edge(pictures)
    deferred, sure = pictures[gated.defer], pictures[~gated.defer]
    for place in range(600):
        few = sure if place % 3 == 0 else deferred
        np.save(tmp_path / f"{place:03}.npy", few[place % len(few)])
    RunSettings(bundle=bundle, drift=True, inputs=(tmp_path,)).run()
    assert caplog.text.count("calibrated for 0.29") == 1
