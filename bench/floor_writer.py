"""The floor under every gRPC server in Python: grpc.aio handlers that only write.

`python -m bench.floor_writer HOST:PORT STEP_MS EVENT_LOOP`. Every call names a number of tokens and
gets so many messages, made beforehand and as large as ours with one token, one each step. One timer
wakes all handlers, as an engine's step would. Ends at SIGTERM.
"""

import asyncio
import signal
import sys
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from bench import event_loop
from tokenstream.v1 import generation_pb2

_MESSAGE = generation_pb2.GenerateResponse(
    delta=generation_pb2.Delta(first_token_index=100, token_ids=[300], text=" token")
).SerializeToString()


class Writer:
    """Writes to every call once a step."""

    def __init__(self) -> None:
        self._step = asyncio.Event()

    async def tick(self, step_s: float) -> None:
        """Wake all handlers every `step_s` seconds, until cancelled."""
        while True:
            await asyncio.sleep(step_s)
            self._step.set()
            self._step = asyncio.Event()

    async def write(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Answer a call."""
        for _ in range(int(request)):
            await self._step.wait()
            await context.write(_MESSAGE)


async def _main(address: str, step_s: float) -> None:
    writer = Writer()
    server = grpc.aio.server()
    add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    handler: Any = grpc.unary_stream_rpc_method_handler(writer.write)  # no (de)serializer: bytes
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("bench.Floor", {"Write": handler})]
    )
    server.add_insecure_port(address)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    ticking = asyncio.create_task(writer.tick(step_s))
    await stop.wait()
    ticking.cancel()
    await server.stop(0)


if __name__ == "__main__":
    event_loop.run(_main(sys.argv[1], float(sys.argv[2]) / 1000), sys.argv[3])
