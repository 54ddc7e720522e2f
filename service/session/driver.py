"""A session at work: its caller's actions, carried out on the pipeline.

One task for each request that is being opened, none for one that is being read.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from service.errors import IdNotNew, IdUnknown, RequestFailed, ServiceError
from service.generation import Generation
from service.pipeline import Pipeline
from service.session.frame import ActionKind, Credit, Resume, Start, tag_of
from service.session.session import Session

_log = structlog.get_logger(__name__)

COMPANY_S = 0.01


class SessionDriver:
    """Owns a session and the requests that it opens. `wake`: see `Session`.

    That a request has started is told with the next deltas, or `COMPANY_S` later: in a burst that
    halves what a request costs.
    """

    def __init__(self, pipeline: Pipeline, wake: Callable[[], None]) -> None:
        self._pipeline = pipeline
        self._telling: asyncio.TimerHandle | None = None
        self.session = Session(wake, self._tell_starts_soon)
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._cancel_when_opened: set[int] = set()

    def start(self, start: Start) -> None:
        """Begin a request."""
        if self._take_id(start.id, ActionKind.START):
            task = self._opening[start.id] = asyncio.create_task(self._open(start))
            task.add_done_callback(partial(self._done_opening, start.id))

    def resume(self, resume: Resume) -> None:
        """Read a stream on."""
        if not self._take_id(resume.id, ActionKind.RESUME):
            return
        session = self.session
        try:
            generation, reader = self._pipeline.resume(
                resume.stream_id,
                resume.tenant,
                resume.position,
                resume.delivery,
                session,
                resume.id,
            )
        except ServiceError as error:
            session.not_opened(resume.id, error)
        else:
            session.opened(resume.id, generation, reader)

    def refuse(self, request_id: int, action: ActionKind, why: ServiceError) -> None:
        """Fail a request that may not even be tried."""
        if self._take_id(request_id, action):
            self._pipeline.refused(why)
            self.session.not_opened(request_id, why)

    def cancel(self, request_id: int) -> None:
        """End a request on purpose; its end is told as any other."""
        session = self.session
        generation = session.generation(request_id)
        if generation is not None:
            self._pipeline.cancel_generation(generation)
        elif session.is_open(request_id):
            self._cancel_when_opened.add(request_id)
        else:
            session.reject(request_id, ActionKind.CANCEL, IdUnknown(request_id))

    def grant(self, credit: Credit) -> None:
        """Let more be delivered."""
        self.session.grant(credit)

    def close(self, request_id: int) -> None:
        """Stop reading a request."""
        if not self.session.is_open(request_id):
            self.session.reject(request_id, ActionKind.CLOSE, IdUnknown(request_id))
            return
        task = self._opening.get(request_id)
        if task is not None:
            task.cancel()
        self.session.close(request_id)

    def end(self, because: ServiceError | None = None) -> None:
        """End or detach every request: the session's call has ended, or was broken off."""
        for task in self._opening.values():
            task.cancel()
        if self._telling is not None:
            self._telling.cancel()
        self.session.leave(because)

    def _tell_starts_soon(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(COMPANY_S, self._tell_starts)

    def _tell_starts(self) -> None:
        self._telling = None
        self.session.tell_starts()

    def _take_id(self, request_id: int, action: ActionKind) -> bool:
        try:
            self.session.open(request_id)
        except IdNotNew as error:
            self.session.reject(request_id, action, error)
            return False
        return True

    async def _open(self, start: Start) -> None:
        session, request_id = self.session, start.id
        try:
            generation = await self._pipeline.open(start.request, start.tenant, start.timeout_s)
        except ServiceError as error:
            session.not_opened(request_id, error)
        else:
            self._read(request_id, generation)
            if request_id in self._cancel_when_opened:
                self._pipeline.cancel_generation(generation)

    def _read(self, request_id: int, generation: Generation) -> None:
        session, read = self.session, self._pipeline.read
        if not generation.choices:
            session.opened(request_id, generation, read(generation, session, request_id))
            return
        readers = [
            read(choice, session, tag_of(request_id, choice.choice_index))
            for choice in generation.choices
        ]
        session.opened_several(request_id, readers, generation)

    def _done_opening(self, request_id: int, task: "asyncio.Task[None]") -> None:
        """Clean up, also behind a task that was cancelled before it ever ran."""
        del self._opening[request_id]
        self._cancel_when_opened.discard(request_id)
        if task.cancelled():
            self.session.not_opened(request_id, None)
        elif (bug := task.exception()) is not None:
            _log.error("request_failed", exc_info=bug)
            self.session.not_opened(request_id, RequestFailed())
