"""One answer, printed as it comes, without asyncio.

python stream_sync.py "What is gRPC?" [host:port]
"""

import argparse

from tokenstream_client import Client, Delta, Finished, Started


def main(prompt: str, target: str) -> None:
    """Print every event of the answer."""
    with Client(target) as client:
        for event in client.generate(prompt, max_tokens=200, timeout=60):
            match event:
                case Started():
                    print(f"[{event.model} answers {event.prompt_tokens} tokens]")
                case Delta():
                    print(event.text, end="", flush=True)
                case Finished():
                    print(f"\n[{event.reason}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="host:port")
    main(**vars(parser.parse_args()))
