"""A real Prometheus scrapes the service and the bridge while they work."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.dashboard import OUTPUT, dashboard, text
from service.admission.callers import key_line, new_key
from tests.processes import PATIENCE_S, bridge, free_port, service
from tokenstream_client import AsyncClient, TokenstreamError

_CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}
scrape_configs:
- {{job_name: service, static_configs: [{{targets: ["{service}"]}}]}}
- {{job_name: bridge, static_configs: [{{targets: ["{bridge}"]}}]}}
"""
_VARIABLES = {"$job": ".+", "$instance": ".+", "$__rate_interval": "5s"}
_STREAM = "/v1/completions/stream"


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str
    http: httpx.AsyncClient

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """An instant query's series."""
        for name, value in _VARIABLES.items():
            expr = expr.replace(name, value)
        response = await self.http.get(f"{self.url}/api/v1/query", params={"query": expr})
        assert response.status_code != 503, "it still starts"
        answer = response.json()
        assert answer["status"] == "success", (expr, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def counts(self, metric: str, *labels: str) -> dict[tuple[str, ...], int]:
        """What a counter says, by labels; without zeros."""
        found = await self.query(f"sum by ({', '.join(labels)}) ({metric})")
        return {
            tuple(series["metric"].get(label, "") for label in labels): int(float(value))
            for series in found
            if (value := series["value"][1]) != "0"
        }


@asynccontextmanager
async def prometheus(folder: Path, **targets: str) -> AsyncIterator[Prometheus]:
    """Start one and wait until it has seen both."""
    program = shutil.which("prometheus")
    assert program is not None, "there is no prometheus: scripts/test-tools installs it"
    (folder / "prometheus.yml").write_text(_CONFIG.format(**targets))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(timeout=5) as http:
            found = Prometheus(f"http://{address}", http)

            async def sees_both() -> bool:
                with suppress(httpx.TransportError, AssertionError):
                    return len(await found.query("up == 1")) == 2
                return False

            await until(sees_both)
            yield found
    finally:
        process.kill()
        await process.wait()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.1)


@dataclass
class Load:
    """Applies a load, and counts what came of it."""

    clients: dict[str, AsyncClient]
    http: httpx.AsyncClient
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[tuple[str]] = field(default_factory=Counter)
    refusals: Counter[tuple[str]] = field(default_factory=Counter)
    answers: Counter[tuple[str]] = field(default_factory=Counter)
    bridge_tokens: int = 0
    statuses: Counter[tuple[str]] = field(default_factory=Counter)

    async def apply(self) -> None:
        """About a second of it."""
        async with asyncio.TaskGroup() as group:
            for tenant in self.clients:
                for number in range(20):
                    group.create_task(self.answer(tenant, "abc" * (number + 1)))
                group.create_task(self.cancelled(tenant))
                group.create_task(self.refused(tenant))
            for number in range(10):
                group.create_task(self.through_the_bridge("xyz" * (number + 1)))
            group.create_task(self.refused_by_the_bridge())

    async def answer(self, tenant: str, prompt: str) -> None:
        stream = self.clients[tenant].generate(prompt, max_delay_ms=20)
        async for _ in stream:
            pass
        assert stream.finished is not None
        self.outcomes["stop", tenant] += 1
        self.tokens[tenant,] += stream.tokens_read

    async def cancelled(self, tenant: str) -> None:
        stream = self.clients[tenant].generate("ab", ignore_eos=True)
        async for _ in stream:
            if stream.tokens_read >= 20:
                await stream.stop()
        self.outcomes["cancelled", tenant] += 1
        self.tokens[tenant,] += stream.tokens_read

    async def refused(self, tenant: str) -> None:
        with pytest.raises(TokenstreamError):
            async for _ in self.clients[tenant].generate("a", model="another"):
                pass
        self.outcomes["refused", tenant] += 1
        self.refusals["MODEL_NOT_FOUND",] += 1

    async def through_the_bridge(self, prompt: str) -> None:
        response = await self.http.post(_STREAM, json={"prompt": prompt})
        assert response.text.endswith("data: [DONE]\n\n")
        (finished,) = [
            json.loads(line.removeprefix("data: "))
            for line in response.text.splitlines()
            if '"usage"' in line
        ]
        tokens = finished["usage"]["completion_tokens"]
        self.outcomes["stop", "web"] += 1
        self.tokens["web",] += tokens
        self.bridge_tokens += tokens
        self.answers["complete",] += 1
        self.statuses["200",] += 1

    async def refused_by_the_bridge(self) -> None:
        response = await self.http.post(_STREAM, json={"prompt": "a", "top_p": 7})
        assert response.status_code == 400
        self.outcomes["refused", "web"] += 1
        self.refusals["INVALID_REQUEST",] += 1
        self.answers["refused",] += 1
        self.statuses["400",] += 1


@pytest.mark.timeout(100)
async def test_prometheus_gets_what_the_load_counted_and_every_query_of_the_dashboard_has_series(
    tmp_path: Path,
) -> None:
    keys = {tenant: new_key() for tenant in ("acme", "bolt", "web")}
    key_file = tmp_path / "keys"
    key_file.write_text("".join(f"{key_line(t, k)}\n" for t, k in keys.items()))
    async with (
        service(tmp_path / "service.log", api_keys_file=str(key_file)) as served,
        bridge(tmp_path / "bridge.log", served.settings["listen"], api_key=keys["web"]) as bridged,
        prometheus(
            tmp_path,
            service=served.settings["metrics_listen"],
            bridge=bridged.settings["metrics_listen"],
        ) as prom,
        AsyncClient(served.settings["listen"], api_key=keys["acme"]) as acme,
        AsyncClient(served.settings["listen"], api_key=keys["bolt"]) as bolt,
        httpx.AsyncClient(base_url=f"http://{bridged.settings['listen']}", timeout=20) as http,
    ):
        load = Load({"acme": acme, "bolt": bolt}, http)
        for _ in range(3):  # so that there are changes to see between scrapes
            await load.apply()
            await asyncio.sleep(0.6)  # a scrape

        async def all_counted() -> bool:
            return (
                await prom.counts("tokenstream_requests_total", "outcome", "tenant")
                == load.outcomes
            )

        with suppress(TimeoutError):
            await until(all_counted)
        counts = prom.counts
        assert await counts("tokenstream_requests_total", "outcome", "tenant") == load.outcomes
        assert await counts("tokenstream_tokens_delivered_total", "tenant") == load.tokens
        assert await counts("tokenstream_refusals_total", "reason") == load.refusals
        assert await counts("tokenstream_gateway_streams_total", "outcome") == load.answers
        assert await counts("tokenstream_gateway_tokens_total") == {(): load.bridge_tokens}
        assert (
            await counts(f'tokenstream_gateway_responses_total{{route="{_STREAM}"}}', "status")
            == load.statuses
        )

        without = [
            (panel["title"], target["expr"])
            for panel in dashboard()["panels"]
            for target in panel.get("targets", ())
            if not await prom.query(target["expr"])
        ]
        assert without == []


def test_the_dashboard_is_the_one_that_the_script_makes() -> None:
    assert OUTPUT.read_text() == text(), "run `python scripts/dashboard.py`"


def test_no_panel_of_the_dashboard_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
