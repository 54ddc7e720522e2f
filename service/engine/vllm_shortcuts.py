"""What of vLLM's engine client is replaced, because every engine step passes through it.

Its sockets (`zmq_sockets`), and the queue between the task that reads them and the one that takes
a step's outputs: an `asyncio.Queue` serves any number of either.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from vllm.v1.engine.core_client import AsyncMPClient

_Item = TypeVar("_Item")


class HandOff(Generic[_Item]):
    """As much of an `asyncio.Queue` as one task needs that puts, and one that gets.

    Without bound, as the queue is whose place it takes: an entry for each step that was not taken.
    """

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._getter: asyncio.Future[None] | None = None

    def put_nowait(self, item: _Item) -> None:
        """See `asyncio.Queue`."""
        self._items.append(item)
        getter = self._getter
        if getter is not None and not getter.done():
            getter.set_result(None)

    async def get(self) -> _Item:
        """See `asyncio.Queue`; one task only."""
        while not self._items:
            self._getter = asyncio.get_running_loop().create_future()
            await self._getter
        return self._items.popleft()


def take_shortcuts(client: "AsyncMPClient") -> None:
    """Put ours in the place of vLLM's, before anything waits on those."""
    from service.engine.zmq_sockets import Receiver, Sender

    resources = client.resources
    assert resources.output_queue_task is None
    client.outputs_queue = HandOff()
    resources.output_socket = Receiver.in_place_of(resources.output_socket)
    client.input_socket = resources.input_socket = Sender.in_place_of(client.input_socket)
