"""The event loops that can be compared. uvloop is what vLLM's own servers use."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop

EVENT_LOOPS = ("uvloop", "asyncio")


def run(work: Coroutine[Any, Any, None], loop: str) -> None:
    """Run a coroutine on an event loop of that name, one of `EVENT_LOOPS`."""
    made = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}[loop]
    with asyncio.Runner(loop_factory=made) as runner:
        runner.run(work)
