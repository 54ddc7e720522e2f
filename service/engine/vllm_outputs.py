"""How the outputs of the engine's steps come here: past vLLM's task and queue.

vLLM reads its socket in one task and hands what came to another through a queue, which takes two
turns of the event loop for every step (docs/benchmarks.md has what that costs). Here a step's
message is decoded and taken in the socket's own callback. All other messages (answers to calls,
notifications, the engine's death, what cannot be decoded) go vLLM's way, and so do all of them
where vLLM's client looks at the steps itself, which it does for data parallelism.

Rules:

1. No step overtakes another. The short way opens when vLLM's task waits with an empty queue, and is
   closed for good by a message that cannot be decoded.
2. An answer to a call can be overtaken by a step that came behind it. (It is decoded twice.)
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
        ended = self._looked_at_by_vllm

        def take_step(frames: Sequence[Any]) -> bool:
            nonlocal raised, ended
            try:
                outputs: EngineCoreOutputs = client.decoder.decode(frames)
            except Exception:
                ended, inbox.take = True, None
                return False  # vLLM's task will say what it is
            if outputs.utility_output or not (outputs.outputs or outputs.scheduler_stats):
                return False
            try:
                take(outputs)
            except Exception as error:
                raised, ended, inbox.take = error, True, None
                client.outputs_queue.put_nowait(EngineDead())  # ends the wait below
            return True

        dead: Exception | None = None
        try:
            while dead is None:
                if inbox.is_waited_for and not ended:
                    inbox.take = take_step
                try:
                    outputs = await client.get_output_async()
                except Exception as error:  # whatever it is, there will be no more outputs
                    dead = error
                else:
                    take(outputs)
        finally:
            inbox.take = None
        if raised is not None:
            raise raised
        raise EngineDead from dead
