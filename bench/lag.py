"""How late a server's event loop is: asked from outside, and what the service itself counts."""

import math
import time
import urllib.request
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

_EVERY_S = 0.02
_METRIC = "tokenstream_event_loop_lag_seconds"

Histogram = dict[float, float]  # upper bound: how many were not above it


def ask(address: str, seconds: float) -> list[float]:
    """Ask a server for its health every 20 ms, on a connection of its own.

    Returns each answer's time in seconds, from when its question was due: one that could only be
    asked late, because the answer before was late, counts from then.
    """
    took: list[float] = []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # published without types
        question = health_pb2.HealthCheckRequest()
        stub.Check(question, timeout=30)  # connects
        began = time.monotonic()
        for number in range(math.ceil(seconds / _EVERY_S)):
            due = began + number * _EVERY_S
            time.sleep(max(0.0, due - time.monotonic()))
            stub.Check(question, timeout=30)
            took.append(time.monotonic() - due)
    return took


def counted(metrics_address: str) -> Histogram:
    """Read the service's own histogram; empty where it has none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{metrics_address}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def parsed(page: str) -> Histogram:
    """Take the histogram from a page of metrics."""
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == f"{_METRIC}_bucket"
    }


def bound(before: Histogram, after: Histogram, percent: float) -> float | None:
    """Return the least bucket bound that `percent` of what was counted between does not exceed.

    None where nothing was.
    """
    between = {le: count - before.get(le, 0.0) for le, count in after.items()}
    total = max(between.values(), default=0.0)
    if not total:
        return None
    return min(le for le, count in between.items() if count >= total * percent / 100)
