"""The event loop in a thread, where callers and `close` meet."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from tokenstream_client import Cancelled
from tokenstream_client.loop_thread import LoopThread


def test_close_cannot_come_between_the_check_and_the_hand_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was handed over behind the loop's last round would never end."""
    hand_over = asyncio.run_coroutine_threadsafe
    loop_thread = LoopThread("test")
    closer = threading.Thread(target=loop_thread.close)
    came_between = []

    def late(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
        closer.start()
        closer.join(0.2)
        came_between.append(not closer.is_alive())
        return hand_over(work, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", late)
    with pytest.raises((Cancelled, RuntimeError)):
        loop_thread.run(asyncio.sleep(60))
    closer.join(5)
    assert not closer.is_alive()
    assert came_between == [False]
