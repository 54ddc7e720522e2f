"""What lies between the readers of one request's choices and the call that they are written to.

Their messages go out one at a time, in the order in which the readers were due; what arrives
meanwhile merges, as for one.
"""

import asyncio
from collections import deque
from typing import Any

import grpc

from service.choices import all_failures_told, leave_together
from service.errors import ServiceError, StreamStalled
from service.generation import Generation
from service.stream.reader import StreamReader
from service.transport.call_messages import CallMessages
from service.transport.call_sink import LAST_WRITE_S
from service.transport.wakeup import Turns, Wakeup


class ChoicesSink:
    """A `Sink` of several readers, whose tags are their choices' indexes; see `CallSink`.

    Bound: an entry for each choice.
    """

    __slots__ = ("_broken", "_ready", "_sending", "_task", "_wakeup")

    def __init__(self, turns: Turns | None = None) -> None:
        """`turns`: in which many calls of one process go on."""
        self._task = asyncio.current_task()
        self._wakeup = Wakeup(turns)
        self._ready: deque[StreamReader] = deque()
        self._broken: ServiceError | None = None
        self._sending = False

    def ready(self, reader: StreamReader) -> None:
        """See `Sink.ready`."""
        self._ready.append(reader)
        self._wakeup.set()

    def broken_off(self, reader: StreamReader) -> None:
        """See `Sink.broken_off`; the first takes the others along."""
        if self._broken is None:
            self._broken = reader.broken
            if self._sending and self._task is not None:
                self._task.cancel()
            self._wakeup.set()

    async def write_out(
        self,
        first: Generation,
        context: "grpc.aio.ServicerContext[Any, Any]",
        messages: CallMessages,
    ) -> None:
        """Write the events of all choices, to the last one's end; then their readers have left.

        Raises what a choice failed of, and what a reader was broken off for.
        """
        why: ServiceError | None = None
        try:
            await self._write(first, context, messages.started(first.started()))
            unfinished = len(first.choices)
            while unfinished:
                reader = await self._next()
                choice = first.choices[reader.tag]
                reader.take_into(messages)
                message = messages.taken()
                if message is not None:
                    await self._write(first, context, message)
                if not reader.exhausted:
                    continue
                failure = reader.stream.failure
                if failure is None:
                    unfinished -= 1
                    choice.complete()
                    # Where it is the last, no sweep looks any more.
                    async with asyncio.timeout(None if unfinished else LAST_WRITE_S):
                        await self._write(first, context, messages.finished(choice.finished()))
                    choice.leave(reader)
                elif all_failures_told(choice):
                    raise failure
        except ServiceError as error:
            why = error
            raise
        except asyncio.CancelledError:
            if self._broken is None or self._task is None or self._task.uncancel() > 0:
                raise  # the caller has gone
            why = self._broken
            raise why from None
        except TimeoutError:
            why = StreamStalled(LAST_WRITE_S)
            raise why from None
        finally:
            self._task = None  # nothing is left to break off
            leave_together(first, why)

    async def _next(self) -> StreamReader:
        """Wait for a reader that is due. Raises what one was broken off for."""
        while not self._ready and self._broken is None:
            await self._wakeup.wait()
        if self._broken is not None:
            raise self._broken
        return self._ready.popleft()

    async def _write(
        self, first: Generation, context: "grpc.aio.ServicerContext[Any, Any]", message: Any
    ) -> None:
        # What goes out is every choice's progress, and what does not hold all of them up.
        readers = [c.reader for c in first.choices if c.reader is not None]
        for reader in readers:
            reader.sending = True
        self._sending = True
        await context.write(message)
        self._sending = False
        for reader in readers:
            reader.sending = False
            reader.sent += 1
