import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from service.transport.server import GENERATION_SERVICE, MODEL_SERVICE, WHOLE_SERVER
from tests.conftest import Serve
from tests.service.running import Answer, RunningService, refusal, started
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import model_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = [WHOLE_SERVER, GENERATION_SERVICE, MODEL_SERVICE]


@pytest.mark.parametrize("name", NAMES)
async def test_a_check_and_a_watch_follow_loading_serving_and_draining(
    serve: Serve, name: str
) -> None:
    loaded = asyncio.Event()
    running = await serve(ScriptedEngine(step_s=None, loading=loaded), wait=False)
    watching = aiter(running.health.Watch(health_pb2.HealthCheckRequest(service=name)))
    assert await running.check_health(name) == NOT_SERVING
    assert (await anext(watching)).status == NOT_SERVING

    loaded.set()
    assert (await anext(watching)).status == SERVING
    assert await running.check_health(name) == SERVING

    call = running.generate("ab")
    await started(call)
    running.service.stop()
    assert (await anext(watching)).status == NOT_SERVING
    assert await running.check_health(name) == NOT_SERVING
    running.service.stop()


async def test_an_unknown_name_is_not_found(running: RunningService) -> None:
    request = health_pb2.HealthCheckRequest(service="tokenstream.v1.Nothing")
    assert (await refusal(running.health.Check(request))).code is grpc.StatusCode.NOT_FOUND


async def test_load_does_not_change_health(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=1)
    call = running.generate("ab")
    await started(call)
    assert (await refusal(running.generate("ab"))).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await running.check_health() == SERVING


async def test_requests_while_the_model_loads_are_told_when_to_come_back(serve: Serve) -> None:
    loaded = asyncio.Event()
    running = await serve(ScriptedEngine(loading=loaded), wait=False)
    calls = [
        running.generate("ab"),
        running.models.ListModels(model_pb2.ListModelsRequest()),
        running.models.GetModel(model_pb2.GetModelRequest()),
        running.models.Tokenize(model_pb2.TokenizeRequest(text="x")),
        running.models.Detokenize(model_pb2.DetokenizeRequest(token_ids=[1])),
    ]
    for call in calls:
        refused = await refusal(call)
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert refused.reason == "ENGINE_LOADING"
        assert refused.retry_after_s == 5.0
    cancel = running.generation.Cancel(pb.CancelRequest(stream_id="x"))
    assert (await refusal(cancel)).code is grpc.StatusCode.NOT_FOUND
    assert running.count(Outcome.UNAVAILABLE) == running.counted == 1
    assert running.engine.submitted == 0

    loaded.set()
    watching = running.health.Watch(health_pb2.HealthCheckRequest())
    async for response in watching:
        if response.status == SERVING:
            break
    watching.cancel()
    assert (await Answer().read(running.generate("ab"))).text == "ab"
