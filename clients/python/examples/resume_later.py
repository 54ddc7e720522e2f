"""An answer that is begun by one process and read on by another.

python resume_later.py begin  FILE "What is gRPC?" [host:port]
python resume_later.py resume FILE [host:port]

A connection that is lost while a program runs needs none of this: the library resumes by itself.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tokenstream_client import Client, Delta, NotFound, Stream, Unavailable


def begin(file: Path, prompt: str, target: str) -> None:
    """Begin an answer that outlives this process by two minutes, and read a little of it."""
    with (
        Client(target) as client,
        client.generate(prompt, on_disconnect="detach", time_to_live=120) as answer,
    ):
        for event in answer:
            _show(event)
            _remember(file, answer)
            if answer.next_token_index >= 3:
                break  # leaving it detaches it


def resume(file: Path, target: str) -> None:
    """Read the rest."""
    place = json.loads(file.read_text())
    with Client(target) as client:
        answer = client.resume(place["stream_id"], next_token_index=place["next_token_index"])
        try:
            for event in answer:
                _show(event)
                _remember(file, answer)
        except (NotFound, Unavailable) as error:
            sys.exit(f"the answer is gone: {error}")
    print()


def _show(event: object) -> None:
    if isinstance(event, Delta):
        print(event.text, end="", flush=True)


def _remember(file: Path, answer: Stream) -> None:
    if answer.started is not None:
        place = {
            "stream_id": answer.started.stream_id,
            "next_token_index": answer.next_token_index,
        }
        file.write_text(json.dumps(place))


def _arguments() -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    actions = parser.add_subparsers(required=True, metavar="begin|resume")
    for action in (begin, resume):
        arguments = actions.add_parser(action.__name__)
        arguments.set_defaults(action=action)
        arguments.add_argument("file", type=Path)
        if action is begin:
            arguments.add_argument("prompt")
        arguments.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="host:port")
    return vars(parser.parse_args())


if __name__ == "__main__":
    arguments = _arguments()
    arguments.pop("action")(**arguments)
