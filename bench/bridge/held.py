"""What an open answer costs the bridge in memory: thousands, each with a token a second."""

import json
import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import markdown
from bench.dialects.answers import token_text
from bench.dialects.dialect import Workload
from bench.http_wire import events
from bench.processes import cpu_s, peak_bytes, reset_peak
from bench.servers import Setup, bridge
from bench.simulation import Simulation
from bench.wire import LoadFailed, Pieces, connect

_TOKENS: Final = 1000  # of each, so that none ends while it is held
_SPARE: Final = 120
_BURST: Final = 256
_START_WITHIN_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class Held:
    """`grown_bytes`: of the bridge; `wrong`: answers that were not what they should be."""

    streams: int
    grown_bytes: int
    cpu_share: float
    tokens: int
    wrong: tuple[str, ...]

    @property
    def kilobytes(self) -> float:
        """Growth of the bridge's memory for each answer."""
        return self.grown_bytes / 1024 / self.streams


def measure(log: Path, say: Callable[[str], None], streams: int = 5000) -> Held:
    """Measure. Raises `ProcessFailed`, `LoadFailed`."""
    work = Workload(streams, _TOKENS, 32)
    setup = Setup(
        Simulation(step_us=1_000_000),
        streams=streams + _SPARE,
        log=log,
        batched_tokens=max(8192, streams * 33),
    )
    with bridge(setup, "--max-requests-per-client", str(streams + _SPARE)) as server:
        pid = server.frontends["bridge"]
        with _Holder(server.address, work) as holder:
            holder.begin(8)
            before = reset_peak(pid)
            holder.begin(streams)
            used = cpu_s(pid)
            holder.read(20)
            share = (cpu_s(pid) - used) / 20
            grown = peak_bytes(pid) - before
            tokens, wrong = holder.checked()
    say(f"{streams} answers held: {grown / 1024 / streams:.0f} KB each, {tokens} tokens came")
    return Held(streams, grown, share, tokens, wrong)


def render(held: Held) -> str:
    """Return the table."""
    head = ("answers held by the bridge", "streams", "KB/stream", "CPU")
    row = (
        "a token a second each",
        f"{held.streams:,}",
        f"{held.kilobytes:.0f}",
        f"{held.cpu_share:.0%}",
    )
    return markdown.table([head, row])


class _Holder:
    """Connections with an answer each."""

    def __init__(self, address: str, work: Workload) -> None:
        self._address = address
        self._work = work
        self._selector = selectors.DefaultSelector()
        self._answers: list[tuple[socket.socket, list[int], Pieces]] = []

    def __enter__(self) -> "_Holder":
        return self

    def __exit__(self, *_: object) -> None:
        for answer in self._answers:
            answer[0].close()
        self._selector.close()

    def begin(self, count: int) -> None:
        """Have so many in all, and wait until each has started."""
        while len(self._answers) < count:
            for _ in range(min(_BURST, count - len(self._answers))):
                self._send()
            deadline = time.monotonic() + _START_WITHIN_S
            while any(not pieces for _, _, pieces in self._answers[-_BURST:]):
                if time.monotonic() > deadline:
                    raise LoadFailed("not all answers have started")
                self.read(0.05)

    def read(self, seconds: float) -> None:
        """Take what comes."""
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(rest):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                data = connection.recv(65536)
                if not data:
                    raise LoadFailed("the bridge closed a connection")
                key.data.append((time.monotonic(), data))

    def checked(self) -> tuple[int, tuple[str, ...]]:
        """Return the tokens that came, and what is wrong."""
        tokens, wrong = 0, []
        for number, (_, prompt, pieces) in enumerate(self._answers):
            answer = "".join(map(token_text, self._work.known.answer(prompt, _TOKENS)))
            said = [json.loads(data) for _, data in events(pieces)]
            text = "".join(event.get("token", "") for event in said)
            ids = re.findall(rb"id: [^:\n]+:(\d+)\n", b"".join(piece for _, piece in pieces))
            tokens += int(ids[-1]) if ids else 0
            if not answer.startswith(text) or any("error" in event for event in said):
                wrong.append(f"answer {number}: {text[-40:]!r}")
        return tokens, tuple(wrong[:10])

    def _send(self) -> None:
        prompt = self._work.known.prompt(len(self._answers), self._work.prompt_tokens)
        body = json.dumps(
            {"token_ids": prompt, "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}
        ).encode()
        head = (
            f"POST /v1/completions/stream HTTP/1.1\r\nhost: {self._address}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection = connect(self._address)
        connection.sendall(head.encode() + body)
        pieces: Pieces = []
        self._answers.append((connection, prompt, pieces))
        self._selector.register(connection, selectors.EVENT_READ, pieces)
