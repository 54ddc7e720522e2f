"""From a stream's events to the chunks of OpenAI's streamed answers. No I/O.

A chunk is one server-sent event. An answer is, for each choice, in chat a chunk with the role, then
chunks with text, then one with the finish reason; choices interleave. After them comes, if asked
for, one with the usage and no choices; then ``[DONE]``. A failure is a chunk with ``error``: the
official clients raise an APIError for it.

All that a choice's chunks have in common is made once, when the stream starts.
"""

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

from gateway_sse.json_text import json_text
from gateway_sse.openai.asked import Asked
from gateway_sse.openai.errors import body_of
from gateway_sse.openai.logprobs import TextOffsets, chat_logprobs, completion_logprobs
from gateway_sse.openai.usage import finish_reason, usage_of
from gateway_sse.problems import Problem
from tokenstream_client import Delta, Finished, Started, TokenLogprobs

_DONE: Final = b"data: [DONE]\n\n"
_RUNNING: Final = b',"finish_reason":null}'


class _ChunkEncoder(ABC):
    """What both kinds share. `created`: seconds since 1970."""

    content_type = "text/event-stream; charset=utf-8"
    keepalive = b": keep-alive\n\n"

    _id_prefix: ClassVar[str]
    _object: ClassVar[str]
    _before_text: ClassVar[bytes]
    _after_text: ClassVar[bytes]

    def __init__(self, asked: Asked, created: int) -> None:
        self._choices = asked.choices
        self._logprobs = asked.logprobs
        self._include_usage = asked.include_usage
        self._created = created
        self._ends = dict[int, Finished]()
        self._head = self._tail = self._rest = b""
        self._openings = list[bytes]()

    def started(self, event: Started) -> bytes:
        """See `Encoder`."""
        shared = {
            "id": self._id_prefix + event.stream_id,
            "object": self._object,
            "created": self._created,
            "model": event.model,
            "system_fingerprint": None,
        }
        self._head = b"data: " + _json(shared)[:-1]
        self._tail = (b',"usage":null' if self._include_usage else b"") + b"}\n\n"
        self._rest = self._after_text + b"null" + _RUNNING + b"]" + self._tail
        self._openings = [
            b'%b,"choices":[{"index":%d%b' % (self._head, index, self._before_text)
            for index in range(self._choices)
        ]
        return b"".join(self._first(index) for index in range(self._choices))

    def delta(self, event: Delta) -> bytes:
        """See `Encoder`."""
        if self._logprobs:
            return self._delta_with_logprobs(event)
        if not event.text:
            return b""
        text = json_text(event.text).encode()
        return b"".join((self._openings[event.choice_index], text, self._rest))

    def finished(self, event: Finished) -> bytes:
        """See `Encoder`."""
        self._ends[event.choice_index] = event
        return self._chunk(self._last(event.choice_index, finish_reason(event)))

    def failed(self, problem: Problem) -> bytes:
        """See `Encoder`."""
        return b"data: " + _json(body_of(problem)) + b"\n\n"

    def moved(self) -> bytes | None:
        """See `Encoder`: these clients do not come back."""
        return None

    def end(self) -> bytes:
        """See `Encoder`."""
        if not self._include_usage or len(self._ends) < self._choices:
            return _DONE
        usage = _json(usage_of(self._ends.values()))
        return b"".join((self._head, b',"choices":[],"usage":', usage, b"}\n\n", _DONE))

    def _delta_with_logprobs(self, event: Delta) -> bytes:
        if not event.text and not event.logprobs:
            return b""
        logprobs = b"null"
        if event.logprobs:
            logprobs = _json(self._logprobs_of(event.choice_index, event.logprobs))
        opening, text = self._openings[event.choice_index], json_text(event.text).encode()
        parts = (opening, text, self._after_text, logprobs, _RUNNING, b"]", self._tail)
        return b"".join(parts)

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return b"".join((self._head, b',"choices":[', _json(choice), b"]", self._tail))

    @abstractmethod
    def _first(self, index: int) -> bytes:
        """Return the chunk that opens a choice."""

    @abstractmethod
    def _last(self, index: int, reason: str) -> dict[str, Any]:
        """Return the choice in the chunk that ends it."""

    @abstractmethod
    def _logprobs_of(self, index: int, entries: tuple[TokenLogprobs, ...]) -> object:
        """Return log-probabilities as this kind of chunk has them."""


class ChatChunks(_ChunkEncoder):
    """Chunks of one chat answer."""

    _id_prefix = "chatcmpl-"
    _object = "chat.completion.chunk"
    _before_text = b',"delta":{"content":'
    _after_text = b'},"logprobs":'

    def _first(self, index: int) -> bytes:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk(
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        )

    def _last(self, index: int, reason: str) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def _logprobs_of(self, index: int, entries: tuple[TokenLogprobs, ...]) -> object:
        return chat_logprobs(entries)


class CompletionChunks(_ChunkEncoder):
    """Chunks of one completion."""

    _id_prefix = "cmpl-"
    _object = "text_completion"
    _before_text = b',"text":'
    _after_text = b',"logprobs":'

    def __init__(self, asked: Asked, created: int) -> None:
        super().__init__(asked, created)
        self._offsets = dict[int, TextOffsets]()

    def _first(self, index: int) -> bytes:
        return b""

    def _last(self, index: int, reason: str) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}

    def _logprobs_of(self, index: int, entries: tuple[TokenLogprobs, ...]) -> object:
        return completion_logprobs(entries, self._offsets.setdefault(index, TextOffsets()))


def _json(value: object) -> bytes:
    """Return JSON in ASCII, so without any line end in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
