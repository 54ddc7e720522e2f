"""One answer, printed as it comes, with asyncio.

python stream_async.py "What is gRPC?" [host:port]
"""

import argparse
import asyncio
import sys

from tokenstream_client import AsyncClient, Busy, Unavailable


async def main(prompt: str, target: str) -> None:
    """Print the answer, then how it ended."""
    async with AsyncClient(target) as client:
        try:
            # The `async with` ends the decoding on the service, however it is left.
            async with client.generate(prompt, max_tokens=200, timeout=60) as answer:
                async for text in answer.text():
                    print(text, end="", flush=True)
        except Busy as busy:
            sys.exit(f"all places are taken; come back in {busy.retry_after} seconds")
        except Unavailable as unavailable:
            sys.exit(f"no service: {unavailable}")
        if answer.finished is not None:
            print(f"\n({answer.finished.reason}, {answer.finished.usage.completion_tokens} tokens)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="host:port")
    asyncio.run(main(**vars(parser.parse_args())))
