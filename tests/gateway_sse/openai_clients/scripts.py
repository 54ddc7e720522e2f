"""Scripts of what OpenAI's clients meet: several choices, log-probabilities, a service that is busy
or fails.
"""

import time

import grpc

from tests.clients.script import Fail, Step, answer, deltas, finished, reason, retry_in, started
from tokenstream.v1 import generation_pb2 as pb


def of_choice(message: pb.GenerateResponse, choice: int) -> pb.GenerateResponse:
    """The same event, of another choice."""
    copy = pb.GenerateResponse()
    copy.CopyFrom(message)
    event = copy.delta if copy.WhichOneof("event") == "delta" else copy.finished
    event.choice_index = choice
    return copy


def with_logprobs(first: int, *tokens: bytes) -> pb.GenerateResponse:
    """A delta whose tokens are the likeliest, each before "?"."""
    delta = pb.Delta(
        first_token_index=first,
        token_ids=[100 + first + index for index in range(len(tokens))],
        text=b"".join(tokens).decode(),
    )
    for token in tokens:
        entry = delta.logprobs.add(logprob=-0.25, token=token)
        entry.likeliest.add(token_id=1, logprob=-0.25, token=token)
        entry.likeliest.add(token_id=2, logprob=-2.0, token=b"?")
    return pb.GenerateResponse(delta=delta)


def logprobs_answer() -> list[pb.GenerateResponse]:
    return [started(), with_logprobs(0, b"Hel", b"lo"), with_logprobs(2, "é".encode()), finished(3)]


def broken_off() -> list[Step]:
    """Some text, then a failure."""
    failed = Fail(grpc.StatusCode.INTERNAL, "the engine failed", [reason("ENGINE_FAILED")])
    return [started(), *deltas("Hel"), failed]


class BusyOnce:
    """Refuses the first request for `retry_s`, and answers the next with "Hello"."""

    def __init__(self, retry_s: float) -> None:
        details = [reason("TOO_MANY_STREAMS"), retry_in(retry_s)]
        self._busy = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details)
        self._times: list[float] = []

    def __call__(self, _: pb.GenerateRequest) -> list[Step]:
        self._times.append(time.monotonic())
        return [self._busy] if len(self._times) == 1 else answer("Hello")

    @property
    def waited_s(self) -> float:
        """Seconds between the two requests; there were no others."""
        first, second = self._times
        return second - first
