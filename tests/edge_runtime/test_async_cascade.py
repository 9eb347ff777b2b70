"""The cascade on an event loop, which never waits for a model or a server."""

import asyncio
import socket
import time

import pytest

from edge_runtime import AsyncCascade, Cascade, SettingError, Source, UseError

pytestmark = pytest.mark.slow
EVERYTHING = 2.0


@pytest.fixture
def silent():
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_many_tasks_get_the_answers_of_their_inputs(bundle, pictures, address):
    async def ask():
        async with AsyncCascade.open(bundle, cloud=address, deadline_s=20) as cascade:
            single = await asyncio.gather(*map(cascade, pictures))
            return single, await cascade.batch(pictures)

    single, batch = asyncio.run(ask())
    with Cascade.open(bundle, cloud=address, deadline_s=20) as cascade:
        expected = cascade.batch(pictures)
    for answers in (single, batch):
        assert [a.prediction for a in answers] == [a.prediction for a in expected]
        assert [a.source for a in answers] == [a.source for a in expected]
    assert {a.source for a in single} == {Source.EDGE, Source.CLOUD}


def test_the_loop_continues_while_a_call_waits_for_a_server(bundle, pictures, silent):
    async def ask():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        async with AsyncCascade.open(
            bundle, cloud=silent, threshold=EVERYTHING, deadline_s=0.5, probe_s=None
        ) as cascade:
            ticking = asyncio.create_task(tick())
            answer = await cascade(pictures[0])
            ticking.cancel()
        return answer, ticks

    answer, ticks = asyncio.run(ask())
    assert answer.source is Source.EDGE_FALLBACK
    assert ticks > 20


def test_no_more_calls_than_the_concurrency_run_at_once(bundle, pictures):
    running, most = 0, 0

    def hold(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1

    async def ask():
        async with AsyncCascade.open(
            bundle, threshold=float("-inf"), on_answer=hold, concurrency=2
        ) as cascade:
            await asyncio.gather(*map(cascade, pictures[:8]))

    asyncio.run(ask())
    assert most == 2


def test_a_task_cancelled_before_its_turn_is_never_run(bundle, pictures, silent):
    seen = []

    async def ask():
        async with AsyncCascade.open(
            bundle,
            cloud=silent,
            threshold=EVERYTHING,
            deadline_s=0.5,
            probe_s=None,
            on_answer=seen.append,
            concurrency=1,
        ) as cascade:
            first = asyncio.create_task(cascade(pictures[0]))
            second = asyncio.create_task(cascade(pictures[1]))
            await asyncio.sleep(0.1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            return await first

    answer = asyncio.run(ask())
    assert seen == [answer]


def test_a_closed_cascade_raises(bundle, pictures):
    async def ask():
        cascade = AsyncCascade.open(bundle)
        await cascade.close()
        await cascade(pictures[0])

    with pytest.raises(UseError, match="is closed"):
        asyncio.run(ask())


def test_a_concurrency_below_1_is_refused(bundle):
    with Cascade.open(bundle) as cascade, pytest.raises(SettingError, match="at least 1"):
        AsyncCascade(cascade, concurrency=0)
