"""The stream scheduler in vLLM's engine core on a virtual clock; every token is known."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from bench.known_tokens import seed_of
from bench.scheduling.virtual_engine import EngineSetup, VirtualEngine
from bench.simulation import Simulation

STREAM_SCHEDULER = "service.engine_core.scheduler.StreamScheduler"
BLOCK = 16  # tokens
STEP_S = 0.01
_IDLE_STEP_S = 0.001  # what vLLM sleeps after a step in which nothing ran
_MOST_STEPS = 5_000


@dataclass(frozen=True, slots=True)
class Setup(EngineSetup):
    """An engine's setup, with more of vLLM's arguments. `block_size`: tokens of a KV block."""

    block_size: int = BLOCK
    more: dict[str, Any] = field(default_factory=dict)

    def engine_args(self) -> dict[str, Any]:
        args = EngineSetup.engine_args(self)
        return args | {"block_size": self.block_size} | self.more


@dataclass(slots=True)
class Asked:
    """One request, and what came of it."""

    prompt: list[int]
    length: int
    seed: int  # of its known tokens
    tokens: list[int] = field(default_factory=list)
    end: Any = None  # vLLM's EngineCoreOutput, of the end
    added_at: float = 0.0
    first_token_at: float | None = None
    ended_at: float | None = None


class Engine:
    """One engine, what it was asked, and what it answered.

    Steps end when nothing has come of them for far longer than anything may take.
    """

    def __init__(
        self,
        *,
        places: int = 16,
        active: int | None = None,
        kv_tokens: int = 1 << 16,
        batched_tokens: int = 2048,
        two_in_flight: bool = True,
        scheduler: str = STREAM_SCHEDULER,
        more: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        simulation = Simulation(
            step_us=STEP_S * 1e6, kv_tokens=kv_tokens, async_scheduling=two_in_flight
        )
        self.known = simulation.tokens
        setup = Setup(
            simulation,
            max_num_seqs=places,
            max_num_active_seqs=active,
            scheduler=scheduler,
            scheduler_config={"high_mark": 32, "low_mark": 8} | settings,
            batched_tokens=batched_tokens,
            max_model_len=min(2048, kv_tokens - BLOCK),  # one block is vLLM's own
            more=more or {},
        )
        self._virtual = VirtualEngine(setup)
        self.core = self._virtual.core
        self.scheduler = self._virtual.scheduler
        self.clock = self._virtual.clock
        self.asked: dict[str, Asked] = {}
        self.computed: Counter[str] = Counter()  # tokens of prompts and outputs, by request
        self._count_what_is_computed()
        self._free_blocks = self.free_blocks
        self._number = 0

    # -- asking ------------------------------------------------------------------------------

    def ask(
        self, request_id: str, length: int, *, prompt_tokens: int = 8, prefix: int = 0, **said: Any
    ) -> Asked:
        """Queue a request for so many tokens.

        `prefix`: prompt tokens that all who have one share. `said`: what its caller declared.
        """
        self._number += 1
        prompt = self.known.prompt(0, prefix) if prefix else []
        prompt = prompt + self.known.prompt(self._number, prompt_tokens)
        extra = {"tokenstream": said} if said else None
        asked = self.asked[request_id] = Asked(
            prompt, length, seed_of(prompt), added_at=self.clock.now()
        )
        self._virtual.add(request_id, prompt, length, extra)
        return asked

    def tell(self, **positions: int) -> None:
        """Tell how far readers have come; without any, that the service is there."""
        self.scheduler.readers_moved(list(positions), list(positions.values()))

    def abort(self, *request_ids: str) -> None:
        """End requests as the service does."""
        self.core.abort_requests(list(request_ids))

    # -- stepping ----------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether vLLM's loop would make a step, or sleep until a message comes."""
        return self._virtual.has_work

    def step(self, *, heard: bool = True) -> bool:
        """One turn of vLLM's loop. `heard`: the service says first that it is there.

        Returns whether anything was computed.
        """
        if heard:
            self.tell()
        outputs, executed = self.core.step_fn()
        for batch in (outputs or {}).values():
            for output in batch.outputs:
                self._take(output)
        if not executed and self.scheduler.has_requests():
            self.clock.wait_until(self.clock.now() + _IDLE_STEP_S)
        return bool(executed)

    def until(
        self, condition: Callable[[], bool], *, heard: bool = True, most: int = _MOST_STEPS
    ) -> None:
        """Step until something is so; it has to be before all work is done."""
        for _ in range(most):
            if condition():
                return
            assert self.has_work, f"the engine sleeps: {self.scheduler.report()}"
            self.step(heard=heard)
        raise AssertionError(f"not in {most} steps: {self.scheduler.report()}")

    def rest(self, *, heard: bool = True) -> None:
        """Step until the engine sleeps."""
        self.until(lambda: not self.has_work, heard=heard)

    def until_ended(self, *request_ids: str, heard: bool = True) -> None:
        """Step until these have ended."""
        self.until(lambda: all(self.asked[i].end is not None for i in request_ids), heard=heard)

    def read(self, *request_ids: str) -> Iterator[None]:
        """Step until these have ended, while their readers take all that comes, as it comes."""
        wanted = {i: self.asked[i] for i in request_ids}
        for _ in range(_MOST_STEPS):
            wanted = {i: a for i, a in wanted.items() if a.end is None}
            if not wanted:
                return
            self.tell(**{i: len(a.tokens) for i, a in wanted.items()})
            assert self.has_work, f"the engine sleeps: {self.scheduler.report()}"
            self.step()
            yield
        raise AssertionError(f"not ended: {sorted(wanted)}, {self.scheduler.report()}")

    def read_all(self) -> None:
        """Let all readers take all there is, as often as anything comes, until all have ended."""
        for _ in self.read(*self.asked):
            pass

    # -- checking ----------------------------------------------------------------------------

    @property
    def report(self) -> dict[str, Any]:
        """The scheduler's own."""
        report: dict[str, Any] = self.scheduler.report()
        return report

    @property
    def free_blocks(self) -> int:
        """Of the KV cache."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def running(self) -> list[str]:
        """The ids of those that have a place, parked or not."""
        return [request.request_id for request in self.scheduler.running]

    def parked(self) -> set[str]:
        """The ids of those that wait for their readers and hold blocks."""
        return {request.request_id for request in self.scheduler._parking.requests}

    def check_exact(self, *request_ids: str) -> None:
        """Have all tokens of these (of all, without any) come, and are they the known ones?"""
        for request_id in request_ids or tuple(self.asked):
            asked = self.asked[request_id]
            assert asked.end is not None, f"{request_id} has no end"
            assert asked.end.finish_reason.name == "LENGTH", request_id
            assert asked.tokens == self.known.answer(asked.prompt, asked.length), request_id

    def check_nothing_left(self) -> None:
        """Is everything given back, once the engine has taken notice of the last end?"""
        self.rest()
        scheduler = self.scheduler
        assert not scheduler.requests
        assert not scheduler.running
        assert not scheduler._states
        assert not scheduler._parking.requests
        assert not scheduler._without_token
        assert not scheduler._given_up
        assert not scheduler.deferred_waiting
        waiting = scheduler.waiting
        assert len(waiting) == waiting.held == 0
        assert not waiting
        assert not waiting._lane_of
        assert not any((x.fresh, x.late, x.returning) for x in waiting._lanes.values())
        assert not scheduler._shares._requests
        assert self.free_blocks == self._free_blocks

    def _count_what_is_computed(self) -> None:
        execute = self.core.model_executor.execute_model

        def counted(scheduled: Any, **options: Any) -> Any:
            self.computed.update(scheduled.num_scheduled_tokens)
            return execute(scheduled, **options)

        self.core.model_executor.execute_model = counted

    def _take(self, output: Any) -> None:
        asked = self.asked[output.request_id]
        assert asked.end is None, f"{output.request_id}: something came after the end"
        asked.tokens.extend(output.new_token_ids)
        if output.new_token_ids and asked.first_token_at is None:
            asked.first_token_at = self.clock.now()
        # Not only at the end: a wrong token is found in the step that brought it.
        for position in range(len(asked.tokens) - len(output.new_token_ids), len(asked.tokens)):
            right = self.known.token(asked.seed, position)
            assert asked.tokens[position] == right, f"{output.request_id} at {position}"
        if output.finish_reason is not None:
            asked.end, asked.ended_at = output, self.clock.now()

    def close(self) -> None:
        """Give back what vLLM keeps for a process's life."""
        self._virtual.close()


@contextmanager
def engine(**options: Any) -> Iterator[Engine]:
    """An engine for one test. `runner`: 1 or 2, whose conventions vLLM's scheduler follows."""
    runner = options.pop("runner", 1)
    # vLLM collects garbage four times an engine, over all that it has imported: half a second.
    with patch("gc.collect", return_value=0):
        made = Engine(**options)
    assert not made.scheduler.use_v2_model_runner
    # The second runner itself needs a GPU; what it changes of the scheduler does not.
    made.scheduler.use_v2_model_runner = runner == 2
    try:
        yield made
    finally:
        with patch("gc.collect", return_value=0):
            made.close()


def ids(prefix: str, count: int) -> Sequence[str]:
    """Names of so many requests."""
    return [f"{prefix}{number}" for number in range(count)]
