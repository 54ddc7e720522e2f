"""Steps past vLLM's task, in the order in which the engine sent them, over a real socket.

vLLM's client is a stand-in with the parts that `VllmOutputs` touches; its task is vLLM's in small.
What is the real one's is held in tests/engine/test_vllm_as_relied_on.py and by every test on a
real engine.
"""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zmq
import zmq.asyncio

from service.engine.vllm_client import VllmEngine
from service.engine.vllm_outputs import VllmOutputs
from service.errors import EngineDead

DEAD = b"dead"
_addresses = itertools.count()


class Decoder:
    """A frame is a step's number, with an `s` before it one of a step with statistics alone, with a
    `u` that of an answer to a call; anything else is broken.
    """

    def decode(self, frames: Sequence[Any]) -> Any:
        text = bytes(frames[0]).decode()
        kind, number = text.rstrip("0123456789"), int(text.lstrip("su"))
        return SimpleNamespace(
            outputs=[number] if kind == "" else [],
            utility_output=str(number) if kind == "u" else None,
            scheduler_stats=number if kind == "s" else None,
        )


def step_of(outputs: Any) -> int:
    """The number of a step."""
    return int(outputs.outputs[0] if outputs.outputs else outputs.scheduler_stats)


class Client:
    """A client of vLLM's, as far as outputs go."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self.resources = SimpleNamespace(output_queue_task=None, output_socket=socket)
        self.decoder = Decoder()
        self.outputs_queue: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: list[str] = []
        self.by_vllms_task: list[int] = []

    async def get_output_async(self) -> Any:
        if self.resources.output_queue_task is None:
            self.resources.output_queue_task = asyncio.create_task(self._process_outputs())
        outputs = await self.outputs_queue.get()
        if isinstance(outputs, Exception):
            raise outputs
        return outputs

    async def _process_outputs(self) -> None:
        try:
            while True:
                frames = await self.resources.output_socket.recv_multipart(copy=False)
                if bytes(frames[0]) == DEAD:
                    raise RuntimeError("the engine has died")
                outputs = self.decoder.decode(frames)
                if outputs.utility_output is not None:
                    self.answers.append(outputs.utility_output)
                else:
                    self.by_vllms_task.append(step_of(outputs))
                    self.outputs_queue.put_nowait(outputs)
        except Exception as error:
            self.outputs_queue.put_nowait(error)


class LooksAtSteps(Client):
    """As vLLM's for data parallelism."""

    async def process_engine_outputs(self, outputs: Any) -> None:
        """Only its being there counts."""


class Running:
    """Outputs that are being delivered."""

    def __init__(self, kind: type[Client]) -> None:
        context = zmq.asyncio.Context(1)
        plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
        address = f"inproc://outputs-{next(_addresses)}"
        socket = context.socket(zmq.PULL)
        socket.bind(address)
        self._engine = plain.socket(zmq.PUSH)
        self._engine.connect(address)
        self._context = context
        self.client = kind(socket)
        self.outputs = VllmOutputs(cast("Any", self.client))
        self.steps: list[int] = []
        self.fails_at: int | None = None

    def send(self, *messages: bytes | int) -> None:
        for message in messages:
            self._engine.send(message if isinstance(message, bytes) else b"%d" % message)

    def take(self, outputs: Any) -> None:
        if self.fails_at == step_of(outputs):
            raise ValueError("a bug") from KeyError("its cause")
        self.steps.append(step_of(outputs))

    async def until(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.steps) < number:
                await asyncio.sleep(0.001)

    def close(self) -> None:
        self._engine.close(0)
        self.client.resources.output_socket.close(0)
        self._context.term()


@pytest.fixture(params=[Client, LooksAtSteps])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(request.param)
    yield running
    running.close()


@pytest.fixture
def short() -> Iterator[Running]:
    running = Running(Client)
    yield running
    running.close()


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_steps_come_in_their_order_whatever_comes_between(running: Running) -> None:
    delivering = asyncio.create_task(running.outputs.deliver(running.take))
    for number in range(200):
        running.send(number if number % 3 else b"s%d" % number)
        if number % 7 == 0:
            running.send(b"u%d" % number)
        if number % 5 == 0:
            await asyncio.sleep(0)
    await running.until(200)
    assert running.steps == list(range(200))
    assert running.client.answers == [str(number) for number in range(0, 200, 7)]
    await ended(delivering)


async def test_a_step_that_vllms_task_was_already_given_is_not_overtaken(running: Running) -> None:
    running.send(0)
    running.take(await running.client.get_output_async())
    running.send(1, 2, 3)
    running.fails_at = 3
    inbox = running.client.resources.output_socket.inbox
    while inbox.is_waited_for:
        inbox._read()  # not by the event loop, in which vLLM's task would then have its turn
    with pytest.raises(ValueError, match="a bug"):
        async with asyncio.timeout(10):
            await running.outputs.deliver(running.take)
    assert running.steps == [0, 1, 2]


async def test_once_vllms_task_waits_it_sees_no_step_any_more(short: Running) -> None:
    delivering = asyncio.create_task(short.outputs.deliver(short.take))
    short.send(0)
    await short.until(1)
    seen = list(short.client.by_vllms_task)
    for number in range(1, 10):
        short.send(number if number % 3 else b"s%d" % number)
        await short.until(number + 1)
    assert short.client.by_vllms_task == seen
    await ended(delivering)


async def test_where_vllm_looks_at_steps_itself_it_sees_them_all() -> None:
    running = Running(LooksAtSteps)
    delivering = asyncio.create_task(running.outputs.deliver(running.take))
    for number in range(5):
        running.send(number)
        await running.until(number + 1)
    assert running.client.by_vllms_task == list(range(5))
    await ended(delivering)
    running.close()


@pytest.mark.parametrize("end", [DEAD, b"what nobody can decode"])
async def test_the_engines_death_is_told_behind_its_last_step(running: Running, end: bytes) -> None:
    delivering = asyncio.create_task(running.outputs.deliver(running.take))
    running.send(0)
    await running.until(1)
    running.send(1, end, 2)  # which is behind a hole
    with pytest.raises(EngineDead):
        await asyncio.wait_for(delivering, 10)
    assert running.steps == [0, 1]


async def test_what_taking_raises_ends_the_delivery_as_it_is(running: Running) -> None:
    delivering = asyncio.create_task(running.outputs.deliver(running.take))
    running.send(0)
    await running.until(1)
    running.fails_at = 1
    running.send(1, 2)
    with pytest.raises(ValueError, match="a bug") as raised:
        await asyncio.wait_for(delivering, 10)
    assert isinstance(raised.value.__cause__, KeyError)
    assert running.steps == [0]


async def test_cancelled_it_leaves_steps_to_vllms_queue(short: Running) -> None:
    delivering = asyncio.create_task(short.outputs.deliver(short.take))
    short.send(0)
    await short.until(1)
    await ended(delivering)
    short.send(1)
    outputs = await asyncio.wait_for(short.client.get_output_async(), 10)
    assert outputs.outputs == [1]
    assert short.steps == [0]


async def test_an_engine_that_does_not_run_delivers_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineDead):
        await VllmEngine("demo", {}, "error", tmp_path).deliver(lambda batch: None)
