"""The queue, compared with lists that follow its rules one by one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud_stub.scheduling.queue import FairQueue, Job

pytestmark = pytest.mark.once

LIMIT = 6
CLIENTS = st.sampled_from("abcd")
KEYS = st.sampled_from(["x", "y", None])
ROWS = st.integers(1, 5)


def new_job(client, *, key="x", rows=1):
    async def made():
        return Job({}, rows, key=key, client=client)

    return asyncio.run(made())


def queue_of(*clients, limit=100):
    queue = FairQueue(limit)
    for client in clients:
        assert queue.put(new_job(client)) is None
    return queue


def clients_of(jobs):
    return "".join(job.client for job in jobs)


def test_clients_take_turns():
    assert clients_of(queue_of(*"aaaaabbc").take(8)) == "abcabaaa"


def test_a_turn_is_kept_from_batch_to_batch():
    queue = queue_of(*"aaabbb")
    assert [clients_of(queue.take(1)) for _ in range(6)] == list("ababab")


def test_one_client_alone_may_fill_the_queue_and_no_more():
    queue = queue_of(*"aaa", limit=3)
    newest = new_job("a")
    assert queue.put(newest) is newest
    assert len(queue) == 3


def test_in_a_full_queue_a_flooding_client_makes_room_for_others():
    queue = queue_of(*"aaaaa", limit=5)
    assert clients_of([queue.put(new_job("b")), queue.put(new_job("c"))]) == "aa"
    assert clients_of(queue.take(9)) == "abcaa"


def test_a_waiting_call_is_not_given_up_for_a_client_that_has_nearly_as_many():
    queue = queue_of(*"aaabb", limit=5)
    newest = new_job("c")
    assert queue.put(newest) is newest


def test_a_full_queue_of_equals_refuses_the_newcomer():
    queue = queue_of(*"abc", limit=3)
    for client in "ad":
        job = new_job(client)
        assert queue.put(job) is job


def test_a_job_that_fits_no_batch_is_taken_alone():
    queue = FairQueue(9)
    for rows in (2, 50, 2):
        queue.put(new_job("a", rows=rows))
    assert [[job.rows for job in queue.take(4)] for _ in range(3)] == [[2], [50], [2]]


def test_jobs_without_a_key_are_never_put_together():
    queue = FairQueue(9)
    for client in "ab":
        queue.put(new_job(client, key=None))
    assert [len(queue.take(9)) for _ in range(3)] == [1, 1, 0]


class QueueOfLists(RuleBasedStateMachine):
    """All waiting jobs in order of arrival, and the clients in order of their turns."""

    def __init__(self):
        super().__init__()
        self.queue = FairQueue(LIMIT)
        self.waiting = []
        self.turns = []

    def of(self, client):
        return [job for job in self.waiting if job.client == client]

    def left(self, job):
        self.waiting.remove(job)
        if not self.of(job.client):
            self.turns.remove(job.client)

    @rule(client=CLIENTS, key=KEYS, rows=ROWS)
    def put(self, client, key, rows):
        job = new_job(client, key=key, rows=rows)
        counts = {other: len(self.of(other)) for other in self.turns}
        was_full = len(self.waiting) == LIMIT
        dropped = self.queue.put(job)
        assert (dropped is not None) == was_full
        if dropped is job:  # no client has far more waiting calls than this one will have
            others = [count for other, count in counts.items() if other != client]
            assert max(others, default=0) <= 3 * (counts.get(client, 0) + 1)
            return
        if dropped is not None:
            assert counts[dropped.client] == max(counts.values())
            assert counts[dropped.client] > 3 * (counts.get(client, 0) + 1)
            assert dropped is self.of(dropped.client)[-1]
            self.left(dropped)
        self.waiting.append(job)
        if client not in self.turns:
            self.turns.append(client)

    @rule(most=st.integers(1, 8))
    def take(self, most):
        jobs = self.queue.take(most)
        assert bool(jobs) == bool(self.waiting)
        room = most
        for n, job in enumerate(jobs):
            assert job is self.next(jobs[0] if n else None, room)
            self.taken(job)
            room -= job.rows
        if jobs:
            assert jobs[0].key is None or self.next(jobs[0], room) is None

    def next(self, first, room):
        """Return the next job by turn among those that fit the first job of a batch."""
        if first is not None and (first.key is None or room <= 0):
            return None
        heads = [self.of(client)[0] for client in self.turns]
        if first is not None:
            heads = [job for job in heads if job.key == first.key and job.rows <= room]
        return heads[0] if heads else None

    def taken(self, job):
        self.turns.remove(job.client)
        self.turns.append(job.client)
        self.left(job)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def discard(self, data):
        job = data.draw(st.sampled_from(self.waiting))
        assert self.queue.discard(job)
        self.left(job)
        assert not self.queue.discard(job)

    @invariant()
    def counts_hold(self):
        assert len(self.queue) == len(self.waiting) <= LIMIT
        assert self.queue.rows == sum(job.rows for job in self.waiting)
        oldest = min((job.arrived for job in self.waiting), default=None)
        assert self.queue.oldest == oldest


TestQueueOfLists = QueueOfLists.TestCase
TestQueueOfLists.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
