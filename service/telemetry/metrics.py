"""The service's metrics, for Prometheus; docs/metrics.md lists them all.

What happens per request is counted when the request ends, never per token or per message. What can
be looked up is looked up when somebody asks (`refresh`), on the event loop that owns it.
"""

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from service.domain import EngineFigures, SchedulerReport
from service.errors import ServiceError
from service.telemetry.engine_metrics import EngineMetrics
from service.telemetry.labels import BoundedLabels
from service.telemetry.outcomes import Outcome
from service.telemetry.scheduler_metrics import SchedulerMetrics

# Each tenant is 15 series of outcomes and 2 more; those behind these many share the label "other".
MOST_TENANTS: Final = 100

_NOBODY: Final = ""  # the tenant of those who are not known

_LAG = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
_WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_MERGED = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512, 1024)


class StreamMetrics:
    """Metrics of the streams, in a registry of their own so that tests see one service's only."""

    def __init__(self) -> None:
        # Of every series it would make a second one, for when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._looked_up: list[tuple[Gauge, Callable[[], float]]] = []
        self.tenants = BoundedLabels(MOST_TENANTS + 1)  # and nobody

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"tokenstream_{name}", what, registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"tokenstream_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"tokenstream_{name}", what, buckets=buckets, registry=registry)

        self._ended = counter(
            "requests_total",
            "Generation requests, in calls and in sessions, by how they ended and whose they were.",
            "outcome",
            "tenant",
        )
        self._tokens = counter(
            "tokens_delivered_total",
            "Output tokens of requests that have ended that were handed to the wire.",
            "tenant",
        )
        self._prompt_tokens = counter(
            "prompt_tokens_total",
            "Prompt tokens of requests that had a token and have ended.",
            "tenant",
        )
        # By label; looking a series up by its labels costs as much as counting three times.
        self._of_tenants: dict[str, _Tenant] = {}
        self._messages = counter(
            "messages_total",
            "Messages with tokens, or a session's parts of one, of requests that have ended.",
        )
        self._refusals = counter(
            "refusals_total",
            "Requests and reads that ended in an error before their start, by its reason.",
            "reason",
        )
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", _FIRST
        )
        self.inter_token = histogram(
            "inter_token_seconds",
            "Mean time between two tokens of a request, as the engine brought them.",
            _BETWEEN,
        )
        self.request_duration = histogram(
            "request_duration_seconds",
            "From a request's arrival to its end, of those that had a token.",
            _WHOLE,
        )
        self.tokens_per_message = histogram(
            "tokens_per_message", "Mean number of tokens in a request's messages.", _MERGED
        )
        self.event_loop_lag = histogram(
            "event_loop_lag_seconds",
            "How much later than planned the event loop came round to a timer.",
            _LAG,
        )
        self.ready = gauge("ready", "1 while health says SERVING, else 0.")
        self.running = gauge("streams_running", "Streams that were admitted and have not ended.")
        self.limit = gauge("streams_limit", "Most streams that are admitted at once.")
        self.queued = gauge(
            "streams_queued", "Streams that were admitted and wait for their first token."
        )
        self.detached = gauge(
            "streams_detached",
            "Streams that run without a reader, until one comes back or their time is over.",
        )
        self.retained = gauge(
            "streams_retained", "Streams that have ended and can still be read again."
        )
        self.sessions = gauge("sessions_open", "Session calls that are open.")
        self.adaptive_delay = gauge(
            "adaptive_delay_seconds", "Delay of deltas whose request names none."
        )
        self.tokens_ahead = gauge(
            "tokens_ahead_of_readers",
            "Decoded tokens that readers have not taken, over all running streams.",
        )
        self.credit_in_flight = gauge(
            "credit_in_flight_tokens",
            "Tokens that were granted and not delivered yet, over all running streams with credit.",
        )
        self.buffered_bytes = gauge(
            "buffered_bytes",
            "Memory of the tokens that streams keep for their readers.",
        )
        self._tenant(_NOBODY)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Set a gauge to this at each `refresh`."""
        self._looked_up.append((gauge, value))

    def watch_count(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Let what is counted elsewhere be a metric; `value` is called from any thread."""
        self.registry.register(_CountedElsewhere(f"tokenstream_{name}", what, value))

    def watch_scheduler(self, report: Callable[[], SchedulerReport]) -> None:
        """Let the engine scheduler's figures be metrics too."""
        self.registry.register(SchedulerMetrics(report, self.tenants))

    def watch_engine(self, figures: Callable[[], EngineFigures]) -> None:
        """Let the engine's own figures be metrics too, under vLLM's names."""
        self.registry.register(EngineMetrics(figures))

    def tell_build(self, engine: str, model: str) -> None:
        """Say what is running, once that is known."""
        Gauge(
            "tokenstream_build_info",
            "Always 1; what is running.",
            ["version", "python", "engine", "model"],
            registry=self.registry,
        ).labels(version("tokenstream"), platform.python_version(), engine, model).set(1)

    def refresh(self) -> None:
        """Look up what is not counted; on the event loop."""
        for gauge, value in self._looked_up:
            gauge.set(value())

    def ended(self, outcome: Outcome, tenant: str = _NOBODY) -> None:
        """Count a request's end."""
        self._tenant(tenant).ended[outcome].inc()

    def delivered(self, tenant: str, prompt_tokens: int, tokens: int, messages: int) -> None:
        """Count what a request that had a token came to. `tokens` were delivered."""
        counts = self._tenant(tenant)
        counts.prompt_tokens.inc(prompt_tokens)
        counts.tokens.inc(tokens)
        if messages:
            self._messages.inc(messages)
            self.tokens_per_message.observe(tokens / messages)

    def refused(self, error: ServiceError) -> None:
        """Count an error before a stream's start."""
        self._refusals.labels(error.reason).inc()

    def count(self, outcome: Outcome) -> int:
        """How many requests ended so."""
        return int(
            sum(
                sample.value
                for family in self._ended.collect()
                for sample in family.samples
                if sample.name.endswith("_total") and sample.labels["outcome"] == outcome.value
            )
        )

    def _tenant(self, tenant: str) -> "_Tenant":
        """A tenant's series: all of them from the first on, so that a change is seen as one."""
        label = self.tenants.of(tenant)
        found = self._of_tenants.get(label)
        if found is None:
            found = self._of_tenants[label] = _Tenant(
                {outcome: self._ended.labels(outcome.value, label) for outcome in Outcome},
                self._prompt_tokens.labels(label),
                self._tokens.labels(label),
            )
        return found


@dataclass(frozen=True, slots=True)
class _Tenant:
    ended: Mapping[Outcome, Counter]
    prompt_tokens: Counter
    tokens: Counter


class _CountedElsewhere(Collector):
    def __init__(self, name: str, what: str, value: Callable[[], float]) -> None:
        self._name = name
        self._what = what
        self._value = value

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        yield CounterMetricFamily(self._name, self._what, value=self._value())
