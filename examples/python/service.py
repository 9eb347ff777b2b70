"""An asyncio service: one JSON line in, one JSON line out, many at once, without blocking the loop.

    python examples/python/service.py BUNDLE HOST:PORT

It prints the loopback port it listens on. A request is `{"picture": [[[r, g, b], ...], ...]}`.
"""

import asyncio
import json
import signal
import sys

import numpy as np

from edge_runtime import AsyncCascade, InputError, Policy


async def serve(bundle: str, cloud: str) -> None:
    """Answer connections until the process receives SIGTERM."""
    # After a quarter of a second M_S's answer is worth more to a user than a later one of M_L.
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
    """Return the reply, or an error message for a bad request."""
    try:
        picture = np.array(json.loads(line)["picture"], np.uint8)
        result = await cascade(picture)
    except (InputError, ValueError, KeyError, TypeError) as error:
        return {"error": str(error)}
    return {"label": result.label, "source": result.source, "request_id": result.request_id}


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
