"""What a stream yields, and how it is made from the wire's messages.

A stream is one `Started`, any number of `Delta`, one `Finished` for each choice. A failure is
an exception, never an event.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration

from tokenstream.v1 import generation_pb2 as pb


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """End-of-text token, stop token or stop string."""
    LENGTH = "length"
    """`max_tokens`, or the context is full."""
    CANCELLED = "cancelled"
    """`cancel(stream_id)` was called."""
    REPETITION = "repetition"
    """The engine saw the output repeat itself and gave up."""
    UNKNOWN = "unknown"
    """A reason that the service knows and this version of the library does not."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted and its stream opened; always first."""

    stream_id: str
    """What `cancel` and `resume` take."""
    model: str
    """The model that answers."""
    prompt_tokens: int
    client_request_id: str
    """The request's own, copied."""


class LikelyToken(NamedTuple):
    """A token that could have been chosen."""

    token_id: int
    logprob: float
    """As in `TokenLogprobs`."""
    token: bytes
    """As in `TokenLogprobs`."""


class TokenLogprobs(NamedTuple):
    """How likely a token was, and what else was."""

    logprob: float
    """Natural logarithm of its probability, at most 0; before temperature and penalties."""
    token: bytes
    """Its own bytes, by itself; half a character is possible."""
    likeliest: tuple[LikelyToken, ...]
    """The likeliest tokens in its place, likeliest first."""


class Delta(NamedTuple):
    """Some of the answer. Joined, the texts are the answer; text can trail its tokens.

    A named tuple, because there can be one for each token and it costs half of a dataclass.
    """

    choice_index: int
    first_token_index: int
    """Index of ``token_ids[0]`` in the choice's output: the number of tokens delivered so far."""
    token_ids: tuple[int, ...]
    text: str
    """May be empty."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each of `token_ids` if the request asked for them, else none."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used by one choice."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    """Those of the prompt that were found in the prefix cache."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Times as the service saw them, in seconds, from the request's arrival there."""

    time_to_first_token: float | None
    """None if no token came."""
    total: float
    engine: "EngineAccount | None" = None
    """Where the time in the engine went; None if it did not end the answer by itself."""


@dataclass(frozen=True, slots=True)
class EngineAccount:
    """What became of a request inside the engine, in seconds."""

    queued: float
    """Until it was first given a place."""
    prefill: float
    """From there to its first token."""
    decode: float
    """From there to its end, without `parked`."""
    parked: float
    """Waiting for its reader."""
    preemptions: int
    """How often it lost its place and had to be computed again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a choice."""

    choice_index: int
    reason: FinishReason
    stop_string: str | None
    """The stop string that was matched, with `FinishReason.STOP`."""
    stop_token_id: int | None
    """The stop token that was matched. Neither this nor `stop_string`: the end-of-text token."""
    usage: Usage
    timings: Timings


Event = Started | Delta | Finished

_REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
    pb.FINISH_REASON_REPETITION: FinishReason.REPETITION,
}


def event_from_message(message: pb.GenerateResponse | pb.ResumeResponse) -> Event | None:
    """Turn a message of a stream into its event; None for one that is newer than this library."""
    match message.WhichOneof("event"):
        case "started":
            return started_from_message(message.started)
        case "delta":
            delta = message.delta
            return Delta(
                choice_index=delta.choice_index,
                first_token_index=delta.first_token_index,
                token_ids=tuple(delta.token_ids),
                text=delta.text,
                logprobs=logprobs_from_messages(delta.logprobs) if delta.logprobs else (),
            )
        case "finished":
            return finished_from_message(message.finished)
        case None:
            return None


def logprobs_from_messages(messages: Iterable[pb.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    """Turn tokens' log-probabilities into what a `Delta` has."""
    return tuple(
        TokenLogprobs(
            message.logprob,
            message.token,
            tuple(LikelyToken(t.token_id, t.logprob, t.token) for t in message.likeliest),
        )
        for message in messages
    )


def started_from_message(started: pb.Started) -> Started:
    """Turn a stream's start into its event."""
    return Started(
        stream_id=started.stream_id,
        model=started.model,
        prompt_tokens=started.prompt_tokens,
        client_request_id=started.client_request_id,
    )


def finished_from_message(finished: pb.Finished) -> Finished:
    """Turn a choice's end into its event."""
    matched = finished.WhichOneof("matched")
    usage, timings = finished.usage, finished.timings
    return Finished(
        choice_index=finished.choice_index,
        reason=_REASONS.get(finished.reason, FinishReason.UNKNOWN),
        stop_string=finished.stop_string if matched == "stop_string" else None,
        stop_token_id=finished.stop_token_id if matched == "stop_token_id" else None,
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_prompt_tokens=usage.cached_prompt_tokens,
        ),
        timings=Timings(
            time_to_first_token=_seconds(timings.time_to_first_token)
            if timings.HasField("time_to_first_token")
            else None,
            total=_seconds(timings.total),
            engine=_account(timings.engine) if timings.HasField("engine") else None,
        ),
    )


def _account(account: pb.EngineAccount) -> EngineAccount:
    return EngineAccount(
        queued=_seconds(account.queued),
        prefill=_seconds(account.prefill),
        decode=_seconds(account.decode),
        parked=_seconds(account.parked),
        preemptions=account.preemptions,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
