"""What the bridge adds to the time to a first token: the same request, with it and without it.

While the bridge carries a load of its own, one request at a time is sent, in turn through the
bridge and straight to the service in a session, at moments that no step of the engine's favours.
"""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import markdown
from bench.dialects import dialect
from bench.dialects.dialect import Workload
from bench.http_wire import HttpWire
from bench.load import percentile
from bench.servers import Setup, bridge
from bench.simulation import Simulation
from tokenstream_client import Client, Delta

_STREAMS: Final = 256
_TOKENS: Final = 1900
_PROBES: Final = 120
_PAUSE_S: Final = 0.03
_FIRST_PROMPT: Final = 1_000_000  # none that the load has


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """Seconds to the first token, of the same requests."""

    direct: list[float]
    bridged: list[float]

    def added_ms(self, percent: float) -> float:
        """Return how much later a percentile is, in milliseconds."""
        return 1000 * (percentile(self.bridged, percent) - percentile(self.direct, percent))


def measure(log: Path, say: Callable[[str], None]) -> FirstTokens:
    """Measure. Raises `ProcessFailed`, `LoadFailed`."""
    setup = Setup(Simulation(step_us=20_000), streams=_STREAMS + 16, log=log)
    work = Workload(_STREAMS, _TOKENS, 32, max_delay_ms=50)
    with bridge(setup) as server:
        spoken = dialect("bridge")
        prompts = [work.known.prompt(n, work.prompt_tokens) for n in range(_STREAMS)]
        requests = spoken.requests(work, prompts, [str(n) for n in range(_STREAMS)])
        wire = HttpWire(server.address, "/v1/completions/stream")
        failed: list[Exception] = []

        def load() -> None:
            try:
                wire.run(requests, time.monotonic() + 120)
            except Exception as error:
                failed.append(error)

        loading = threading.Thread(target=load, daemon=True)
        loading.start()
        time.sleep(2.0)  # the burst of the load itself is over
        found = _probe(server.address, server.behind, work)
        in_time = loading.is_alive()
        wire.close()
        loading.join(10)
    if not in_time:
        raise RuntimeError(f"the load ended before the probes did: {failed}")
    say(f"added to the first token: {found.added_ms(50):.1f} ms p50, {found.added_ms(99):.1f} p99")
    return found


def render(found: FirstTokens) -> str:
    """Return the table."""
    rows = [
        (label, *(f"{1000 * percentile(values, p):.1f}" for p in (50, 90, 99)))
        for label, values in (
            ("straight to the service", found.direct),
            ("through the bridge", found.bridged),
        )
    ]
    head = ("time to the first token, ms, beside 256 streams", "p50", "p90", "p99")
    return markdown.table([head, *rows])


def _probe(bridged: str, direct: str, work: Workload) -> FirstTokens:
    chance = random.Random(7)  # noqa: S311 - moments, not secrets
    found = FirstTokens([], [])
    with Client(direct) as client:
        for number in range(2 * _PROBES):
            prompt = work.known.prompt(_FIRST_PROMPT + number, work.prompt_tokens)
            time.sleep(_PAUSE_S * chance.random())
            if number % 2:
                found.bridged.append(_by_http(bridged, prompt))
            else:
                found.direct.append(_by_session(client, prompt))
    return found


def _by_session(client: Client, prompt: list[int]) -> float:
    began = time.monotonic()
    stream = client.generate(prompt, max_tokens=2, temperature=0, ignore_eos=True, max_delay_ms=50)
    first = 0.0
    for event in stream:
        if isinstance(event, Delta) and not first:
            first = time.monotonic() - began
    return first


def _by_http(address: str, prompt: list[int]) -> float:
    body = {"token_ids": prompt, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
    (record,) = HttpWire(address, "/v1/completions/stream").run(
        [json.dumps(body).encode()], time.monotonic() + 30
    )
    at = next(at for at, piece in record.pieces if b'"token"' in piece)
    return at - record.sent_at
