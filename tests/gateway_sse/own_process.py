"""A bridge in a process of its own, for what a signal does to it."""

import asyncio
import os
import sys
from dataclasses import dataclass

_PROGRAM = """
import sys
from gateway_sse.config import GatewaySettings
from gateway_sse.server import main
sys.exit(main(GatewaySettings()))
"""


@dataclass
class OwnProcess:
    """The process, and where it listens."""

    process: asyncio.subprocess.Process
    url: str
    log: asyncio.StreamReader
    """What it says from then on."""

    async def logged(self, words: bytes) -> bytes:
        """Wait for a line with these words; return it."""
        return await _line_with(self.log, words)


async def start_bridge(upstream: str) -> OwnProcess:
    """Start one before a service; wait until it listens. Whoever starts it ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        env={
            **os.environ,
            "TOKENSTREAM_GATEWAY_UPSTREAM": upstream,
            "TOKENSTREAM_GATEWAY_LISTEN": "127.0.0.1:0",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    line = await _line_with(process.stderr, b"listening on http://")
    url = line.split(b"listening on ")[1].split(b",")[0].decode()
    return OwnProcess(process, url, process.stderr)


async def _line_with(log: asyncio.StreamReader, words: bytes) -> bytes:
    async with asyncio.timeout(20):
        while words not in (line := await log.readline()):
            assert line, "it ended too early"
    return line
