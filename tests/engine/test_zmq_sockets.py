"""Our sockets in the place of vLLM's, over real ones."""

import asyncio
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import zmq
import zmq.asyncio

from service.engine.zmq_sockets import Inbox, Receiver, Sender

PATIENCE_S = 10.0
_addresses = itertools.count()


@dataclass
class Wire:
    """The engine's ends, and the sockets that vLLM makes for its client."""

    engine_out: zmq.Socket[bytes]
    engine_in: zmq.Socket[bytes]
    output: zmq.asyncio.Socket
    input: zmq.asyncio.Socket


@pytest.fixture
def wire() -> Iterator[Wire]:
    context = zmq.asyncio.Context(1)
    plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
    address = f"inproc://{next(_addresses)}"
    output, input_ = context.socket(zmq.PULL), context.socket(zmq.ROUTER)
    output.bind(address + "/out")
    input_.bind(address + "/in")
    engine_out, engine_in = plain.socket(zmq.PUSH), plain.socket(zmq.DEALER)
    engine_in.setsockopt(zmq.IDENTITY, b"engine")
    engine_out.connect(address + "/out")
    engine_in.connect(address + "/in")
    engine_in.send(b"ready")
    zmq.Socket.shadow(input_.underlying).recv_multipart()
    yield Wire(engine_out, engine_in, output, input_)
    for end in (engine_out, engine_in, output, input_):
        end.close(0)
    context.term()


async def received(receiver: Receiver) -> list[bytes]:
    async with asyncio.timeout(PATIENCE_S):
        return [bytes(frame) for frame in await receiver.recv_multipart(copy=False)]


async def test_messages_that_are_there_are_taken_at_once_and_in_order(wire: Wire) -> None:
    receiver = Receiver.in_place_of(wire.output)
    for number in range(100):
        wire.engine_out.send_multipart([b"%d" % number, b"second"])
    for number in range(100):
        assert await received(receiver) == [b"%d" % number, b"second"]
    receiver.close(0)


async def test_a_message_that_is_not_there_is_waited_for_again_and_again(wire: Wire) -> None:
    receiver = Receiver.in_place_of(wire.output)
    for number in range(50):
        waiting = asyncio.create_task(received(receiver))
        for _ in range(number % 3):  # it comes before, while and after the waiting begins
            await asyncio.sleep(0)
        wire.engine_out.send_multipart([b"%d" % number])
        assert await waiting == [b"%d" % number]
    receiver.close(0)


async def test_several_messages_behind_one_signal_are_all_taken(wire: Wire) -> None:
    receiver = Receiver.in_place_of(wire.output)
    for _ in range(20):
        waiting = asyncio.create_task(received(receiver))
        await asyncio.sleep(0)
        for number in range(5):
            wire.engine_out.send_multipart([b"%d" % number])
        assert await waiting == [b"0"]
        for number in range(1, 5):
            assert await received(receiver) == [b"%d" % number]
    receiver.close(0)


async def test_a_wait_that_is_cancelled_loses_no_message(wire: Wire) -> None:
    receiver = Receiver.in_place_of(wire.output)
    waiting = asyncio.create_task(received(receiver))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    wire.engine_out.send_multipart([b"later"])
    assert await received(receiver) == [b"later"]
    receiver.close(0)


async def test_between_two_messages_others_have_their_turn(wire: Wire) -> None:
    receiver = Receiver.in_place_of(wire.output)
    taken: list[int] = []
    turns = 0

    def take(frames: Sequence[Any]) -> bool:
        taken.append(turns)
        return True

    async def others() -> None:
        nonlocal turns
        while len(taken) < 5:
            turns += 1
            await asyncio.sleep(0)

    for _ in range(5):
        wire.engine_out.send(b"x")
    receiver.inbox.take = take
    waiting = asyncio.create_task(received(receiver))
    async with asyncio.timeout(PATIENCE_S):
        await others()
    assert len(set(taken)) == 5
    waiting.cancel()
    await asyncio.wait([waiting])
    receiver.close(0)


async def test_closed_between_two_messages_it_reads_no_more(wire: Wire) -> None:
    loop = asyncio.get_running_loop()
    failed: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failed.append(context))
    receiver = Receiver.in_place_of(wire.output)
    wire.engine_out.send(b"1")
    wire.engine_out.send(b"2")
    assert await received(receiver) == [b"1"]
    receiver.close(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert failed == []
    assert loop.remove_reader(receiver.inbox._file) is False


async def test_a_socket_that_broke_is_told_once_and_no_more_looked_at() -> None:
    class Broken:
        FD = os.eventfd(1)  # readable for ever

        def recv(self, flags: int, copy: bool) -> Any:
            raise zmq.ZMQError(zmq.ETERM)

    inbox = Inbox(Broken())
    with pytest.raises(zmq.ZMQError):
        async with asyncio.timeout(PATIENCE_S):
            await inbox.next()
    assert not inbox._kept
    assert asyncio.get_running_loop().remove_reader(inbox._file) is False
    os.close(inbox._file)


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["short", "long"])
async def test_what_is_sent_arrives_whole(wire: Wire, size: int) -> None:
    sender = Sender.in_place_of(wire.input)
    await sender.send_multipart((b"engine", b"\x00", b"x" * size), copy=False)
    assert wire.engine_in.poll(round(PATIENCE_S * 1000))
    assert wire.engine_in.recv_multipart() == [b"\x00", b"x" * size]
    sender.close(0)


async def test_closing_closes_the_socket_that_it_stands_for(wire: Wire) -> None:
    receiver, sender = Receiver.in_place_of(wire.output), Sender.in_place_of(wire.input)
    waiting = asyncio.create_task(received(receiver))
    await asyncio.sleep(0)
    receiver.close(0)
    sender.close(0)
    assert wire.output.closed
    assert wire.input.closed
    waiting.cancel()
    await asyncio.wait([waiting])
