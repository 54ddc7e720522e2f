"""The bridge's metrics, for Prometheus: what it did, and what browsers say they saw."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway_sse.streaming.outcomes import Outcome

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)
_LAST = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600)
_GAP = (0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class GatewayMetrics:
    """In a registry of its own, so that tests see one bridge's only. Times are in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ended = Counter(
            "tokenstream_gateway_streams_total",
            "Streamed answers, by how they ended.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in Outcome:
            self._ended.labels(outcome.value)
        self._open = Gauge(
            "tokenstream_gateway_streams_open",
            "Streamed answers in progress.",
            registry=self.registry,
        )
        self._lingering = Gauge(
            "tokenstream_gateway_streams_lingering",
            "Streams whose client has just gone, and could come back.",
            registry=self.registry,
        )
        self._responses = Counter(
            "tokenstream_gateway_responses_total",
            "HTTP answers, by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._first_token = Histogram(
            "tokenstream_gateway_time_to_first_token_seconds",
            "From a request's arrival here to its first token's write.",
            buckets=_FIRST,
            registry=self.registry,
        )
        self._first_visible = Histogram(
            "tokenstream_gateway_perceived_first_token_seconds",
            "From the sending of a request to the first token on the screen, as browsers say.",
            buckets=_FIRST,
            registry=self.registry,
        )
        self._last_visible = Histogram(
            "tokenstream_gateway_perceived_last_token_seconds",
            "The same, to the last token.",
            buckets=_LAST,
            registry=self.registry,
        )
        self._longest_gap = Histogram(
            "tokenstream_gateway_perceived_longest_gap_seconds",
            "The longest time between two changes on the screen, as browsers say.",
            buckets=_GAP,
            registry=self.registry,
        )

    def watch(self, open_now: Callable[[], int], lingering: Callable[[], int]) -> None:
        """Ask these for the gauges."""
        self._open.set_function(open_now)
        self._lingering.set_function(lingering)

    def ended(self, outcome: Outcome) -> None:
        """Count an answer's end."""
        self._ended.labels(outcome.value).inc()

    def responded(self, route: str, status: int) -> None:
        """Count an HTTP answer."""
        self._responses.labels(route, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        """Note when an answer's first token went out."""
        self._first_token.observe(seconds)

    def perceived(self, first_s: float, last_s: float, longest_gap_s: float) -> None:
        """Note what a browser saw of one answer."""
        self._first_visible.observe(first_s)
        self._last_visible.observe(last_s)
        self._longest_gap.observe(longest_gap_s)
