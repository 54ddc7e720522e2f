"""What runs on one WebSocket, and what waits to be said on it. No I/O; see `websocket`."""

import asyncio
from collections import deque
from typing import Final

from gateway_sse.api_keys import checked_key
from gateway_sse.bridge import Bridge
from gateway_sse.json_text import json_of
from gateway_sse.native.event_id import EventId
from gateway_sse.native.openings import begin, resume
from gateway_sse.native.request import Arguments, Delivery, StreamRequest, checked, object_from
from gateway_sse.native.socket_answer import SocketAnswer
from gateway_sse.native.socket_messages import (
    Ack,
    Authorize,
    Message,
    Resume,
    Start,
    Stop,
    identity_of,
    message_of,
)
from gateway_sse.problems import Problem, Refused, problem_from_error
from gateway_sse.streaming.outcomes import Outcome
from tokenstream_client import TokenstreamError

# Answers to messages that could not be followed; as long as so many wait, no more are read.
_MOST_NOTICES: Final = 16


class Conversation:
    """Takes what the client says, and has what it is to be told.

    Bounds: `max_streams_per_socket` answers, each with its stream's window, and `_MOST_NOTICES`
    refusals: whoever reads the socket waits for `room`.
    """

    def __init__(
        self, bridge: Bridge, api_key: str | None, traceparent: str, tracestate: str
    ) -> None:
        self.news = asyncio.Event()
        """There may be something to say; whoever says it clears it first."""
        self.moved = False
        """The process stops: once all is said, the client is to go on elsewhere."""
        self._bridge = bridge
        self._api_key = api_key
        self._trace = (traceparent, tracestate)
        self._answers: dict[str, SocketAnswer] = {}
        self._ready: deque[SocketAnswer] = deque()
        self._notices: deque[str] = deque()
        self._room = asyncio.Event()

    def hear(self, text: str) -> None:
        """Do what a message says, or say why not."""
        identity = None
        try:
            values = object_from(text, "the message")
            identity = identity_of(values)
            self._follow(message_of(values))
        except Refused as refused:
            self._refuse(refused.problem, identity)
        except TokenstreamError as error:
            self._refuse(problem_from_error(error), identity)

    async def room(self) -> None:
        """Wait until there is room for what one message more may come to."""
        while len(self._notices) >= _MOST_NOTICES:
            self._room.clear()
            await self._room.wait()

    def next_message(self) -> str | None:
        """Return what to say next, one message of each answer in turn; None: nothing now."""
        if self._notices:
            self._room.set()
            return self._notices.popleft()
        while self._ready:
            answer = self._ready.popleft()
            said = answer.next_message()
            if answer.over:
                del self._answers[answer.identity]
                answer.close()
            elif said is not None:
                self._ready.append(answer)
            else:
                answer.waiting = False
                self.moved = self.moved or answer.moved
            if said is not None:
                return said
        return None

    def stalled(self) -> None:
        """The client takes nothing; what runs ends for that."""
        for answer in self._answers.values():
            answer.outcome = Outcome.STALLED

    def close(self) -> None:
        """End, or detach, everything: the socket has closed."""
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.close()

    def _follow(self, message: Message) -> None:
        match message:
            case Authorize():
                self._api_key = checked_key(message.api_key)
            case Start():
                self._check_new(message.id)
                arguments = Arguments(checked(StreamRequest, message.request))
                stream = begin(self._bridge, arguments, self._api_key, *self._trace)
                self._add(
                    SocketAnswer(
                        self._bridge, message.id, stream, arguments.delivery, owner=self._owner
                    )
                )
            case Resume():
                self._check_new(message.id)
                event_id = EventId.parse(message.last_event_id, "last_event_id")
                if event_id.at_end:
                    raise Refused(
                        "STREAM_AT_END", "is that of an end: nothing is left", field="last_event_id"
                    )
                delivery = checked(Delivery, message.delivery)
                stream = resume(self._bridge, event_id, delivery, self._api_key)
                self._add(
                    SocketAnswer(self._bridge, message.id, stream, delivery, event_id, self._owner)
                )
            case Ack():
                self._running(message.id).acknowledge(message.next_token_index)
            case Stop():
                self._running(message.id).stop()

    @property
    def _owner(self) -> str:
        return self._api_key or ""

    def _add(self, answer: SocketAnswer) -> None:
        self._answers[answer.identity] = answer
        answer.listen(self._on_ready)
        self._bridge.streams.add(answer)

    def _on_ready(self, answer: SocketAnswer) -> None:
        if not answer.waiting:
            answer.waiting = True
            self._ready.append(answer)
            self.news.set()

    def _check_new(self, identity: str) -> None:
        self._bridge.streams.check_open()
        if identity in self._answers:
            raise Refused("ID_IN_USE", "is that of a running request", field="id")
        most = self._bridge.settings.max_streams_per_socket
        if len(self._answers) >= most:
            raise Refused(
                "TOO_MANY_STREAMS",
                f"this socket has {most} requests running",
                field="id",
                status=429,
            )

    def _running(self, identity: str) -> SocketAnswer:
        answer = self._answers.get(identity)
        if answer is None:
            raise Refused("UNKNOWN_ID", "no request of that id is running", field="id", status=404)
        return answer

    def _refuse(self, problem: Problem, identity: str | None) -> None:
        of_request = {} if identity is None else {"id": identity}
        self._notices.append(json_of({"type": "error", **of_request, **problem.body()}))
        self.news.set()
