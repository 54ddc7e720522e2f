"""The one call that carries all requests: two tasks round a `Multiplexer`, and a new call after a
lost one.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import grpc

from tokenstream_client.answer import Answer
from tokenstream_client.errors import (
    Aborted,
    Busy,
    Internal,
    TokenstreamError,
    Unavailable,
)
from tokenstream_client.multiplexer import Multiplexer
from tokenstream_client.own_call import Stop
from tokenstream_client.status import error_from_rpc

# Time for the service to take the last frames and end the call, when the client closes.
_CLOSING_PATIENCE_S: Final = 1.0

# What gRPC says there (cygrpc's `set_internal_error`).
_WRITE_FAILED: Final = "Internal error from Core"
_PROBE_S: Final = 1.0

GRANT_EVERY_S: Final = 5.0
"""Longest time for which what a slow reader has read is kept from the service: well within its
stall limit (30 s), after which it ends a reader that has no credit left."""


class Session:
    """Carries answers over one Session call, opened with the first and again after each loss.

    One task reads and (re)connects, one writes. The reader always reads, so that no slow answer
    holds up another; what waits here is bounded by each answer's window.
    """

    def __init__(
        self,
        open_call: Callable[..., Any],
        stop: Stop,
        elsewhere: Callable[[Answer, TokenstreamError], bool],
        again: Callable[[Answer], None],
    ) -> None:
        """`open_call` begins a Session call, with a `timeout` if given; `stop` ends a stream where
        no session can. Of answers that failed before their start `elsewhere` tells whether they
        are begun again at once; those that are begun again get to `again`. Needs a running loop.
        """
        self._open_call = open_call
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._again = again
        self._multiplexer = Multiplexer(self._loop.time, elsewhere)
        self._frames = asyncio.Event()
        self._added = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._granting: asyncio.TimerHandle | None = None
        self._connected = False
        self._closing = False
        self.unimplemented = False
        """The service does not know sessions."""

    def __contains__(self, answer: Answer) -> bool:
        return answer in self._multiplexer

    def __len__(self) -> int:
        return len(self._multiplexer)

    @property
    def is_open_with_streams(self) -> bool:
        """Whether its call is open, and streams have begun in it."""
        return self._connected and self._multiplexer.has_started

    def add(self, answer: Answer) -> None:
        """Carry an answer from its beginning, or from its next token on."""
        if self._closing or answer.ended:
            return
        if self.unimplemented:
            self._to_its_own_call(answer)
            answer.needs_call = True
            answer.changed()
            return
        self._multiplexer.add(answer)
        self._frames.set()
        self._added.set()
        if self._granting is None:
            self._granting = self._loop.call_later(GRANT_EVERY_S, self._grant_now)
        if self._running is None:
            self._running = self._loop.create_task(self._run())

    def leave(self, answer: Answer) -> None:
        """Let go of an answer, and let the service know."""
        if not self._multiplexer.leave(answer):
            self._part(answer)  # the connection is down
        self._frames.set()

    def stop(self, answer: Answer) -> None:
        """Ask for an answer's end."""
        self._multiplexer.stop(answer)
        self._frames.set()

    def grant(self, answer: Answer, limit: int) -> None:
        """Let more tokens of an answer come."""
        self._multiplexer.grant(answer, limit)
        self._frames.set()

    async def close(self) -> None:
        """Send what is to be sent, and end the call: within a second, in any case."""
        self._closing = True
        if self._granting is not None:
            self._granting.cancel()
        task = self._running
        if task is None:
            return
        self._frames.set()
        patience = _CLOSING_PATIENCE_S if self._connected else 0
        done, _ = await asyncio.wait([task], timeout=patience)
        if not done:
            task.cancel()
            await asyncio.wait([task])

    def _grant_now(self) -> None:
        """Grant what slow readers have read: a look at each answer now and then costs less than
        a note of each event.
        """
        self._granting = None
        if len(self._multiplexer):
            self._multiplexer.grant_now()
            self._frames.set()
            self._granting = self._loop.call_later(GRANT_EVERY_S, self._grant_now)

    def _part(self, answer: Answer) -> None:
        if answer.must_be_stopped and answer.stream_id:  # what never began needs no end
            self._stop(answer.stream_id, answer.terms.api_key)

    async def _run(self) -> None:
        try:
            while len(self._multiplexer) and not self._closing:
                error = await self._connection()
                delay = self._after(error)
                for answer in self._multiplexer.take_partings():
                    self._part(answer)
                if delay is None:
                    return
                await self._pause(delay)
        except Exception:
            # A mistake in here: nobody may wait for ever because of it.
            self._multiplexer.refused(Internal("the client's session failed"), lambda _: False)
            raise
        finally:
            self._running = None

    async def _pause(self, seconds: float) -> None:
        """Wait before the next call, but not with an answer that has not been tried once."""
        self._added.clear()  # those before had the call that was lost
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._added.wait()

    async def _connection(self) -> TokenstreamError:
        """Carry answers over one call, until it ends; return how."""
        call = self._open_call()
        self._multiplexer.connected()
        self._connected = True
        self._frames.set()
        writer = self._loop.create_task(self._write(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                self._multiplexer.receive(message)
                for delay, answer in self._multiplexer.take_retries():
                    self._loop.call_later(delay, self._again, answer)
                if self._multiplexer.has_frames():
                    self._frames.set()
            return Unavailable("the service ended the session")
        except grpc.RpcError as error:
            return await self._true_end(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Unavailable("the connection was lost")
        finally:
            self._connected = False
            writer.cancel()
            call.cancel()

    async def _true_end(self, error: grpc.RpcError) -> TokenstreamError:
        """Find out how a call ended whose status gRPC has lost.

        Where a write meets the end of its call, gRPC reports the write, and the call's own status
        never shows. A call in which nothing is written shows how a service refuses.
        """
        if error.details() != _WRITE_FAILED:
            return error_from_rpc(error)
        try:
            await self._open_call(timeout=_PROBE_S).read()
        except grpc.RpcError as refusal:
            if refusal.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                return error_from_rpc(refusal)
        return Unavailable("the connection was lost")

    async def _write(self, call: Any) -> None:
        try:
            while True:
                await self._frames.wait()
                self._frames.clear()
                while (message := self._multiplexer.next_message()) is not None:
                    await call.write(message)
                if self._closing:
                    await call.done_writing()
                    return
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call has ended, and its reader gets to know how

    def _after(self, error: TokenstreamError) -> float | None:
        """Decide what becomes of the answers; return seconds until the next call, None: none."""
        if error.code == "UNIMPLEMENTED":
            self.unimplemented = True
            self._multiplexer.refused(error, self._to_its_own_call)
            return None
        if isinstance(error, Unavailable | Busy | Aborted) or Answer.is_loss(error):
            return self._multiplexer.lost(error)
        # The session's own caller is refused; those whose keys it passes on need not be.
        self._multiplexer.refused(error, lambda answer: bool(answer.terms.api_key))
        return None

    @staticmethod
    def _to_its_own_call(answer: Answer) -> bool:
        answer.not_detachable()  # what does not know sessions does not know Resume
        return True
