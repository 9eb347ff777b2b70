"""Refused calls leave nothing behind."""

import asyncio
import gc
import tracemalloc

import grpc
from tools.speller import Speller, serving

MIB = 1 << 20


def test_a_refused_message_is_freed_at_once():
    # No model has that name. The message is below the limit of 4 MiB that this server has.
    data = b"\x0a\x06nobody\x3a\x80\x80\x80\x01" + bytes(2 * MIB)

    async def scenario(served):
        assert await served.infer(data).code() == grpc.StatusCode.NOT_FOUND
        gc.collect()
        gc.disable()  # its next full collection may be far away
        tracemalloc.start()
        try:
            for _ in range(10):
                assert await served.infer(data).code() == grpc.StatusCode.NOT_FOUND
            await asyncio.sleep(0)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
        assert held < 6 * MIB

    serving(scenario, Speller())
