"""An executor without a model, for vLLM 0.32: real scheduler, KV accounting and transport.

Given by name as `distributed_executor_backend` and resolved in the engine process. It loads no
weights and holds no cache; a step takes as long as `Simulation` says and samples the known tokens.
Rules:

1. One simulated device: steps run one after the other, each from when it was handed over or from
   the end of the step before, whichever is later. Waiting for one sleeps.
2. What a step samples: `sampled_step`.

Not simulated, and refused or without effect: speculative decoding, pipeline parallelism,
log-probabilities, structured output, LoRA.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import torch
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

from bench.sampled_step import Sampler
from bench.simulation import Simulation

_LAYER = "simulated"


class Clock(Protocol):
    """Seconds that only grow, and a way to let them pass."""

    def now(self) -> float:
        """Seconds since some moment."""

    def wait_until(self, moment: float) -> None:
        """Return when it is that late."""


class WallClock:
    """The machine's own time."""

    def now(self) -> float:
        """Return the monotonic clock's seconds."""
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        """Sleep."""
        rest = moment - time.monotonic()
        if rest > 0:
            time.sleep(rest)


class _Step(Future[ModelRunnerOutput]):
    """A step on the simulated device. Waiting for it waits for its end; there is no thread."""

    def __init__(self, output: ModelRunnerOutput, ends_at: float, clock: Clock) -> None:
        super().__init__()
        self._output = output
        self._ends_at = ends_at
        self._clock = clock

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        """Return the output once the step is over. `timeout` is not supported, as in vLLM's own."""
        self._clock.wait_until(self._ends_at)
        return self._output

    def done(self) -> bool:
        """Whether the step is over."""
        return self._clock.now() >= self._ends_at


class SimulatedExecutor(Executor):  # type: ignore[misc]  # vLLM is not type-checked here
    """See the rules above. A subclass can have another `clock`."""

    supports_pp = False
    clock: Clock = WallClock()

    def _init_executor(self) -> None:
        if self.speculative_config is not None:
            raise ValueError("the simulated executor does not speculate")
        self.simulation = Simulation.from_additional_config(self.vllm_config.additional_config)
        self._sampler = Sampler(self.simulation.tokens)
        # The engine makes its scheduler and its queue of batches after its executor.
        self.scheduler_config.async_scheduling = self.simulation.async_scheduling
        self._device_free_at = 0.0
        self._running: _Step | None = None
        self._spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=1,
            head_size=1,
            dtype=torch.bfloat16,
        )

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """See `Executor`."""
        return True

    @property
    def supported_tasks(self) -> tuple[str, ...]:
        """See `Executor`."""
        return ("generate",)

    def get_kv_cache_specs(self) -> list[dict[str, FullAttentionSpec]]:
        """One layer, as small as a cache can be."""
        return [{_LAYER: self._spec}]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        """See `Executor`."""
        return [["LBHNC"]]

    def set_kv_cache_layout(self, layout_name: str) -> None:
        """There is no cache to lay out."""

    def determine_available_memory(self) -> list[int]:
        """Bytes that make a cache of `kv_tokens`."""
        blocks = max(1, self.simulation.kv_tokens // self._spec.block_size)
        return [blocks * self._spec.page_size_bytes]

    def initialize_from_config(self, kv_cache_configs: list[Any]) -> None:
        """There is no cache to make."""

    def compile_or_warm_up_model(self) -> None:
        """There is no model."""

    def execute_model(
        self, scheduler_output: SchedulerOutput, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput | None] | None:
        """Begin a step. The result is for `sample_tokens`, unless there was nothing to run."""
        self._sampler.forget(scheduler_output.finished_req_ids)
        result = None
        if scheduler_output.total_num_scheduled_tokens:
            self._running = self._begin(scheduler_output)
        else:
            result = EMPTY_MODEL_RUNNER_OUTPUT
        if not non_block:
            return result
        future: Future[ModelRunnerOutput | None] = Future()
        future.set_result(result)
        return future

    def sample_tokens(
        self, grammar_output: GrammarOutput | None, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput]:
        """Give out the step that `execute_model` began last."""
        step, self._running = self._running, None
        if step is None:
            raise RuntimeError("sample_tokens without a step")
        return step if non_block else step.result()

    def _begin(self, scheduled: SchedulerOutput) -> _Step:
        step = self._sampler.sample(scheduled)
        begins = max(self.clock.now(), self._device_free_at)
        self._device_free_at = begins + self.simulation.step_s(
            step.sequences, step.prefill_tokens, step.context_tokens
        )
        return _Step(step.output, self._device_free_at, self.clock)

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        """Refuse: there are no workers. Everything that needs them is answered above or unused."""
        raise NotImplementedError(f"the simulated executor has no workers for {method!r}")

    def reset_mm_cache(self) -> None:
        """There is none."""

    def reset_encoder_cache(self) -> None:
        """There is none."""

    def check_health(self) -> None:
        """Nothing can break."""

    def shutdown(self) -> None:
        """There is nothing to end."""
