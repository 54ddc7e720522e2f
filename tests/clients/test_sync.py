"""The blocking client, in a thread beside the server's event loop."""

import asyncio
import threading

import grpc
import pytest

from tests.clients.script import STREAM_ID, Fail, answer, deltas, reason, retry_in, started
from tests.clients.scripted import ScriptedService
from tokenstream_client import Busy, Cancelled, Client, Delta, Finished, NotFound, Started, Stream


async def test_an_answer_arrives_as_events_and_as_text(service: ScriptedService) -> None:
    service.script = answer("Hel", "", "lo")

    def use() -> None:
        with Client(service.target) as client:
            kinds = [type(event) for event in client.generate("Hi")]
            assert kinds == [Started, Delta, Delta, Delta, Finished]
            with client.generate([1, 2]) as stream:
                assert list(stream.text()) == ["Hel", "lo"]
            assert stream.finished is not None

    await asyncio.to_thread(use)
    assert service.requests[0].text == "Hi"
    assert list(service.requests[1].token_ids.ids) == [1, 2]


@pytest.mark.parametrize("way", ["events", "text", "block"])
async def test_a_reader_that_leaves_early_cancels_the_call_on_the_service(
    service: ScriptedService, way: str
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]

    def use(client: Client) -> Stream:
        stream = client.generate("Hi")
        if way == "block":
            with stream:
                next(iter(stream))
        else:
            for _ in stream if way == "events" else stream.text():
                break
        return stream

    with Client(service.target) as client:
        # Kept: gRPC cancels a call that is collected, but nobody should depend on it.
        kept = await asyncio.to_thread(use, client)
        async with asyncio.timeout(1):
            await service.cancelled.wait()
        assert kept.started is not None


async def test_cancel_from_another_thread_ends_a_waiting_reader(service: ScriptedService) -> None:
    service.script = [started(), asyncio.Event()]

    def use() -> None:
        with Client(service.target) as client:
            stream = client.generate("Hi")
            events = iter(stream)
            next(events)
            threading.Timer(0.05, stream.cancel).start()
            with pytest.raises(Cancelled):
                next(events)

    await asyncio.to_thread(use)
    await asyncio.wait_for(service.cancelled.wait(), 1)


async def test_errors_are_those_of_the_asyncio_client(service: ScriptedService) -> None:
    details = [reason("TOO_MANY_STREAMS"), retry_in(1.5)]
    service.script = [Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details)]

    def use() -> None:
        with Client(service.target) as client:
            with pytest.raises(Busy) as caught:
                list(client.generate("Hi"))
            assert (caught.value.reason, caught.value.retry_after) == ("TOO_MANY_STREAMS", 1.5)
            with pytest.raises(NotFound):
                client.cancel("other")

    await asyncio.to_thread(use)


async def test_models_tokens_and_readiness(service: ScriptedService) -> None:
    def use() -> None:
        with Client(service.target) as client:
            (model,) = client.list_models()
            assert client.get_model("demo") == model
            assert client.tokenize("Hi", add_special_tokens=False) == (72, 105)
            assert client.detokenize((72, 105)) == "Hi"
            client.cancel(STREAM_ID)
            assert client.is_ready()

    await asyncio.to_thread(use)
    await service.set_serving(False)
    with Client(service.target) as client:
        assert not await asyncio.to_thread(client.is_ready)
