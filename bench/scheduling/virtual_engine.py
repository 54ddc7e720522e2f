"""vLLM's engine core, its scheduler and KV accounting included, on a clock that does not wait.

The engine core is the real one, without its process and sockets; its executor is the simulated one.
A step's duration passes by moving the clock, so a minute of load takes as long as the scheduling of
its steps does, and the same trace gives the same result on any machine.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import demo_model
from bench.simulation import Simulation


class VirtualClock:
    """Seconds from 0 that pass when somebody waits. See `simulated_executor.Clock`."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def wait_until(self, moment: float) -> None:
        """Let it be that late."""
        self._now = max(self._now, moment)


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """What is the same for both schedulers, and which one it is.

    `scheduler`: its full name; None is vLLM's own. `scheduler_config`: our scheduler's settings.
    """

    simulation: Simulation
    max_num_seqs: int
    scheduler: str | None = None
    scheduler_config: dict[str, Any] | None = None
    max_num_active_seqs: int | None = None
    batched_tokens: int = 2048
    watermark: float | None = None
    max_model_len: int = 2048

    def engine_args(self) -> dict[str, Any]:
        """vLLM's engine arguments."""
        args = self.simulation.engine_args() | {
            "load_format": "dummy",
            "enforce_eager": True,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.batched_tokens,
            "enable_prefix_caching": False,
            "model": str(demo_model.path()),
        }
        if self.max_num_active_seqs is not None:
            args["max_num_active_seqs"] = self.max_num_active_seqs
        if self.watermark is not None:
            args["watermark"] = self.watermark
        if self.scheduler is not None:
            args["scheduler_cls"] = self.scheduler
        if self.scheduler_config is not None:
            args["additional_config"] |= {"tokenstream": self.scheduler_config}
        return args


@dataclass(frozen=True, slots=True)
class Decoded:
    """One request's part of a step's output: its new tokens, and whether it has ended."""

    request_id: str
    tokens: tuple[int, ...]
    finished: bool


class VirtualEngine:
    """One engine on a clock of its own."""

    def __init__(self, setup: EngineSetup) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.core import EngineCore

        from bench.simulated_executor import SimulatedExecutor

        self.clock = clock = VirtualClock()
        config = AsyncEngineArgs(**setup.engine_args()).create_engine_config(
            UsageContext.ENGINE_CONTEXT
        )
        # vLLM's CPU platform switches it off; the executor switches it on again, but later than
        # the number of batches in flight is asked for.
        config.scheduler_config.async_scheduling = True
        executor = type("VirtualExecutor", (SimulatedExecutor,), {"clock": clock})
        self.core = EngineCore(config, executor, log_stats=False)
        self.scheduler = self.core.scheduler
        if hasattr(self.scheduler, "clock"):
            self.scheduler.clock = clock.now

    def add(
        self,
        request_id: str,
        prompt: Sequence[int],
        output_tokens: int,
        extra_args: dict[str, Any] | None = None,
    ) -> None:
        """Queue a request that answers with so many tokens."""
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        params = SamplingParams(
            max_tokens=output_tokens, ignore_eos=True, extra_args=extra_args, detokenize=False
        )
        request = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=list(prompt),
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=self.clock.now(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self.core.add_request(*self.core.preprocess_add_request(request))

    def abort(self, request_id: str) -> None:
        """End a request that its caller has given up; no matter if it has ended."""
        self.core.abort_requests([request_id])

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.core.batch_queue) or self.scheduler.has_requests()

    def step(self) -> tuple[list[Decoded], bool]:
        """One turn of vLLM's loop. Returns what came out, and whether anything was computed."""
        if hasattr(self.scheduler, "readers_moved"):
            self.scheduler.readers_moved((), ())  # a service that is there says so all the time
        outputs, executed = self.core.step_fn()
        decoded = [
            Decoded(o.request_id, tuple(o.new_token_ids), o.finish_reason is not None)
            for batch in (outputs or {}).values()
            for o in batch.outputs
        ]
        return decoded, executed

    def close(self) -> None:
        """Give back what vLLM keeps for a process's life."""
        self.core.shutdown()
        gc.unfreeze()
