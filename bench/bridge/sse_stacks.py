"""The floors under a bridge: HTTP servers that only write a prepared event to every connection.

`python -m bench.bridge.sse_stacks NAME HOST:PORT EVENTS STEP_S`. Every connection gets so many
events, one each step; one timer wakes all, as a session's message does. Ends at SIGTERM.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvloop

EVENT: Final = b'id: abcdefghijklmnopqrstuv:100\ndata: {"token": " three tokens of it"}\n\n'
_KIND: Final = "text/event-stream"

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class Step:
    """One timer for all connections."""

    def __init__(self, events: int, step_s: float) -> None:
        self.events = events
        self._step_s = step_s
        self._waiting: list[asyncio.Future[None]] = []
        self._called: set[Callable[[], None]] = set()
        self._ticking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Tick from now on."""
        self._ticking = self._ticking or asyncio.create_task(self._tick())

    def next(self) -> asyncio.Future[None]:
        """Wait for the next step."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    async def call(self, write: Callable[[], None]) -> None:
        """Have `write` called at each step, until all events are written."""
        done, left = asyncio.get_running_loop().create_future(), self.events

        def at_step() -> None:
            nonlocal left
            write()
            left -= 1
            if not left:
                self._called.discard(at_step)
                done.set_result(None)

        self._called.add(at_step)
        await done

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._step_s)
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            for write in list(self._called):
                write()


def asgi(step: Step) -> Callable[[_Message, _Receive, _Send], Awaitable[None]]:
    """Return a bare ASGI application."""

    async def app(scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        step.begin()
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", _KIND.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(step.events):
            await step.next()
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def _uvicorn(app: Any, address: tuple[str, int], http: str) -> None:
    import uvicorn

    host, port = address
    uvicorn.run(
        app, host=host, port=port, http=http, loop="uvloop", log_level="error", access_log=False
    )


def _starlette(step: Step, address: tuple[str, int], kind: str) -> None:
    from sse_starlette import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    async def events() -> AsyncIterator[bytes]:
        for _ in range(step.events):
            await step.next()
            yield EVENT

    async def answer(request: Request) -> Response:
        step.begin()
        await request.body()
        if kind == "sse-starlette":
            return EventSourceResponse(events())
        return StreamingResponse(events(), media_type=_KIND)

    _uvicorn(Starlette(routes=[Route("/", answer, methods=["POST"])]), address, "httptools")


def _aiohttp(step: Step, address: tuple[str, int], by_transport: bool) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.StreamResponse:
        step.begin()
        await request.read()
        response = web.StreamResponse(headers={"content-type": _KIND})
        response.enable_chunked_encoding()
        await response.prepare(request)
        transport = request.transport
        if by_transport and transport is not None:
            chunk = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
            await step.call(lambda: transport.write(chunk))
        else:
            for _ in range(step.events):
                await step.next()
                await response.write(EVENT)
        await response.write_eof()
        return response

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, *address, backlog=1024).start()
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve())


def _granian(step: Step, address: tuple[str, int], interface: str) -> None:
    # Its workers are other processes; the embedded server runs in this one.
    from granian.constants import Interfaces  # type: ignore[import-not-found]  # .venv-bench has it
    from granian.server.embed import Server  # type: ignore[import-not-found]  # see above

    async def rsgi(scope: Any, protocol: Any) -> None:
        step.begin()
        await protocol()
        transport = protocol.response_stream(200, [("content-type", _KIND)])
        for _ in range(step.events):
            await step.next()
            await transport.send_bytes(EVENT)

    is_rsgi = interface == "rsgi"
    target = rsgi if is_rsgi else asgi(step)
    kind = Interfaces.RSGI if is_rsgi else Interfaces.ASGI
    server = Server(target, address=address[0], port=address[1], interface=kind)
    uvloop.run(server.serve())


STACKS: Final[dict[str, Callable[[Step, tuple[str, int]], None]]] = {
    "aiohttp, from a callback": lambda step, at: _aiohttp(step, at, True),
    "aiohttp": lambda step, at: _aiohttp(step, at, False),
    "uvicorn, ASGI, httptools": lambda step, at: _uvicorn(asgi(step), at, "httptools"),
    "uvicorn, ASGI, h11": lambda step, at: _uvicorn(asgi(step), at, "h11"),
    "Starlette": lambda step, at: _starlette(step, at, "starlette"),
    "sse-starlette": lambda step, at: _starlette(step, at, "sse-starlette"),
    "Granian, RSGI": lambda step, at: _granian(step, at, "rsgi"),
    "Granian, ASGI": lambda step, at: _granian(step, at, "asgi"),
}


if __name__ == "__main__":
    _name, _address, _events, _step_s = sys.argv[1:]
    _host, _, _port = _address.rpartition(":")
    STACKS[_name](Step(int(_events), float(_step_s)), (_host, int(_port)))
