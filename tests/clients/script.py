"""What a scripted service plays: messages, pauses and failures."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from tokenstream.v1 import generation_pb2 as pb

STREAM_ID = "stream-1"


@dataclass(frozen=True)
class Fail:
    """A step of a script: end with this status."""

    code: grpc.StatusCode
    message: str = "it failed"
    details: Sequence[Message] = ()


Step = pb.GenerateResponse | asyncio.Event | Fail


Script = Iterable[Step] | Callable[[pb.GenerateRequest], Iterable[Step]]


def reason(name: str) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=name, domain="tokenstream")
    return info


def retry_in(seconds: float) -> Message:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(round(seconds * 1000))
    retry: Message = info
    return retry


def bad_fields(**violations: str) -> Message:
    """Double underscores stand for dots."""
    bad: Message = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=path.replace("__", "."), description=description
            )
            for path, description in violations.items()
        ]
    )
    return bad


def started(prompt_tokens: int = 3, stream_id: str = STREAM_ID) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        started=pb.Started(stream_id=stream_id, model="demo", prompt_tokens=prompt_tokens)
    )


def deltas(*texts: str) -> list[pb.GenerateResponse]:
    """One token each, numbered from 0."""
    return [
        pb.GenerateResponse(
            delta=pb.Delta(first_token_index=index, token_ids=[100 + index], text=text)
        )
        for index, text in enumerate(texts)
    ]


def finished(
    completion_tokens: int = 2, reason: pb.FinishReason.ValueType = pb.FINISH_REASON_LENGTH
) -> pb.GenerateResponse:
    message = pb.GenerateResponse()
    message.finished.reason = reason
    message.finished.usage.prompt_tokens = 3
    message.finished.usage.completion_tokens = completion_tokens
    message.finished.timings.time_to_first_token.FromMilliseconds(25)
    message.finished.timings.total.FromMilliseconds(1500)
    return message


def tail(first_token_index: int, text: str) -> pb.GenerateResponse:
    """The text that was held back until the end."""
    return pb.GenerateResponse(delta=pb.Delta(first_token_index=first_token_index, text=text))


def answer(*texts: str) -> list[Step]:
    return [started(), *deltas(*texts), finished(len(texts))]


NO_SUCH_STREAM = Fail(
    grpc.StatusCode.NOT_FOUND, "no running stream has this id", [reason("STREAM_NOT_FOUND")]
)
