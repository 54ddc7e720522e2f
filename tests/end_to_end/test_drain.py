"""SIGTERM while 200 streams run. Real processes; the engine is simulated under vLLM's scheduler, or
scripted where it does not matter."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

import demo_model
from bench.simulation import Simulation
from tests.processes import PATIENCE_S, Part, bridge, free_port, running, service
from tests.service.running import Refusal
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]

STREAMS = 200
STEP_S = 0.02
TOKENS = 250  # five seconds of them
MANY_TOKENS = 1900
STARTS_WITHIN_S = 120.0
ENGINE_ENDS_WITHIN_S = 20.0


def scripted(folder: Path, **settings: str) -> AbstractAsyncContextManager[Part]:
    return service(folder / "service.log", STEP_S, log_format="json", **settings)


@asynccontextmanager
async def simulated(folder: Path, **settings: str) -> AsyncIterator[Part]:
    engine = Simulation(step_us=STEP_S * 1e6).engine_args() | {
        "load_format": "dummy",
        "enforce_eager": True,
        "max_model_len": 2048,
        "max_num_seqs": STREAMS,
    }
    async with running(
        ("-m", "tokenstream_cli.main", "serve"),
        folder / "service.log",
        "TOKENSTREAM_",
        {
            "model": str(demo_model.path()),
            "listen": f"127.0.0.1:{free_port()}",
            "engine_args": json.dumps(engine),
            "log_format": "json",
        }
        | settings,
        STARTS_WITHIN_S,
    ) as part:
        yield part


async def stream(channel: grpc.aio.Channel, number: int, tokens: int = TOKENS) -> int | Refusal:
    """Read a stream to its end: how many tokens it had, or what it failed with."""
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    sampling = pb.SamplingOptions(max_tokens=tokens, ignore_eos=True)
    count = 0
    try:
        async for message in stub.Generate(
            pb.GenerateRequest(text=f"What is {number}?", sampling=sampling)
        ):
            count += len(message.delta.token_ids)
            if message.HasField("finished"):
                assert message.finished.reason == pb.FINISH_REASON_LENGTH
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    return count


async def until_running(part: Part, streams: int) -> None:
    while (await metrics(part))["tokenstream_streams_running"] != streams:
        await asyncio.sleep(0.05)


async def metrics(part: Part) -> dict[str, float]:
    """Values by name; of those with several labels, the last."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://{part.settings['metrics_listen']}/metrics")).text
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


async def until_said(part: Part, words: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not any(words in line for line in part.lines):
            await asyncio.sleep(0.01)


async def health(channel: grpc.aio.Channel) -> int:
    request = health_pb2.HealthCheckRequest()
    stub: Any = health_pb2_grpc.HealthStub(channel)  # published without types
    return int((await stub.Check(request)).status)


def refused(answer: int | Refusal) -> bool:
    """Whether it is the refusal of a service that stops."""
    if isinstance(answer, int):
        return False
    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert answer.reason == "SERVICE_STOPPING"
    assert answer.retry_after_s is not None
    return True


@pytest.mark.engine
async def test_running_streams_all_complete_and_after_the_wait_no_new_one_is_taken(
    tmp_path: Path,
) -> None:
    async with (
        simulated(tmp_path, drain_wait_s="0.5", drain_grace_s="30") as part,
        grpc.aio.insecure_channel(part.settings["listen"]) as channel,
        httpx.AsyncClient(base_url=f"http://{part.settings['metrics_listen']}") as http,
    ):
        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        assert await health(channel) == serving
        old = [asyncio.create_task(stream(channel, number)) for number in range(STREAMS)]
        await until_running(part, STREAMS)
        while (told := await metrics(part))["vllm:num_requests_running"] != STREAMS:
            await asyncio.sleep(0.05)
        assert 0 < told["vllm:kv_cache_usage_perc"] <= 1
        assert told["vllm:prefix_cache_queries_total"] > 0
        assert told["vllm:generation_tokens_total"] > 0
        part.interrupt()
        while await health(channel) == serving:
            await asyncio.sleep(0.01)
        assert await health(channel) == not_serving
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200

        await until_said(part, "draining")
        new = await asyncio.gather(*(stream(channel, n) for n in range(20)))
        assert all(refused(answer) for answer in new)
        assert not any(task.done() for task in old), "they were to be running still"
        assert await asyncio.gather(*old) == [TOKENS] * STREAMS
        assert await part.ended(ENGINE_ENDS_WITHIN_S) == 0
    ends = [json.loads(line) for line in part.lines if '"request_ended"' in line]
    assert sum(line["outcome"] == "length" for line in ends) == STREAMS
    assert sum(line["outcome"] == "stopping" for line in ends) == len(new)


@pytest.mark.engine
async def test_streams_that_outlive_the_grace_are_told_so_and_none_hangs(tmp_path: Path) -> None:
    async with (
        simulated(tmp_path, drain_wait_s="0.1", drain_grace_s="0.5") as part,
        grpc.aio.insecure_channel(part.settings["listen"]) as channel,
    ):
        old = [asyncio.create_task(stream(channel, n, MANY_TOKENS)) for n in range(STREAMS)]
        await until_running(part, STREAMS)
        part.interrupt()
        async with asyncio.timeout(10):
            assert all(refused(answer) for answer in await asyncio.gather(*old))
        assert await part.ended(ENGINE_ENDS_WITHIN_S) == 0


@pytest.mark.parametrize("when", ["not_serving", "draining"])
async def test_a_second_signal_ends_it_at_once(tmp_path: Path, when: str) -> None:
    waits = {"not_serving": "600", "draining": "0.1"}
    async with (
        scripted(tmp_path, drain_wait_s=waits[when], drain_grace_s="600") as part,
        grpc.aio.insecure_channel(part.settings["listen"]) as channel,
    ):
        old = [asyncio.create_task(stream(channel, n, MANY_TOKENS)) for n in range(STREAMS)]
        await until_running(part, STREAMS)
        part.interrupt()
        await until_said(part, when)
        part.interrupt()
        async with asyncio.timeout(10):
            assert all(refused(answer) for answer in await asyncio.gather(*old))
        assert await part.ended() == 0


async def test_the_bridge_lets_its_answers_finish_too(tmp_path: Path) -> None:
    async with (
        scripted(tmp_path, drain_grace_s="30") as part,
        bridge(
            tmp_path / "bridge.log",
            part.settings["listen"],
            drain_wait_s="0.5",
            drain_grace_s="30",
            log_format="json",
        ) as bridged,
        httpx.AsyncClient(
            base_url=f"http://{bridged.settings['listen']}",
            timeout=30,
            limits=httpx.Limits(max_connections=None),
        ) as http,
    ):
        wanted = {"prompt": "What is it?", "max_tokens": 2 * TOKENS, "ignore_eos": True}
        path = "/v1/completions/stream"
        old = [asyncio.create_task(http.post(path, json=wanted)) for _ in range(STREAMS)]
        await until_running(part, STREAMS)
        bridged.interrupt()
        while (await http.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
        assert (await http.post(path, json=wanted | {"max_tokens": 1})).status_code == 200
        await until_said(bridged, "gateway stopping")
        new = await asyncio.gather(*(http.post(path, json=wanted) for _ in range(20)))
        assert {answer.status_code for answer in new} == {503}
        assert {answer.headers["retry-after"] for answer in new} == {"1"}
        assert not all(task.done() for task in old), "they were to be running still"
        whole = await asyncio.gather(*old)
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in whole)
        assert await bridged.ended() == 0
