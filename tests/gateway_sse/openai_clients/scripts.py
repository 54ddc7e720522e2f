"""Scripts with what OpenAI's requests can ask for: several choices, log-probabilities."""

from tests.clients.script import finished, started
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
