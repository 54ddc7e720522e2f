"""Requests whose answers are held against vLLM's own, as vLLM's parameters."""

import random
from typing import Any

from tokenstream.v1 import generation_pb2 as pb

Request = dict[str, Any]
Answers = list[dict[str, Any]]

QUESTIONS = (
    "What is gRPC?",
    "What is time to first token?",
    "Tell me a story about a token.",
    "what is a demultiplexer",
    "How do I say hello in Greek?",
    "Explain the life of a request step by step.",
    "What is back-pressure?",
    "Grüße aus Köln: 你好, 🙂",
)
STOPS = ("the ", ". ", "token", "stream", "\n", "a", "ing to", "🙂", "is a", "quite improbable")

# One of each kind that is cut at all its tokens: the text is the model's best, the text is full of
# halves of characters, and the text trails its tokens because it could become a stop string.
CUT_LENGTH = 50
CUT: dict[str, Request] = {
    "greedy": {"prompt": QUESTIONS[2], "params": {"temperature": 0.0}},
    "seeded": {"prompt": QUESTIONS[7], "params": {"temperature": 1.6, "seed": 7}},
    "with text held back": {
        "prompt": QUESTIONS[0],
        "params": {"temperature": 1.0, "seed": 11, "stop": ["a text that does not come", "🙂🙂🙂"]},
    },
}
for _request in CUT.values():
    _request["params"] |= {"max_tokens": CUT_LENGTH, "ignore_eos": True}

# Several choices, each with a seed of its own.
SEVERAL: dict[str, Request] = {
    "seeded": {"prompt": QUESTIONS[7], "params": {"n": 4, "temperature": 1.6, "seed": 7}},
    "with stop strings": {
        "prompt": QUESTIONS[2],
        "params": {"n": 4, "temperature": 2.0, "seed": 11, "stop": ["the ", "token"]},
    },
    "of token ids": {
        "prompt": list(range(300, 340)),
        "params": {"n": 4, "temperature": 1.6, "seed": 2**40, "top_p": 0.9, "ignore_eos": True},
    },
}
for _request in SEVERAL.values():
    _request["params"] |= {"max_tokens": 60}

_GREEDY = {"temperature": 0.0, "max_tokens": 120}
_CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": QUESTIONS[0]}],
    [
        {"role": "system", "content": "You are short of words."},
        {"role": "user", "content": QUESTIONS[7]},
        {"role": "assistant", "content": "Hallo!"},
        {"role": "user", "content": "  What is a token? "},
    ],
]
CHATS: list[Request] = [
    {"messages": messages, "params": dict(_GREEDY)} for messages in _CONVERSATIONS
]

# Three with log-probabilities, one with a bias.
TOLD_MORE: list[Request] = [
    {"prompt": QUESTIONS[0], "params": _GREEDY | {"logprobs": 5, "max_tokens": 30}},
    {"prompt": QUESTIONS[7], "params": {"temperature": 1.3, "seed": 5, "logprobs": 0}},
    {"prompt": QUESTIONS[3], "params": _GREEDY | {"logprobs": 20, "stop": ["the "]}},
    {"prompt": QUESTIONS[5], "params": _GREEDY | {"logit_bias": {"300": 100.0, "301": -100.0}}},
]
for _request in TOLD_MORE[1:]:
    _request["params"]["max_tokens"] = 40


def some_requests(seed: int, count: int) -> list[Request]:
    """Requests of all kinds, as vLLM's own parameters; each is the same on every machine."""
    chance = random.Random(seed)
    requests = []
    for _ in range(count):
        prompt: str | list[int] = chance.choice(QUESTIONS)
        if chance.random() < 0.25:
            prompt = [chance.randrange(300, 2000) for _ in range(chance.randrange(1, 60))]
        params: dict[str, Any] = {"max_tokens": chance.choice((1, 2, 7, 30, 80, 150, 250))}
        if chance.random() < 0.5:
            params["temperature"] = 0.0
        else:
            params |= {
                "temperature": chance.choice((0.7, 1.0, 1.6)),
                "seed": chance.randrange(2**40),
            }
            if chance.random() < 0.3:
                params["top_p"] = 0.9
            if chance.random() < 0.3:
                params["top_k"] = 40
            if chance.random() < 0.3:
                params["min_p"] = 0.02
        if chance.random() < 0.3:
            params["repetition_penalty"] = 1.15
        if chance.random() < 0.3:
            params |= {"presence_penalty": 0.4, "frequency_penalty": 0.3}
        if chance.random() < 0.5:
            params["stop"] = chance.sample(STOPS, chance.randrange(1, 4))
        if chance.random() < 0.2:
            params["stop_token_ids"] = [chance.randrange(10, 700) for _ in range(100)]
        if chance.random() < 0.2:
            params["min_tokens"] = min(params["max_tokens"], chance.randrange(40))
        if chance.random() < 0.3:
            params["ignore_eos"] = True
        if chance.random() < 0.3:
            params["skip_special_tokens"] = False
        if chance.random() < 0.3:
            params["include_stop_str_in_output"] = True
        requests.append({"prompt": prompt, "params": params})
    return requests


def as_ours(params: dict[str, Any]) -> dict[str, Any]:
    """vLLM's parameter names as the contract's."""
    ours = dict(params)
    if "include_stop_str_in_output" in ours:
        ours["include_stop"] = ours.pop("include_stop_str_in_output")
    return ours


def as_message(request: Request, **stream: Any) -> pb.GenerateRequest:
    """A request as the contract has it; `stream`: its StreamOptions."""
    message = pb.GenerateRequest(
        sampling=pb.SamplingOptions(**as_ours(request["params"])),
        stream=pb.StreamOptions(**stream),
    )
    if isinstance(request["prompt"], str):
        message.text = request["prompt"]
    else:
        message.token_ids.ids.extend(request["prompt"])
    return message
