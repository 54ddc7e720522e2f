"""The short form on vLLM's real CPU engine: half of the readers stall, in real time.

The real service over the demo model, twice: with our scheduler as it is, and with all its policies
switched off, which is vLLM's own order. A step has eight places; every other reader takes ten
tokens and then nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import demo_model
from bench.markdown import table
from service.app import Service
from service.config import ServiceSettings
from service.engine.vllm_client import VllmEngine
from tokenstream_client import ClientOptions
from tokenstream_client.aio import AsyncClient

_PLACES = 8
_READERS = 32
_TOKENS = 600
_STALLS_AFTER = 10
_POLICIES = ("flow_control", "pacing", "fair_shares", "deadlines")


@dataclass(frozen=True, slots=True)
class _Figures:
    """Of one service: seconds until the last live reader had all, tokens decoded for nobody."""

    seconds: float
    for_nobody: int

    @property
    def live_tokens_per_s(self) -> float:
        return _READERS // 2 * _TOKENS / self.seconds


def compare() -> str:
    """Run both. Returns a table."""
    off = asyncio.run(_measure(dict.fromkeys(_POLICIES, False), _PLACES))
    ours = asyncio.run(_measure({}, _READERS))
    rows = [("scheduler", "s until all live have theirs", "live tokens/s", "decoded for nobody")]
    rows += [
        (name, f"{f.seconds:.1f}", f"{f.live_tokens_per_s:.0f}", f"{f.for_nobody:,}")
        for name, f in (("policies off", off), ("ours", ours))
    ]
    rows.append(("ours, x", "", f"{ours.live_tokens_per_s / off.live_tokens_per_s:.2f}", ""))
    return table(rows)


async def _measure(scheduler_args: dict[str, bool], most_seqs: int) -> _Figures:
    # Who stalls has no window to speak of, so that what it has not taken is not on its way either.
    options = ClientOptions(window_tokens=_STALLS_AFTER)
    async with (
        _service(scheduler_args, most_seqs) as (service, address),
        AsyncClient(address) as client,
        AsyncClient(address, options=options) as stalling,
        asyncio.TaskGroup() as group,
    ):
        over, began = asyncio.Event(), time.monotonic()
        live = []
        for number in range(_READERS):
            if number % 2:
                group.create_task(_stall(stalling, number, over))
            else:
                live.append(group.create_task(_read(client, number)))
        await asyncio.gather(*live)
        figures = _Figures(time.monotonic() - began, service.directory.tokens_ahead)
        over.set()
    return figures


async def _read(client: AsyncClient, number: int) -> None:
    stream = client.generate(f"question {number}", max_tokens=_TOKENS, ignore_eos=True)
    async for _ in stream:
        pass


async def _stall(client: AsyncClient, number: int, until: asyncio.Event) -> None:
    stream = client.generate(f"question {number}", max_tokens=_TOKENS, ignore_eos=True)
    taken = 0
    async with stream:
        async for event in stream:
            taken += len(getattr(event, "token_ids", ()))
            if taken >= _STALLS_AFTER:
                await until.wait()  # inside the loop: behind it the client has left
                break


@asynccontextmanager
async def _service(
    scheduler_args: dict[str, bool], most_seqs: int
) -> AsyncIterator[tuple[Service, str]]:
    settings = ServiceSettings(
        listen="127.0.0.1:0",
        engine_args={"max_num_seqs": most_seqs, "max_num_active_seqs": _PLACES},
        scheduler_args=scheduler_args,
        drain_grace_s=1,
        stall_limit_s=600,  # who stalls stays
    )
    engine = VllmEngine(
        settings.model,
        settings.engine_args,
        settings.engine_log_level,
        demo_model.path(),
        settings.scheduler_settings,
    )
    service = Service(settings, engine)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(service.run(port.set_result))
    running.add_done_callback(lambda ended: port.cancel())
    with suppress(asyncio.CancelledError):
        await port
    if running.done():
        running.result()  # raises what kept it from starting
    try:
        yield service, f"127.0.0.1:{port.result()}"
    finally:
        service.stop()
        await running
