"""How many replicas of the service a scaler is told to want."""

from typing import Any

import pytest

from tests.helm.chart import OPEN, Values, render, the, with_values

QUEUED, RUNNING = "tokenstream_streams_queued", "tokenstream_streams_running"
SCRAPED: Values = {
    "metrics": {"serviceMonitor": {"enabled": True}},
    "networkPolicy": {"metricsFrom": [{"podSelector": {}}]},
}


def scaled(kind: str, more: Values | None = None) -> Any:
    autoscaling = {"enabled": True, "kind": kind, "keda": {"serverAddress": "http://p:9090"}}
    values = with_values(with_values(OPEN, SCRAPED), {"service": {"autoscaling": autoscaling}})
    values = with_values(values, {"service": {"autoscaling": more or {}}})
    name = "ScaledObject" if kind == "keda" else "HorizontalPodAutoscaler"
    return the(render(values), name, "service")["spec"]


def targets(kind: str, more: Values | None = None) -> dict[str, str]:
    """What is averaged, and its target."""
    spec = scaled(kind, more)
    if kind == "keda":
        return {t["metadata"]["query"]: t["metadata"]["threshold"] for t in spec["triggers"]}
    pods = [metric["pods"] for metric in spec["metrics"]]
    return {pod["metric"]["name"]: pod["target"]["averageValue"] for pod in pods}


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_running_requests_hold_the_replicas_that_emptied_the_queue(kind: str) -> None:
    """By the queue alone a replica goes as soon as it has helped, and comes again."""
    found = targets(kind, {"queuedRequestsPerReplica": 5, "runningRequestsPerReplica": 70})
    (queued,) = [target for query, target in found.items() if QUEUED in query]
    (running,) = [target for query, target in found.items() if RUNNING in query]
    assert (queued, running) == ("5", "70")


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_one_replica_goes_at_a_time_and_the_next_when_that_has_drained(kind: str) -> None:
    spec = scaled(kind)
    if kind == "keda":
        spec = spec["advanced"]["horizontalPodAutoscalerConfig"]
    down = spec["behavior"]["scaleDown"]
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 157}]
    assert down["stabilizationWindowSeconds"] == 600


def test_keda_takes_no_answer_for_no_answer_and_keeps_what_is_there() -> None:
    spec = scaled("keda", {"minReplicas": 2})
    assert [t["metadata"]["ignoreNullValues"] for t in spec["triggers"]] == ["false", "false"]
    assert spec["fallback"] == {
        "failureThreshold": 3,
        "replicas": 2,
        "behavior": "currentReplicasIfHigher",
    }
    assert "cooldownPeriod" not in spec, "it counts only on the way to zero replicas"


def test_queries_of_ones_own_take_the_place_of_the_sums() -> None:
    found = targets("keda", {"keda": {"query": "a", "runningQuery": "b"}})
    assert found == {"a": "8", "b": "192"}
