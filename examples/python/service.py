"""A service on asyncio: one JSON line in is one line out, many at a time, the loop never waits.

    python examples/python/service.py BUNDLE HOST:PORT

It prints the loopback port that it listens on. A request is `{"picture": [[[r, g, b], ...], ...]}`.
"""

import asyncio
import json
import signal
import sys

import numpy as np

from edge_runtime import AsyncCascade, InputError, Policy


async def serve(bundle: str, cloud: str) -> None:
    """Answer connections until the process is told to stop."""
    # After a quarter of a second a user would rather have M_S's answer than wait for M_L's.
    policy = Policy(soft_deadline_s=0.25)
    async with AsyncCascade.open(bundle, cloud=cloud, deadline_s=2.0, policy=policy) as cascade:

        async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(json.dumps(await answer(cascade, line)).encode() + b"\n")
                await writer.drain()
            writer.close()

        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        server = await asyncio.start_server(answer_all, "127.0.0.1", 0, limit=2**24)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await stopping.wait()
        print(cascade.cascade.stats.snapshot().as_json(), flush=True)


async def answer(cascade: AsyncCascade, line: bytes) -> dict[str, object]:
    """Return a reply, or what is wrong with the request."""
    try:
        picture = np.array(json.loads(line)["picture"], np.uint8)
        given = await cascade(picture)
    except (InputError, ValueError, KeyError, TypeError) as error:
        return {"error": str(error)}
    return {"label": given.label, "source": given.source, "request_id": given.request_id}


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
