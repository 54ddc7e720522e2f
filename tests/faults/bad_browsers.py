"""Browsers that hardly read, or that vanish: `python -m tests.faults.bad_browsers KIND PORT COUNT`.

It says when each of them has an answer. With a line all go at once, and it says when they have.
"""

import asyncio
import sys

import uvloop

from tests.faults.shown import answer_lines, keep_output
from tests.gateway_sse.browsers import ask, slow_connection

LONG = "prompt=ab&ignore_eos=true&max_tokens=100000&max_delay_ms=0&max_tokens_per_message=1"
TOKEN = b'{"token"'


async def slow(port: int, here: asyncio.Semaphore) -> None:
    """Read a third of what comes."""
    with await slow_connection(port) as connection:
        await ask(connection, LONG)
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(connection, 100):
            here.release()
            await asyncio.sleep(0.1)


async def vanishing(port: int, here: asyncio.Semaphore) -> None:
    """Read as it comes, until it is cancelled; then the connection is gone at once."""
    connection = await slow_connection(port, 65536)
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        await ask(connection, LONG)
        while await reader.readuntil(TOKEN):
            here.release()
    finally:
        writer.transport.abort()


async def main(kind: str, port: int, count: int) -> None:
    """See the top of the file."""
    out = keep_output()
    heres = [asyncio.Semaphore(0) for _ in range(count)]
    browse = slow if kind == "slow" else vanishing
    browsers = [asyncio.create_task(browse(port, here)) for here in heres]
    for here in heres:
        await here.acquire()

    async def leave() -> int:
        for browser in browsers:
            browser.cancel()
        await asyncio.gather(*browsers, return_exceptions=True)
        return count

    await answer_lines(out, count, leave)
    await leave()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
