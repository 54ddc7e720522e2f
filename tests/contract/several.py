"""A request with several choices, what the scripted engine should say to it, and what came."""

from collections.abc import AsyncIterable
from typing import Any

from tests.service.running import Answer, Response
from tokenstream.v1 import generation_pb2 as pb

TEXT = "abcdef"


def several(n: int, text: str = TEXT, *, stream: Any = None, **sampling: Any) -> pb.GenerateRequest:
    """A request; `sampling` and `stream`: its options."""
    return pb.GenerateRequest(
        text=text,
        sampling=pb.SamplingOptions(n=n, **sampling),
        stream=pb.StreamOptions(max_delay_ms=0, **(stream or {})),
    )


def endless(n: int, **stream: Any) -> pb.GenerateRequest:
    """One whose choices go on for long."""
    return several(n, stream=stream, ignore_eos=True, max_tokens=1000)


def texts_of(n: int, text: str = TEXT) -> list[str]:
    """What the scripted engine says, choice for choice."""
    return [text[i % len(text) :] for i in range(n)]


class Choices:
    """What came of the choices of one call; each one's grammar is checked as that of a stream."""

    def __init__(self, n: int) -> None:
        self.answers = [Answer() for _ in range(n)]
        self.order: list[int] = []  # the choices of all deltas

    def add(self, message: Response) -> None:
        event = message.WhichOneof("event")
        if event == "started":
            for answer in self.answers:
                answer.add(message)
            return
        index = message.delta.choice_index if event == "delta" else message.finished.choice_index
        self.answers[index].add(message)
        if event == "delta":
            self.order.append(index)

    async def read(self, call: AsyncIterable[Response]) -> "Choices":
        """Read to the end; raises what the call raises."""
        async for message in call:
            self.add(message)
        return self

    @property
    def stream_id(self) -> str:
        return self.answers[0].stream_id

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.answers]

    @property
    def reasons(self) -> set[int]:
        return {answer.end.reason for answer in self.answers}
