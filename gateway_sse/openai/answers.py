"""From a stream's events to OpenAI's answers in one piece. No I/O."""

from collections import defaultdict
from typing import Literal

from typing_extensions import TypedDict

from gateway_sse.openai.asked import Asked
from gateway_sse.openai.logprobs import (
    ChatLogprobs,
    CompletionLogprobs,
    TextOffsets,
    chat_logprobs,
    completion_logprobs,
)
from gateway_sse.openai.usage import UsageBody, finish_reason, usage_of
from tokenstream_client import Delta, Event, Finished, Internal, Started, TokenLogprobs


class ChatAnswerMessage(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One of a chat's answers."""

    index: int
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(TypedDict):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: UsageBody


class CompletionChoice(TypedDict):
    """One continuation of a prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str


class Completion(TypedDict):
    """The answer to a prompt."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[CompletionChoice]
    usage: UsageBody


class Collector:
    """Keeps one answer until it is whole.

    Bound: what the request may generate: `max_tokens`, else what the context has left, for each
    choice.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._started: Started | None = None
        # By choice, as they come: how many were asked for is not checked here.
        self._texts = defaultdict[int, list[str]](list)
        self._logprobs = defaultdict[int, list[TokenLogprobs]](list)
        self._ends = dict[int, Finished]()

    def add(self, event: Event) -> None:
        """Take the stream's next event."""
        match event:
            case Delta():
                self._texts[event.choice_index].append(event.text)
                self._logprobs[event.choice_index].extend(event.logprobs)
            case Finished():
                self._ends[event.choice_index] = event
            case Started():
                self._started = event

    def chat(self, created: int) -> ChatCompletion:
        """Return the whole answer to a chat. Raises Internal if it is not whole."""
        started, ends = self._whole()
        return {
            "id": f"chatcmpl-{started.stream_id}",
            "object": "chat.completion",
            "created": created,
            "model": started.model,
            "system_fingerprint": None,
            "choices": [
                {
                    "index": index,
                    "message": {
                        "role": "assistant",
                        "content": "".join(self._texts[index]),
                        "refusal": None,
                    },
                    "logprobs": chat_logprobs(self._logprobs[index])
                    if self._asked.logprobs
                    else None,
                    "finish_reason": finish_reason(end),
                }
                for index, end in enumerate(ends)
            ],
            "usage": usage_of(ends),
        }

    def completion(self, created: int) -> Completion:
        """Return the whole answer to a prompt. Raises Internal if it is not whole."""
        started, ends = self._whole()
        return {
            "id": f"cmpl-{started.stream_id}",
            "object": "text_completion",
            "created": created,
            "model": started.model,
            "system_fingerprint": None,
            "choices": [
                {
                    "index": index,
                    "text": "".join(self._texts[index]),
                    "logprobs": completion_logprobs(self._logprobs[index], TextOffsets())
                    if self._asked.logprobs
                    else None,
                    "finish_reason": finish_reason(end),
                }
                for index, end in enumerate(ends)
            ],
            "usage": usage_of(ends),
        }

    def _whole(self) -> tuple[Started, list[Finished]]:
        if self._started is None or len(self._ends) < self._asked.choices:
            raise Internal("the service sent half an answer", reason="BROKEN_STREAM")
        return self._started, [self._ends[index] for index in range(self._asked.choices)]
