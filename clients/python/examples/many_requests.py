"""Many requests at once: they share one session, so each costs a fraction of a call.

python many_requests.py NUMBER [host:port]
"""

import argparse
import asyncio
import time

from tokenstream_client import AsyncClient, ClientOptions


async def ask(client: AsyncClient, number: int) -> int:
    """Read one answer to its end; return its number of tokens."""
    async with client.generate(f"Tell me about {number}.", max_tokens=50) as answer:
        async for _ in answer.text():
            pass
    return answer.next_token_index


async def main(number: int, target: str) -> None:
    """Ask all at once, and print the rate."""
    # A larger window for readers that are quick; what waits here is at most this, for each.
    async with AsyncClient(target, options=ClientOptions(window_tokens=512)) as client:
        began = time.monotonic()
        tokens = sum(await asyncio.gather(*(ask(client, n) for n in range(number))))
        seconds = time.monotonic() - began
        print(f"{number} answers, {tokens} tokens, {tokens / seconds:.0f} tokens a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("number", type=int)
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="host:port")
    asyncio.run(main(**vars(parser.parse_args())))
