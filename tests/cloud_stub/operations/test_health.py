"""The health service, for single checks and for watchers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud_stub.asynchronous import timeout
from cloud_stub.operations import health as health_module
from cloud_stub.operations.health import Health
from edge_runtime.wire import messages as pb

pytestmark = pytest.mark.once

SERVING, NOT_SERVING = 1, 2
UNKNOWN = 3
EVERYTHING = ("", pb.SERVICE, "large", "larger")


@dataclass
class Model:
    name: str
    is_usable: bool = True


@contextlib.asynccontextmanager
async def serving():
    models = Model("large"), Model("larger")
    health = Health(models)
    server = grpc.aio.server()
    health.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health, health_pb2_grpc.HealthStub(channel), server, models[0]
    await server.stop(None)


async def check(stub, service):
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status


class Watcher:
    """Keeps the statuses of one service."""

    def __init__(self, stub, service):
        self.statuses = []
        self._news = asyncio.Event()
        self.call = stub.Watch(health_pb2.HealthCheckRequest(service=service))
        self.task = asyncio.create_task(self._watch())

    async def _watch(self):
        async for answer in self.call:
            self.statuses.append(answer.status)
            self._news.set()

    async def until(self, count):
        async with timeout(10):
            while len(self.statuses) < count:
                self._news.clear()
                await self._news.wait()
        return self.statuses


def test_everything_serves_until_it_drains():
    async def scenario():
        async with serving() as (health, stub, _, _):
            for service in EVERYTHING:
                assert await check(stub, service) == SERVING
            health.drain()
            for service in EVERYTHING:
                assert await check(stub, service) == NOT_SERVING

    asyncio.run(scenario())


def test_an_unusable_model_affects_the_server_but_no_other_model():
    async def scenario():
        async with serving() as (_, stub, _, large):
            large.is_usable = False
            statuses = [await check(stub, service) for service in EVERYTHING]
            assert statuses == [NOT_SERVING, NOT_SERVING, NOT_SERVING, SERVING]
            large.is_usable = True
            assert [await check(stub, service) for service in EVERYTHING] == [SERVING] * 4

    asyncio.run(scenario())


def test_an_unknown_name_is_not_found():
    async def scenario():
        async with serving() as (_, stub, _, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(stub, "small")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(scenario())


def test_watchers_get_every_change_although_another_one_leaves(monkeypatch, caplog):
    monkeypatch.setattr(health_module, "_CHECK_EVERY_S", 0.01)

    async def scenario():
        async with serving() as (health, stub, _, large):
            monitor = asyncio.create_task(health.monitor())
            leaving, staying = Watcher(stub, "large"), Watcher(stub, "large")
            other, unknown = Watcher(stub, "larger"), Watcher(stub, "small")
            for watcher in (leaving, staying, other):
                assert await watcher.until(1) == [SERVING]
            assert await unknown.until(1) == [UNKNOWN]
            leaving.call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving.task
            large.is_usable = False
            assert await staying.until(2) == [SERVING, NOT_SERVING]
            large.is_usable = True
            assert await staying.until(3) == [SERVING, NOT_SERVING, SERVING]
            assert other.statuses == [SERVING]
            monitor.cancel()

    asyncio.run(scenario())
    assert "model is stuck" in caplog.text


def test_watchers_do_not_delay_a_server_that_drains():
    async def scenario():
        async with serving() as (health, stub, server, _):
            watchers = [Watcher(stub, service) for service in ("", "large")]
            for watcher in watchers:
                await watcher.until(1)
            health.drain()
            begin = time.monotonic()
            await server.stop(30)
            assert time.monotonic() - begin < 15
            for watcher in watchers:
                await watcher.task
                assert watcher.statuses == [SERVING, NOT_SERVING]

    asyncio.run(scenario())
