"""Holds idle connections to a server until its standard input closes.

Each is a gRPC channel that has asked once whether the server lives. Run as
`python -m benchmarks.serving.holder ADDRESS CONNECTIONS`; prints `ready` when all of them stand.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import grpc

from edge_runtime.wire import messages as pb

_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)
_AT_ONCE: Final = 50
_DEADLINE_S: Final = 60.0


async def hold(address: str, connections: int) -> None:
    """Open so many connections, and keep them."""
    opening = asyncio.Semaphore(_AT_ONCE)

    async def one() -> grpc.aio.Channel:
        async with opening:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            call = channel.unary_unary(pb.METHODS["ServerLive"], None, None)
            await call(b"", timeout=_DEADLINE_S)
            return channel

    channels = await asyncio.gather(*(one() for _ in range(connections)))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(channel.close(None) for channel in channels))


if __name__ == "__main__":
    try:
        asyncio.run(hold(sys.argv[1], int(sys.argv[2])))
    except grpc.aio.AioRpcError as error:  # its own text takes several lines
        sys.exit(f"{error.code().name}: {error.details()}")
