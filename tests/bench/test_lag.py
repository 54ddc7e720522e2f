import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from bench import lag


class _Stalling(health_pb2_grpc.HealthServicer):
    """Answers at once, but the tenth question only after 200 ms."""

    asked = 0

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        self.asked += 1
        if self.asked == 10:
            time.sleep(0.2)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    add: Any = health_pb2_grpc.add_HealthServicer_to_server
    add(_Stalling(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_stall_counts_for_every_question_that_it_delayed(address: str) -> None:
    took = lag.ask(address, 0.6)
    assert len(took) == 30
    assert max(took) >= 0.2
    # 200 ms are ten questions' time; of those half waited 100 ms.
    assert sum(lateness >= 0.09 for lateness in took) >= 5


def test_the_services_own_histogram_is_read_between_two_moments() -> None:
    registry = CollectorRegistry()
    metric = Histogram(
        "tokenstream_event_loop_lag_seconds", "Lag.", buckets=(0.01, 0.1), registry=registry
    )
    metric.observe(5)
    before = lag.parsed(generate_latest(registry).decode())
    for late in (0.001,) * 98 + (0.05, 0.05):
        metric.observe(late)
    after = lag.parsed(generate_latest(registry).decode())
    assert lag.bound(before, after, 98) == 0.01
    assert lag.bound(before, after, 99) == 0.1


def test_without_the_histogram_there_is_no_figure() -> None:
    assert lag.parsed("# HELP other Other.\n# TYPE other counter\nother_total 1.0\n") == {}
    assert lag.bound({}, {}, 99) is None
