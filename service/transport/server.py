"""The gRPC server: its options, its services, its standard companions, and its health.

Keepalive: a peer that answers no ping for `KEEPALIVE_S + KEEPALIVE_TIMEOUT_S` is gone; clients may
ping as often as every ten seconds, also without a call.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from service.transport.generation_servicer import GenerationServicer
from service.transport.model_servicer import ModelServicer
from service.transport.tls import TlsFiles, server_credentials
from tokenstream.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

GENERATION_SERVICE = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
WHOLE_SERVER = ""  # the health protocol's name for it

KEEPALIVE_S = 30
KEEPALIVE_TIMEOUT_S = 10

MOST_PENDING_CALLS = 10_000

_COME_IN_BURSTS = ("Generate", "Resume")

# gRPC refuses what is larger by itself, without details; up to here we refuse it with them.
HARD_LIMIT_FACTOR = 4


class CannotListenError(Exception):
    """The address is taken, or is no address of this machine."""


def _options(max_request_bytes: int) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.max_receive_message_length", HARD_LIMIT_FACTOR * max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Calls that came and were not taken up yet: a burst of as many as the gate could hold.
        ("grpc.server.max_pending_requests", MOST_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MOST_PENDING_CALLS),
        ("grpc.so_reuseport", 0),  # two services on one port would share it silently
    )


class _Methods:
    """A server to the generated code that adds methods to it.

    That registers each method, too, for which gRPC's loop then awaits the next call by itself: with
    a dozen, every call of any pays for a dozen futures that are waited for anew. Here those are
    registered that come in bursts, so that no other call waits behind them.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """See `grpc.aio.Server`."""
        bursts = {name: handler for name, handler in handlers.items() if name in _COME_IN_BURSTS}
        self._server.add_registered_method_handlers(service, bursts)


class Server:
    """Listens from `start` on; says SERVING only between `serving` and `draining`."""

    def __init__(
        self, generation: GenerationServicer, models: ModelServicer, max_request_bytes: int
    ) -> None:
        self._server = grpc.aio.server(options=_options(max_request_bytes))
        self._health = health.aio.HealthServicer()
        methods: Any = _Methods(self._server)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(generation, methods)
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        described = (
            GENERATION_SERVICE,
            MODEL_SERVICE,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        )
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(described), methods
        )

    async def start(self, address: str, tls: TlsFiles | None = None) -> int:
        """Listen on `host:port`; port 0 takes a free one. Returns the port.

        Raises `CannotListenError`, and `TlsFilesError` where there are such files.
        """
        credentials = None if tls is None else server_credentials(tls)
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            why = "it is taken, or no address of this machine"
            raise CannotListenError(f"cannot listen on {address}: {why}") from error
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        return int(port)

    async def serving(self) -> None:
        """Tell health checks that requests are welcome."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def draining(self) -> None:
        """Tell health checks that no more requests are; for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give running ones `grace_s` seconds, then cut them off."""
        await self._server.stop(grace_s)

    async def _set(self, status: int) -> None:
        for service in (WHOLE_SERVER, GENERATION_SERVICE, MODEL_SERVICE):
            await self._health.set(service, status)
