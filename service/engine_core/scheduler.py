"""The scheduler that vLLM loads by name in its engine process.

It decides nothing of its own yet: vLLM's order stands. What it brings is the control channel
(`control`), by which the service asks the engine what it has not finished.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from service.engine_core import control


class StreamScheduler(AsyncScheduler):
    """vLLM's own scheduling, reachable through the control channel.

    A subclass of `AsyncScheduler` because vLLM switches asynchronous scheduling off for any other;
    it works with synchronous scheduling too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        control.end_with_parent()


control.install()
