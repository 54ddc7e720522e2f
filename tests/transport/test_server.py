from typing import Any, cast
from unittest.mock import MagicMock

from service.transport.server import _Methods
from tokenstream.v1 import generation_pb2_grpc, model_pb2_grpc


class Recorded:
    """What a server was given, by service."""

    def __init__(self) -> None:
        self.found_by_name = 0
        self.registered: dict[str, set[str]] = {}

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        self.found_by_name += len(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.registered[service] = set(handlers)


def test_calls_that_come_in_bursts_wait_in_queues_of_their_own_and_all_others_in_one() -> None:
    server = Recorded()
    methods = cast("Any", _Methods(cast("Any", server)))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(MagicMock(), methods)
    model_pb2_grpc.add_ModelServiceServicer_to_server(MagicMock(), methods)
    assert server.found_by_name == 2
    assert server.registered == {
        "tokenstream.v1.GenerationService": {"Generate", "Resume"},
        "tokenstream.v1.ModelService": set(),
    }
