"""Edge, middle and large tier, each a process of its own: an unsure tier asks the next."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from tools.callers import Caller, labels_of, picture, pictures_request, wait_until
from tools.secured import Authority

from edge_runtime import Cascade
from edge_runtime.answer import Source

pytestmark = [pytest.mark.slow, pytest.mark.once]

CLEAR, UNSURE = 255, 140
"""Grey levels that the bundle calls bright. The first one's confidence is above the threshold,
e^3 / (e^3 + e^1.5 + 1) = 0.79; the second one's below: e^1.65 / (e^1.35 + e^1.5 + e^1.65) = 0.38"""
OWN, ONWARD = "bright", "dark"


def image(level):
    return np.full((4, 4, 3), level, np.uint8)


def answered(address):
    with Caller(address) as caller:
        return caller.statistics().inference_stats.success.count


@pytest.fixture
def launch_middle(bundle, launch):
    def start(cloud, *words):
        return launch("--bundle", str(bundle), "--cloud", cloud, "--port", "0", *words)

    return start


@pytest.fixture(scope="module")
def shared_large(certain_bundle, start):
    """One large tier for the tests that do not stop it."""
    running = start("--bundle", str(certain_bundle), "--port", "0")
    yield running
    assert running.stop() == 0


@pytest.fixture
def large(certain_bundle, launch):
    return launch("--bundle", str(certain_bundle), "--port", "0")


def test_only_inputs_that_a_tier_is_unsure_of_reach_the_next(bundle, shared_large, launch_middle):
    large, before = shared_large, answered(shared_large.address)
    middle = launch_middle(large.address, "--cloud-deadline-s", "20")
    assert middle.ready_line.startswith("cloud_stub: serving large (3 labels) on ")
    with Cascade.open(bundle, cloud=middle.address, deadline_s=30) as cascade:
        answers = cascade.batch([image(level) for level in (CLEAR, UNSURE, CLEAR)])
        assert [answer.label for answer in answers] == [OWN, ONWARD, OWN]
        assert [answer.source for answer in answers] == [Source.EDGE, Source.CLOUD, Source.EDGE]
    assert (answered(middle.address), answered(large.address) - before) == (1, 1)
    # A caller without a gate sends everything; the middle tier answers what it is sure of.
    with Caller(middle.address) as caller:
        assert labels_of(caller.future(pictures_request(CLEAR, 0))) == [b"bright", b"dark"]
        assert labels_of(caller.future(pictures_request(CLEAR, UNSURE))) == [b"bright", b"dark"]
    assert (answered(middle.address), answered(large.address) - before) == (3, 2)
    assert middle.stop() == 0


def test_the_further_link_uses_tls_with_a_token(certain_bundle, launch, launch_middle, tmp_path):
    pytest.importorskip("trustme")
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("server", "localhost", "127.0.0.1")
    token = tmp_path / "token"
    token.write_text("a-token-of-24-characters")
    token.chmod(0o600)
    large = launch(
        "--bundle", str(certain_bundle), "--port", "0", "--token-file", str(token),
        "--certificate", str(pair["certificate"]), "--key", str(pair["key"]),
    )  # fmt: skip
    link = ("--cloud-tls", "--cloud-ca", str(authority.ca))
    middle = launch_middle(
        large.address, "--cloud-deadline-s", "20", *link, "--cloud-token-file", str(token)
    )
    with Caller(middle.address) as caller:
        assert labels_of(caller.future(pictures_request(CLEAR, UNSURE))) == [b"bright", b"dark"]


def test_files_of_several_sizes_keep_their_order_through_the_tiers(shared_large, launch_middle):
    middle = launch_middle(shared_large.address, "--cloud-deadline-s", "20")
    files = [picture(level, side) for level, side in [(UNSURE, 3), (CLEAR, 5), (UNSURE, 5)]]
    with Caller(middle.address) as caller:
        labels = labels_of(caller.future(pictures_request(pictures=files)))
    assert labels == [b"dark", b"bright", b"dark"]


def test_without_the_further_cloud_the_middle_tier_s_own_answer_stands(
    bundle, large, launch_middle
):
    middle = launch_middle(large.address, "--cloud-deadline-s", "20")
    large.process.kill()
    large.process.wait()
    with Cascade.open(bundle, cloud=middle.address, deadline_s=30) as cascade:
        answer = cascade(image(UNSURE))
    assert (answer.label, answer.source) == (OWN, Source.CLOUD)
    assert middle.stop() == 0


def test_if_the_further_cloud_hangs_the_middle_tier_s_own_answer_stands(large, launch_middle):
    middle = launch_middle(large.address, "--cloud-deadline-s", "0.3")
    large.process.send_signal(signal.SIGSTOP)
    with Caller(middle.address) as caller:
        assert labels_of(caller.future(pictures_request(UNSURE))) == [b"bright"]
    large.process.send_signal(signal.SIGCONT)
    assert middle.stop() == 0


def test_a_middle_tier_starts_and_answers_before_the_further_cloud(launch_middle):
    middle = launch_middle("127.0.0.1:1")
    with Caller(middle.address) as caller:
        assert labels_of(caller.future(pictures_request(UNSURE, CLEAR))) == [b"bright", b"bright"]


def test_a_deadline_shrinks_from_tier_to_tier(large, launch_middle):
    """The further wait ends before the caller's, with enough time left for an answer."""
    middle = launch_middle(large.address, "--cloud-deadline-s", "600")

    def is_answered_in_time():
        # On a busy machine the way back may take too long.
        call = caller.future(pictures_request(UNSURE), timeout=0.4)
        return call.exception() is None and labels_of(call) == [OWN.encode()]

    with Caller(middle.address) as caller:
        # The connection is open, and a patient caller waits for the large model.
        assert labels_of(caller.future(pictures_request(UNSURE))) == [ONWARD.encode()]
        large.process.send_signal(signal.SIGSTOP)
        wait_until(is_answered_in_time)
        large.process.send_signal(signal.SIGCONT)
