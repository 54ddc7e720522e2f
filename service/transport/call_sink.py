"""What lies between one stream's reader and the call that it is written to."""

import asyncio
from typing import Any

import grpc

from service.errors import StreamStalled
from service.generation import Generation
from service.stream.reader import StreamReader
from service.transport.call_messages import CallMessages
from service.transport.wakeup import Turns, Wakeup

LAST_WRITE_S = 30.0  # for a stream's end to go out


class CallSink:
    """A `Sink` for a call of its own, made by the task that handles the call.

    A reader that is broken off while its caller takes nothing is stuck in a write, and that is
    ended by cancelling the task; `write_out` turns the cancellation into the reader's error.
    """

    __slots__ = ("_task", "_wakeup")

    def __init__(self, turns: Turns | None = None) -> None:
        """`turns`: in which many calls of one process go on."""
        self._task = asyncio.current_task()
        self._wakeup = Wakeup(turns)

    def ready(self, reader: StreamReader) -> None:
        """See `Sink.ready`."""
        self._wakeup.set()

    def broken_off(self, reader: StreamReader) -> None:
        """See `Sink.broken_off`."""
        if reader.sending and self._task is not None:
            self._task.cancel()
        self._wakeup.set()

    async def write_out(
        self,
        generation: Generation,
        reader: StreamReader,
        context: "grpc.aio.ServicerContext[Any, Any]",
        messages: CallMessages,
    ) -> None:
        """Write a stream's events from its start to its end; then the reader has left.

        Raises what the stream failed of, and what the reader was broken off for.
        """
        # One level of coroutines less a message than with a helper around `write`.
        write, take_into, wait = context.write, reader.take_into, self._wakeup.wait
        try:
            reader.sending = True
            generation.known = True
            await write(messages.started(generation.started()))
            while not reader.exhausted:
                reader.sending = False
                reader.sent += 1
                await wait()
                if reader.broken is not None:
                    raise reader.broken
                take_into(messages)
                message = messages.taken()
                if message is not None:
                    reader.sending = True
                    await write(message)
            generation.complete()
            failure = reader.stream.failure
            if failure is not None:
                raise failure
            reader.sending = True
            reader.sent += 1
            # It has settled: no sweep looks at it any more, unless it can be resumed.
            async with asyncio.timeout(LAST_WRITE_S):
                await write(messages.finished(generation.finished()))
        except asyncio.CancelledError:
            if reader.broken is None or self._task is None or self._task.uncancel() > 0:
                raise  # the caller has gone
            raise reader.broken from None
        except TimeoutError:
            raise StreamStalled(LAST_WRITE_S) from None
        finally:
            generation.leave(reader)
