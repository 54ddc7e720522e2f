"""From a stream's events to OpenAI's answers in one piece. No I/O."""

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from typing import ClassVar, Final, Literal

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


class Collector(ABC):
    """Keeps one answer until it is whole, as the JSON that it will be.

    Log-probabilities become JSON when they come: a whole answer's at its end would hold up all
    others for seconds. Bound: what the request may generate: `max_tokens`, else what the context
    has left, for each choice.
    """

    _id_prefix: ClassVar[str]
    _object: ClassVar[str]

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._started: Started | None = None
        # By choice, as they come: how many were asked for is not checked here.
        self._texts = defaultdict[int, list[str]](list)
        self._logprobs = defaultdict[int, _Lists](_Lists)
        self._ends = dict[int, Finished]()

    def add(self, event: Event) -> None:
        """Take the stream's next event."""
        match event:
            case Delta():
                self._texts[event.choice_index].append(event.text)
                if event.logprobs:
                    told = self._logprobs_of(event.choice_index, event.logprobs)
                    self._logprobs[event.choice_index].add(told)
            case Finished():
                self._ends[event.choice_index] = event
            case Started():
                self._started = event

    def body(self, created: int) -> bytes:
        """Return the whole answer. Raises Internal if it is not whole."""
        if self._started is None or len(self._ends) < self._asked.choices:
            raise Internal("the service sent half an answer", reason="BROKEN_STREAM")
        ends = [self._ends[index] for index in range(self._asked.choices)]
        head = {
            "id": self._id_prefix + self._started.stream_id,
            "object": self._object,
            "created": created,
            "model": self._started.model,
            "system_fingerprint": None,
        }
        choices = b",".join(self._choice(index, end) for index, end in enumerate(ends))
        return b'%b,"choices":[%b],"usage":%b}' % (
            _json(head)[:-1],
            choices,
            _json(usage_of(ends)),
        )

    def _choice(self, index: int, end: Finished) -> bytes:
        said = {
            "index": index,
            **self._said("".join(self._texts[index])),
            "finish_reason": finish_reason(end),
        }
        logprobs = b"null"
        if self._asked.logprobs:
            logprobs = self._logprobs[index].json(self._logprobs_of(index, ()))
        return b'%b,"logprobs":%b}' % (_json(said)[:-1], logprobs)

    @abstractmethod
    def _said(self, text: str) -> dict[str, object]:
        """Return a choice's text, in the members that the kind has it in."""

    @abstractmethod
    def _logprobs_of(
        self, index: int, entries: tuple[TokenLogprobs, ...]
    ) -> ChatLogprobs | CompletionLogprobs:
        """Return a choice's next log-probabilities; without entries, the names and no more."""


class ChatCollector(Collector):
    """Makes a `ChatCompletion`."""

    _id_prefix = "chatcmpl-"
    _object = "chat.completion"

    def _said(self, text: str) -> dict[str, object]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _logprobs_of(self, index: int, entries: tuple[TokenLogprobs, ...]) -> ChatLogprobs:
        return chat_logprobs(entries)


class CompletionCollector(Collector):
    """Makes a `Completion`."""

    _id_prefix = "cmpl-"
    _object = "text_completion"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._offsets = defaultdict[int, TextOffsets](TextOffsets)

    def _said(self, text: str) -> dict[str, object]:
        return {"text": text}

    def _logprobs_of(self, index: int, entries: tuple[TokenLogprobs, ...]) -> CompletionLogprobs:
        return completion_logprobs(entries, self._offsets[index])


class _Lists:
    """An object whose lists come in parts."""

    def __init__(self) -> None:
        self._parts = defaultdict[str, list[bytes]](list)

    def add(self, part: Mapping[str, object]) -> None:
        """Take a part of each list."""
        for name, value in part.items():
            if value:
                self._parts[name].append(_json(value)[1:-1])

    def json(self, empty: Mapping[str, object]) -> bytes:
        """Return the whole object; `empty` has its names, and what is no list."""
        members = (
            b'"%b":[%b]' % (name.encode(), b",".join(self._parts[name]))
            if isinstance(value, list)
            else b'"%b":%b' % (name.encode(), _json(value))
            for name, value in empty.items()
        )
        return b"{%b}" % b",".join(members)


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode()


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
