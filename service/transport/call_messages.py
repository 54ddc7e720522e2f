"""From a stream's events, or its choices', to the messages of a call of its own."""

from collections.abc import Sequence

from service.domain import Finished, Started, TokenLogprobs
from service.transport.convert import from_finished, from_logprobs, from_started
from tokenstream.v1 import generation_pb2

_Response = generation_pb2.GenerateResponse | generation_pb2.ResumeResponse


class CallMessages:
    """`response`: the messages' type; all such calls' messages have the same fields.

    Readers take their deltas into it as into a session's columns (`stream.reader.Deltas`), their
    tags being choices' indexes. Each delta gets a message of its own: protobuf frees what a field
    was set to before with its message only. Bound: one delta; whoever adds another has to have
    `taken` the one before, or it is lost.
    """

    __slots__ = ("_delta", "_response")

    def __init__(self, response: type[_Response]) -> None:
        self._response = response
        self._delta: _Response | None = None

    def started(self, event: Started) -> _Response:
        """The message for a stream's beginning."""
        return self._response(started=from_started(event))

    def finished(self, event: Finished) -> _Response:
        """The message for a stream's end."""
        return self._response(finished=from_finished(event))

    def add(
        self,
        tag: int,
        first: int,
        token_ids: Sequence[int],
        text: str,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> None:
        """See `Deltas`."""
        message = self._delta = self._response()
        delta = message.delta
        if tag:
            delta.choice_index = tag
        delta.first_token_index = first
        delta.token_ids.extend(token_ids)
        delta.text = text
        if logprobs:
            delta.logprobs.extend(map(from_logprobs, logprobs))

    def add_token(self, tag: int, index: int, token_id: int, text: str) -> None:
        """See `Deltas`."""
        self.add(tag, index, (token_id,), text)

    def taken(self) -> _Response | None:
        """The message for what was taken since the last call, if there was anything."""
        message, self._delta = self._delta, None
        return message
