"""A client that holds many streams open at once, and reads slowly where it is told to.

`python -m bench.hold '{"kind": …}'` warms the server up and writes `ready`. A line from standard
input has it begin all streams; it answers when the last has started. A second line has it end them
and answer with one line of JSON (`Held`).
"""

import json
import selectors
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.dialects import dialect
from bench.dialects.dialect import Workload
from bench.dialects.generate import PATH as GENERATE
from bench.dialects.generate import generate_request, read_stream
from bench.dialects.session import PATH as SESSION
from bench.dialects.session import Streams, start, take
from bench.dialects.stream import Stream
from bench.grpc_wire import Unframed
from bench.http2 import Connection, request_headers
from bench.load import Load
from bench.wire import LoadFailed, Pieces
from tokenstream.v1 import generation_pb2 as pb

_TICK_S = 0.05
_TICKS = 20  # in which every reader grants once: one token a second
_RECEIVE_BYTES = 256 * 1024
_START_WITHIN_S = 120.0
_BURST = 256


@dataclass(frozen=True, slots=True)
class Held:
    """What the streams brought until they were ended. `wrong` has at most ten entries."""

    tokens: int
    wrong: tuple[str, ...]


class Hold(ABC):
    """Streams on one connection."""

    def __init__(self, address: str, path: str, prompts: list[list[int]], work: Workload) -> None:
        self.connection = Connection(address)
        self._headers = request_headers(path, address)
        self._prompts = prompts
        self._work = work

    @abstractmethod
    def begin(self) -> None:
        """Start all streams."""

    @abstractmethod
    def started(self) -> int:
        """How many streams have started; also takes what has come."""

    @abstractmethod
    def tick(self) -> None:
        """Do what is due every 50 ms."""

    @abstractmethod
    def streams(self) -> list[Stream]:
        """What has come of each."""

    def held(self) -> Held:
        """Check every stream: it must be running, and have the right tokens so far."""
        streams = self.streams()
        told: list[str] = []
        for number, (stream, prompt) in enumerate(zip(streams, self._prompts, strict=True)):
            wrong = stream.wrong_while_running(self._work.known.answer(prompt, self._work.tokens))
            if wrong:
                told.append(f"stream {number}: {wrong}")
        return Held(sum(len(stream.tokens) for stream in streams), tuple(told[:10]))


class GenerateHold(Hold):
    """A Generate call for each stream, begun in bursts.

    gRPC refuses calls while more than 1,000 wait for the server to look at them.
    """

    def __init__(self, address: str, prompts: list[list[int]], work: Workload) -> None:
        super().__init__(address, GENERATE, prompts, work)
        self._calls: list[Pieces] = []

    def begin(self) -> None:
        """See `Hold`."""
        for prompt in self._prompts[len(self._calls) :][:_BURST]:
            self._calls.append([])
            stream = self.connection.open(self._headers, self._calls[-1])
            request = generate_request(self._work, prompt).SerializeToString()
            self.connection.send(stream, request, last=True)
        self.connection.flush()

    def started(self) -> int:
        """See `Hold`."""
        count = sum(bool(pieces) for pieces in self._calls)
        if count == len(self._calls):
            self.begin()
        return count

    def tick(self) -> None:
        """Nothing is: these readers take what comes."""

    def streams(self) -> list[Stream]:
        """See `Hold`."""
        return [read_stream(pieces) for pieces in self._calls]


class SessionHold(Hold):
    """All streams in one session, each with a first credit.

    `paced`: every reader then grants another token each second, a twentieth of them at a time.
    """

    def __init__(
        self, address: str, prompts: list[list[int]], work: Workload, credit: int, paced: bool
    ) -> None:
        super().__init__(address, SESSION, prompts, work)
        self._credit = credit
        self._paced = paced
        self._call = 0
        self._pieces: Pieces = []
        self._unframed = Unframed()
        self._streams = Streams({i: Stream() for i in range(1, len(prompts) + 1)})
        self._ticks = 0

    def begin(self) -> None:
        """See `Hold`."""
        self._call = self.connection.open(self._headers, self._pieces)
        for number, prompt in enumerate(self._prompts, 1):
            request = generate_request(self._work, prompt)
            request.stream.credit = self._credit
            self.connection.send(self._call, start(number, request))
        self.connection.flush()

    def started(self) -> int:
        """See `Hold`."""
        self._take()
        return sum(stream.started for stream in self._streams.values())

    def tick(self) -> None:
        """See `Hold`."""
        self._take()
        if not self._paced:
            return
        rounds, turn = divmod(self._ticks, _TICKS)
        self._ticks += 1
        ids = range(1 + turn, len(self._prompts) + 1, _TICKS)
        limits = [self._credit + rounds + 1] * len(ids)
        credit = pb.SessionCredit(ids=ids, token_limits=limits)
        self.connection.send(self._call, pb.SessionRequest(credit=credit).SerializeToString())
        self.connection.flush()

    def streams(self) -> list[Stream]:
        """See `Hold`."""
        self._take()
        granted = self._credit + -(-self._ticks // _TICKS)
        for stream in self._streams.values():
            stream.must(len(stream.tokens) <= granted, "more tokens than were granted")
        return list(self._streams.values())

    def _take(self) -> None:
        for at, piece in self._pieces:
            for message in self._unframed.take(piece):
                take(self._streams, at, message)
        self._pieces.clear()


class Reader:
    """Reads a hold's connection and standard input, and ticks."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._selector = selectors.DefaultSelector()
        self._selector.register(hold.connection.socket, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._told = False

    def until_told(self) -> None:
        """Read, and tick every 50 ms, until a line (or the end) comes on standard input."""
        while not self._told:
            self._turn(self._hold.tick)

    def until_started(self, count: int) -> None:
        """Read until so many streams have started. Raises `LoadFailed` if they do not."""
        deadline = time.monotonic() + _START_WITHIN_S
        while (started := self._hold.started()) < count:
            if time.monotonic() > deadline or self._hold.connection.is_idle:
                raise LoadFailed(f"only {started} of {count} streams have started")
            self._turn(lambda: None)

    def _turn(self, tick: Callable[[], None]) -> None:
        until = time.monotonic() + _TICK_S
        while (rest := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(rest):
                if key.fileobj is sys.stdin:
                    self._selector.unregister(sys.stdin)
                    self._told = True
                    continue
                data = self._hold.connection.socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise LoadFailed("the server closed the connection")
                self._hold.connection.receive(data, time.monotonic())
        tick()


def _made(told: dict[str, Any], work: Workload) -> Hold:
    address = told["address"]
    prompts = [work.known.prompt(n, work.prompt_tokens) for n in range(work.streams)]
    if told["kind"] == "generate":
        return GenerateHold(address, prompts, work)
    return SessionHold(address, prompts, work, told["credit"], told["paced"])


def main() -> int:
    """Run as told by the first argument; see the module's docstring."""
    told = json.loads(sys.argv[1])
    work = Workload.told(told["work"])
    few = replace(work, tokens=2)
    try:
        with Load(dialect(told["kind"]), told["address"], few, timeout_s=60) as load:
            load.warm_up()
        hold = _made(told, work)
        print("ready", flush=True)
        sys.stdin.readline()
        hold.begin()
        reader = Reader(hold)
        reader.until_started(work.streams)
        print("holding", flush=True)
        reader.until_told()
        held = hold.held()
        hold.connection.close()
        print(json.dumps(asdict(held)), flush=True)
    except (LoadFailed, OSError) as error:
        print(f"bench.hold: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
