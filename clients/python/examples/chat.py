"""A chat, answered in JSON, with how sure the model was of each token.

python chat.py "What is gRPC?" [host:port]
"""

import argparse
import json
import math
import sys

from tokenstream_client import Chat, ChatMessage, Client, Delta, Unavailable

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 80}},
    "required": ["answer"],
    "additionalProperties": False,
}


def main(question: str, target: str) -> None:
    """Print each token with its probability, then the answer."""
    talk = Chat(
        (
            ChatMessage("system", "Answer in JSON."),
            ChatMessage("user", question),
        )
    )
    text = ""
    with Client(target) as client:
        try:
            for event in client.generate(
                talk, json_schema=json.dumps(SCHEMA), logprobs=0, max_tokens=200
            ):
                if isinstance(event, Delta):
                    text += event.text
                    for place in event.logprobs:
                        print(f"{math.exp(place.logprob):6.1%}  {place.token!r}")
        except Unavailable as unavailable:
            sys.exit(f"no service: {unavailable}")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("question")
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="host:port")
    main(**vars(parser.parse_args()))
