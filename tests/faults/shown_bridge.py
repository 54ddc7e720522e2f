"""The bridge: `python -m tests.faults.shown_bridge UPSTREAM`.

It says its port, and for each line what its answers hold.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvloop

from gateway_sse import logs
from gateway_sse.config import GatewaySettings
from gateway_sse.server import bind, serve_on, spare_long_lived_objects
from gateway_sse.streaming.open_streams import OpenStreams
from gateway_sse.streaming.relay import Relay
from tests.faults.shown import answer_lines, keep_output


async def main(upstream: str) -> None:
    """Serve until the input ends."""
    out = keep_output()
    settings = GatewaySettings(upstream=upstream, listen="127.0.0.1:0", drain_grace_s=0)
    logs.configure("json", "info")
    spare_long_lived_objects()
    streams, stop = OpenStreams(), asyncio.Event()
    listener = bind(settings)
    serving = asyncio.create_task(serve_on(listener, settings, streams, stop))

    async def look() -> dict[str, Any]:
        return {
            "open": len(streams),
            "lingering": streams.lingering,
            "waiting": [
                relay._outlet._transport.get_write_buffer_size()
                for relay in streams._open
                if isinstance(relay, Relay) and relay._outlet is not None
            ],
            "files": len(tuple(Path("/proc/self/fd").iterdir())),
        }

    await answer_lines(out, listener.getsockname()[1], look)
    stop.set()
    await serving


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
