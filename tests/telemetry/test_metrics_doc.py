"""docs/metrics.md lists what there is: names, types and labels, no more and no less."""

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric

from gateway_sse.metrics import GatewayMetrics
from service.domain import EngineFigures, EngineRank, SchedulerReport
from service.engine.scripted import ScriptedEngine
from service.errors import ModelNotFound
from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome
from tests.service.parts import Parts

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `([\w:]+)` \| (\w+) \|([^|]*)\|", re.M)
_STANDARD = ("process_", "python_gc_")
_GENERATED = {"le"}

Described = dict[str, tuple[str, frozenset[str]]]


def documented() -> Described:
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in _ROW.findall(PAGE.read_text())
    }


def described(metrics: Iterable[Metric]) -> Described:
    found: Described = {}
    for family in metrics:
        if family.name.startswith(_STANDARD):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - _GENERATED
        found[name] = (family.type, frozenset(labels))
    return found


async def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    parts = Parts(ScriptedEngine())
    metrics = parts.metrics
    metrics.watch_scheduler(lambda: SchedulerReport(shares={"acme": 1.0}))
    metrics.watch_engine(lambda: EngineFigures("m", (EngineRank(drafts=1),)))
    metrics.tell_build("engine", "model")
    metrics.refused(ModelNotFound("a", "b"))
    metrics.ended(Outcome.STOP, "acme")
    metrics.delivered("acme", 1, 1, 1)
    bridge = GatewayMetrics()
    bridge.refused("A")
    bridge.responded("/", 200)
    there = described([*metrics.registry.collect(), *bridge.registry.collect()])
    await parts.close()
    assert documented() == there


def test_behind_the_bound_tenants_are_one() -> None:
    metrics = StreamMetrics()
    for number in range(150):
        metrics.ended(Outcome.STOP, f"tenant-{number}")
        metrics.delivered(f"tenant-{number}", 1, 2, 1)
    assert metrics.count(Outcome.STOP) == 150
    registry: CollectorRegistry = metrics.registry
    value = registry.get_sample_value
    assert value("tokenstream_requests_total", {"outcome": "stop", "tenant": "tenant-99"}) == 1
    assert value("tokenstream_requests_total", {"outcome": "stop", "tenant": "other"}) == 50
    assert value("tokenstream_tokens_delivered_total", {"tenant": "other"}) == 100
    assert value("tokenstream_requests_total", {"outcome": "stop", "tenant": "tenant-100"}) is None


def test_behind_the_bound_reasons_are_one() -> None:
    metrics = GatewayMetrics()
    for number in range(150):
        metrics.refused(f"REASON_{number}")
    value = metrics.registry.get_sample_value
    assert value("tokenstream_gateway_refusals_total", {"reason": "other"}) == 50
