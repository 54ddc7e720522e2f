"""How the outputs of the engine's steps come here: past vLLM's task and queue.

vLLM reads its socket in one task and hands what came to another through a queue, which takes two
turns of the event loop for every step (docs/benchmarks.md has what that costs). Here a step's
message is decoded and taken in the socket's own callback. All other messages (answers to calls,
notifications, the engine's death, what cannot be decoded) go vLLM's way, and so do all of them
where vLLM's client looks at the steps itself, which it does for data parallelism.

Rule: no step overtakes another. The short way opens when vLLM's task waits with an empty queue.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from service.engine.zmq_sockets import Receiver
from service.errors import EngineDead

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.engine.core_client import AsyncMPClient


class VllmOutputs:
    """The outputs of one client, whose socket it takes over before anything waits on that."""

    def __init__(self, client: "AsyncMPClient") -> None:
        resources = client.resources
        assert resources.output_queue_task is None
        receiver = resources.output_socket = Receiver.in_place_of(resources.output_socket)
        self._client = client
        self._inbox = receiver.inbox
        self._looked_at_by_vllm = hasattr(type(client), "process_engine_outputs")

    async def deliver(self, take: "Callable[[EngineCoreOutputs], None]") -> None:
        """Call `take` with each step's outputs, until cancelled.

        Raises `EngineDead` when there will be no more, and what `take` raises.
        """
        client, inbox = self._client, self._inbox
        raised: Exception | None = None

        def take_step(frames: Sequence[Any]) -> bool:
            nonlocal raised
            try:
                outputs: EngineCoreOutputs = client.decoder.decode(frames)
            except Exception:
                return False  # vLLM's task will say what it is
            if outputs.utility_output or not (outputs.outputs or outputs.scheduler_stats):
                return False
            try:
                take(outputs)
            except Exception as error:
                raised = error
                inbox.take = None
                client.outputs_queue.put_nowait(error)  # ends the wait below
            return True

        try:
            while True:
                if inbox.is_waited_for and client.outputs_queue.empty():
                    inbox.take = None if self._looked_at_by_vllm else take_step
                try:
                    outputs = await client.get_output_async()
                except Exception as dead:  # whatever it is, there will be no more outputs
                    if raised is not None:
                        raise raised from None
                    raise EngineDead from dead
                take(outputs)
        finally:
            inbox.take = None
