"""The blocking client, in a thread beside the server's event loop."""

import asyncio
import signal
import sys
import threading
from collections.abc import Generator

import grpc
import pytest

from tests.clients.script import STREAM_ID, Fail, answer, deltas, reason, retry_in, started
from tests.clients.scripted import ScriptedService
from tests.service.running import eventually
from tokenstream_client import (
    Busy,
    Cancelled,
    Client,
    ClientOptions,
    Delta,
    Event,
    Finished,
    InvalidRequest,
    NotFound,
    Started,
    Stream,
)


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
        with Client(service.target, options=ClientOptions(max_attempts=1)) as client:
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


async def test_threads_share_one_session(service: ScriptedService) -> None:
    service.script = answer(*"abcdef")

    def use(client: Client) -> str:
        return "".join(client.generate("Hi").text())

    with Client(service.target) as client:
        texts = await asyncio.gather(*(asyncio.to_thread(use, client) for _ in range(10)))
    assert texts == ["abcdef"] * 10
    assert service.calls == ["Session"]


async def test_a_reader_that_pauses_is_sent_no_more_than_its_window(
    service: ScriptedService,
) -> None:
    texts = [f"{n} " for n in range(50)]
    service.script = answer(*texts)

    def use(client: Client) -> None:
        events = iter(client.generate("Hi"))
        kept.append(events)
        next(events)
        next(events)

    kept: list[Generator[Event, None, None]] = []
    options = ClientOptions(window_tokens=10)
    with Client(service.target, options=options) as client:
        await asyncio.to_thread(use, client)
        await eventually(lambda: service.sessions[0].playing[1].delivered == 10)
        assert [frame.WhichOneof("action") for frame in service.frames] == ["start"]
        rest = await asyncio.to_thread(list, kept[0])
        assert [event.text for event in rest if isinstance(event, Delta)] == texts[1:]


async def test_an_interrupt_while_waiting_closes_the_stream(service: ScriptedService) -> None:
    script = """if True:
        import sys
        from tokenstream_client import Client
        client = Client(sys.argv[1])
        try:
            for event in client.generate("Hi"):
                print("event", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.stdin.readline()
    """
    service.script = [started(), asyncio.Event()]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        service.target,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"event\n"
    process.send_signal(signal.SIGINT)
    assert await process.stdout.readline() == b"interrupted\n"
    await asyncio.wait_for(service.cancelled.wait(), 5)
    # Nor does a client that nobody closed hold the process up.
    await asyncio.wait_for(process.communicate(b"\n"), 10)
    assert process.returncode == 0


async def test_a_client_that_was_closed_takes_no_more_calls(service: ScriptedService) -> None:
    service.script = [started(), asyncio.Event()]

    def use() -> None:
        client = Client(service.target)
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.list_models()
        client = Client(service.target)
        stream = client.generate("Hi")
        events = iter(stream)
        next(events)
        client.close()
        client.close()
        with pytest.raises((Cancelled, RuntimeError)):
            next(events)
        with pytest.raises(RuntimeError, match="closed"):
            client.generate("Hi")

    before = threading.active_count()
    await asyncio.to_thread(use)
    assert threading.active_count() <= before + 1  # that of to_thread stays


async def test_closing_wakes_a_reader_in_another_thread(service: ScriptedService) -> None:
    service.script = [started(), asyncio.Event()]
    client = Client(service.target)

    def read() -> None:
        list(client.generate("Hi"))

    reading = asyncio.create_task(asyncio.to_thread(read))
    await service.arrived.wait()
    await asyncio.to_thread(client.close)
    with pytest.raises(Cancelled):
        await reading


async def test_a_stream_is_stopped_and_resumed_as_with_asyncio(service: ScriptedService) -> None:
    service.script = [*answer("a", "b")[:-1], asyncio.Event()]

    def use() -> None:
        with Client(service.target) as client:
            stream = client.generate("Hi", on_disconnect="detach")
            for event in stream:
                if isinstance(event, Delta):
                    break
            assert stream.started is not None
            resumed = client.resume(
                stream.started.stream_id, next_token_index=stream.next_token_index
            )
            kinds = []
            for event in resumed:
                kinds.append(type(event))
                if isinstance(event, Delta):
                    resumed.stop()
            assert kinds == [Started, Delta, Finished]
            with pytest.raises(InvalidRequest):
                client.generate("Hi", max_tokens=-1)

    await asyncio.to_thread(use)
