"""The engine's own figures under vLLM's names, labels and meanings, for dashboards that know those.

vLLM's own `PrometheusStatLogger` is not used: it belongs to the one process-wide registry, and what
it does not hear of its frontend's work per token (latencies, tokens, ends) it would report as zeros
for ever. Here is what the engine tells, and nothing that would have to be guessed.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.domain import EngineFigures

_LABELS = ("model_name", "engine")


class EngineMetrics(Collector):
    """Collects from `figures`, which is called once for each collection, from any thread."""

    def __init__(self, figures: Callable[[], EngineFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """See `Collector`. Nothing before the engine has told something."""
        figures = self._figures()
        model, ranks = figures.model, figures.ranks
        if not ranks:
            return

        def gauge(name: str, what: str, values: Sequence[float]) -> Metric:
            family = GaugeMetricFamily(f"vllm:{name}", what, labels=_LABELS)
            for index, value in enumerate(values):
                family.add_metric((model, str(index)), value)
            return family

        def counter(name: str, what: str, values: Sequence[float]) -> Metric:
            family = CounterMetricFamily(f"vllm:{name}", what, labels=_LABELS)
            for index, value in enumerate(values):
                family.add_metric((model, str(index)), value)
            return family

        yield gauge(
            "num_requests_running",
            "Number of requests in model execution batches.",
            [r.running for r in ranks],
        )
        yield gauge(
            "num_requests_waiting",
            "Number of requests waiting to be processed.",
            [r.waiting + r.deferred for r in ranks],
        )
        by_reason = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason.",
            labels=(*_LABELS, "reason"),
        )
        for index, rank in enumerate(ranks):
            by_reason.add_metric((model, str(index), "capacity"), rank.waiting)
            by_reason.add_metric((model, str(index), "deferred"), rank.deferred)
        yield by_reason
        yield gauge(
            "kv_cache_usage_perc",
            "KV-cache usage. 1 means 100 percent usage.",
            [r.kv_cache_usage for r in ranks],
        )
        yield counter(
            "prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            [r.prefix_cache_queries for r in ranks],
        )
        yield counter(
            "prefix_cache_hits",
            "Prefix cache hits, in terms of number of cached tokens.",
            [r.prefix_cache_hits for r in ranks],
        )
        if any(r.drafts for r in ranks):
            yield counter(
                "spec_decode_num_drafts",
                "Number of spec decoding drafts.",
                [r.drafts for r in ranks],
            )
            yield counter(
                "spec_decode_num_draft_tokens",
                "Number of draft tokens.",
                [r.draft_tokens for r in ranks],
            )
            yield counter(
                "spec_decode_num_accepted_tokens",
                "Number of accepted tokens.",
                [r.accepted_tokens for r in ranks],
            )
        # Told by the scheduler and counted by the demultiplexer for all ranks together.
        for name, what, value in (
            (
                "num_preemptions",
                "Cumulative number of preemptions.",
                figures.preemptions,
            ),
            (
                "generation_tokens",
                "Number of generation tokens processed.",
                figures.generation_tokens,
            ),
        ):
            family = CounterMetricFamily(f"vllm:{name}", what, labels=_LABELS)
            family.add_metric((model, "0"), value)
            yield family
