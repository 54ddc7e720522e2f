"""Makes the Grafana dashboard of the chart: `python scripts/dashboard.py` writes it.

The JSON is made by hand, in the form that Grafana has kept since version 8: Grafana's own builder
library for Python calls itself alpha, and has a package for each of its versions.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

OUTPUT: Final = Path(__file__).parents[1] / "helm/tokenstream/dashboards/tokenstream.json"

_HERE: Final = 'job=~"$job", instance=~"$instance"'
_RATE: Final = "$__rate_interval"
_WIDTH: Final = 24
_HEIGHT: Final = 7
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. `unit`: as Grafana names it."""

    title: str
    what: str
    unit: str
    queries: Sequence[Query]
    stack: bool = False


def now(metric: str, by: str = "", labels: str = "") -> str:
    """A gauge's sum."""
    return f"sum{_by(by)}({metric}{{{_where(labels)}}})"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """A counter's rate a second."""
    return f"sum{_by(by)}(rate({metric}{{{_where(labels)}}}[{_RATE}]))"


def mean(histogram: str) -> str:
    """The mean of what was observed."""
    return f"{rate(histogram + '_sum')} / {rate(histogram + '_count')}"


def quantiles(histogram: str, *shares: float) -> list[Query]:
    """Of what was observed."""
    buckets = rate(f"{histogram}_bucket", "le")
    return [Query(f"histogram_quantile({s}, {buckets})", f"p{s * 100:g}") for s in shares]


def _by(by: str) -> str:
    return f" by ({by}) " if by else ""


def _where(labels: str) -> str:
    return f"{_HERE}, {labels}" if labels else _HERE


ROWS: Final[dict[str, Sequence[Panel]]] = {
    "Service": [
        Panel(
            "Streams",
            "Admitted streams, those of them without a token yet, and the limit.",
            "short",
            [
                Query(now("tokenstream_streams_running"), "running"),
                Query(now("tokenstream_streams_queued"), "queued"),
                Query(now("tokenstream_streams_detached"), "detached"),
                Query(now("tokenstream_streams_limit"), "limit"),
            ],
        ),
        Panel(
            "Requests by end",
            "How requests ended.",
            "reqps",
            [Query(rate("tokenstream_requests_total", "outcome"), "{{outcome}}")],
            stack=True,
        ),
        Panel(
            "Requests by tenant",
            "Whose requests ended; beyond a hundred tenants, others are one.",
            "reqps",
            [Query(rate("tokenstream_requests_total", "tenant"), "{{tenant}}")],
            stack=True,
        ),
        Panel(
            "Refusals",
            "Errors before a stream's start, by reason.",
            "reqps",
            [Query(rate("tokenstream_refusals_total", "reason"), "{{reason}}")],
            stack=True,
        ),
        Panel(
            "Ready replicas",
            "Replicas whose health says SERVING, and all.",
            "short",
            [
                Query(now("tokenstream_ready"), "ready"),
                Query(f"count(tokenstream_ready{{{_HERE}}})", "all"),
            ],
        ),
        Panel(
            "Builds",
            "Versions that run.",
            "short",
            [
                Query(
                    now("tokenstream_build_info", "version, engine, model"),
                    "{{version}} {{engine}}",
                ),
                Query(now("tokenstream_gateway_build_info", "version"), "bridge {{version}}"),
            ],
        ),
    ],
    "Latency": [
        Panel(
            "Time to first token",
            "From a request's arrival at the service to its first token.",
            "s",
            quantiles("tokenstream_time_to_first_token_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Time between tokens",
            "Each request's mean, as the engine brought them.",
            "s",
            quantiles("tokenstream_inter_token_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Request duration",
            "From arrival to end.",
            "s",
            quantiles("tokenstream_request_duration_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Event loop lag",
            "How late the event loops come round; above 20 ms streams stutter.",
            "s",
            [
                *quantiles("tokenstream_event_loop_lag_seconds", 0.5, 0.99),
                *[
                    Query(q.expr, f"bridge {q.legend}")
                    for q in quantiles("tokenstream_gateway_event_loop_lag_seconds", 0.5, 0.99)
                ],
            ],
        ),
    ],
    "Tokens and readers": [
        Panel(
            "Tokens delivered",
            "Output tokens a second, by tenant, when requests end.",
            "short",
            [Query(rate("tokenstream_tokens_delivered_total", "tenant"), "{{tenant}}")],
            stack=True,
        ),
        Panel(
            "Tokens a message",
            "Merging: the mean over requests, and over messages.",
            "short",
            [
                Query(mean("tokenstream_tokens_per_message"), "mean of requests"),
                Query(
                    f"{rate('tokenstream_tokens_delivered_total')}"
                    f" / {rate('tokenstream_messages_total')}",
                    "mean of messages",
                ),
            ],
        ),
        Panel(
            "Ahead of readers",
            "Tokens that were decoded and not taken, and tokens that readers may still be given.",
            "short",
            [
                Query(now("tokenstream_tokens_ahead_of_readers"), "ahead"),
                Query(now("tokenstream_credit_in_flight_tokens"), "credit"),
            ],
        ),
        Panel(
            "Buffered",
            "Bytes that wait for readers: tokens in the service, unsent bytes in the bridge.",
            "bytes",
            [
                Query(now("tokenstream_buffered_bytes"), "service"),
                Query(now("tokenstream_gateway_buffered_bytes"), "bridge"),
            ],
        ),
        Panel(
            "Stalls",
            "Readers that were ended for taking nothing, and tokens decoded for nobody.",
            "short",
            [
                Query(rate("tokenstream_readers_stalled_total"), "readers"),
                Query(rate("tokenstream_tokens_for_nobody_total"), "tokens for nobody"),
            ],
        ),
        Panel(
            "Parked",
            "Requests that wait for their readers in the engine, with and without KV blocks.",
            "short",
            [Query(now("tokenstream_scheduler_parked", "blocks"), "blocks {{blocks}}")],
            stack=True,
        ),
    ],
    "Engine (vLLM)": [
        Panel(
            "Requests in the engine",
            "vLLM's own counts; running includes parked ones.",
            "short",
            [
                Query(now("vllm:num_requests_running"), "running"),
                Query(now("vllm:num_requests_waiting"), "waiting"),
            ],
        ),
        Panel(
            "KV cache",
            "Share of the KV cache in use.",
            "percentunit",
            [
                Query(
                    f"avg by (instance, engine) (vllm:kv_cache_usage_perc{{{_HERE}}})",
                    "{{instance}} {{engine}}",
                )
            ],
        ),
        Panel(
            "Prefix cache",
            "Prompt tokens looked up in the prefix cache, and found.",
            "short",
            [
                Query(rate("vllm:prefix_cache_queries_total"), "looked up"),
                Query(rate("vllm:prefix_cache_hits_total"), "found"),
            ],
        ),
        Panel(
            "Generated and preempted",
            "Tokens that the engine generated, and requests that lost their KV blocks.",
            "short",
            [
                Query(rate("vllm:generation_tokens_total"), "tokens"),
                Query(rate("vllm:num_preemptions_total"), "preemptions"),
            ],
        ),
    ],
    "Bridge": [
        Panel(
            "Answers and connections",
            "Answers in progress, those that linger for a client to come back, and connections.",
            "short",
            [
                Query(now("tokenstream_gateway_streams_open"), "answers"),
                Query(now("tokenstream_gateway_streams_lingering"), "lingering"),
                Query(now("tokenstream_gateway_connections_open"), "connections"),
            ],
        ),
        Panel(
            "Answers by end",
            "How answers ended.",
            "reqps",
            [Query(rate("tokenstream_gateway_streams_total", "outcome"), "{{outcome}}")],
            stack=True,
        ),
        Panel(
            "HTTP responses",
            "By status.",
            "reqps",
            [Query(rate("tokenstream_gateway_responses_total", "status"), "{{status}}")],
            stack=True,
        ),
        Panel(
            "Refusals",
            "Errors that were answered, by reason.",
            "reqps",
            [Query(rate("tokenstream_gateway_refusals_total", "reason"), "{{reason}}")],
            stack=True,
        ),
        Panel(
            "First token",
            "From a request's arrival at the bridge to its first token's write; to the screen, as"
            " browsers say that agreed to.",
            "s",
            [
                *quantiles("tokenstream_gateway_time_to_first_token_seconds", 0.5, 0.99),
                *[
                    Query(q.expr, f"seen {q.legend}")
                    for q in quantiles("tokenstream_gateway_perceived_first_token_seconds", 0.5)
                ],
            ],
        ),
        Panel(
            "Tokens",
            "Output tokens a second that the bridge took for clients.",
            "short",
            [Query(rate("tokenstream_gateway_tokens_total"), "tokens")],
        ),
    ],
    "Processes": [
        Panel(
            "CPU",
            "Cores of each frontend process, the engine's own not included.",
            "short",
            [Query(rate("process_cpu_seconds_total", "job, instance"), "{{job}} {{instance}}")],
        ),
        Panel(
            "Memory",
            "Resident memory of each frontend process.",
            "bytes",
            [Query(now("process_resident_memory_bytes", "job, instance"), "{{job}} {{instance}}")],
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """Return the whole of it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        per_line = 3 if len(row) % 3 == 0 else 2
        for number, panel in enumerate(row):
            line, column = divmod(number, per_line)
            width = _WIDTH // per_line
            place = {"h": _HEIGHT, "w": width, "x": width * column, "y": y + _HEIGHT * line}
            panels.append(_panel(panel, len(panels) + 1, place))
        y += _HEIGHT * -(-len(row) // per_line)
    return {
        "uid": "tokenstream",
        "title": "tokenstream",
        "description": "The service, its engine and the bridge (docs/metrics.md).",
        "tags": ["tokenstream", "vllm"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.what,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {
                    "drawStyle": "line",
                    "fillOpacity": 20 if panel.stack else 0,
                    "lineWidth": 1,
                    "showPoints": "never",
                    "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
                },
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    metrics = '{__name__=~"tokenstream_ready|tokenstream_gateway_build_info"}'

    def labels(name: str, query: str) -> dict[str, Any]:
        return {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "hide": 0,
        }

    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
            "current": {},
        },
        labels("job", f"label_values({metrics}, job)"),
        labels("instance", f'label_values({{job=~"$job", {metrics[1:]}, instance)'),
    ]


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(text())
    sys.stdout.write(f"{OUTPUT}\n")
