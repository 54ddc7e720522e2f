"""What a step of the simulated engine samples, from what vLLM's scheduler handed over.

No time and no executor: the real engine process (`simulated_executor`) and the virtual one
(`scheduling.virtual_engine`) sample by the same rules:

1. Which position a step samples is worked out from what the scheduler says it has computed, never
   counted here, so preempted and resumed requests go on with the right token.
2. A prefill chunk that does not reach the end of what is known of a request samples nothing.
"""

from dataclasses import dataclass
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import ModelRunnerOutput

from bench.known_tokens import KnownTokens, seed_of


@dataclass(frozen=True, slots=True)
class SampledStep:
    """A step's output, and what its duration depends on: see `Simulation.step_s`."""

    output: Any  # vLLM's ModelRunnerOutput
    sequences: int
    prefill_tokens: int
    context_tokens: int


class Sampler:
    """Samples the known tokens; remembers each unfinished request's prompt by seed and length."""

    def __init__(self, tokens: KnownTokens) -> None:
        self._token = tokens.token
        self._requests: dict[str, tuple[int, int]] = {}

    def forget(self, finished: set[str]) -> None:
        """Drop what was kept of finished requests."""
        for request_id in finished:
            self._requests.pop(request_id, None)

    def sample(self, scheduled: SchedulerOutput) -> SampledStep:
        """Sample a step in which at least one token was scheduled."""
        token, requests = self._token, self._requests
        counts = scheduled.num_scheduled_tokens
        ids: list[str] = []
        sampled: list[list[int]] = []
        prefill = context = 0

        for new in scheduled.scheduled_new_reqs:
            prompt = new.prompt_token_ids or []
            seed, length = requests[new.req_id] = (seed_of(prompt), len(prompt))
            # With vLLM's second model runner a resumed request comes as a new one, with this set.
            known = length if new.prefill_token_ids is None else len(new.prefill_token_ids)
            count = counts[new.req_id]
            computed = new.num_computed_tokens + count
            ids.append(new.req_id)
            sampled.append([token(seed, computed - length)] if computed >= known else [])
            prefill += count
            context += new.num_computed_tokens

        cached = scheduled.scheduled_cached_reqs
        for request_id, before, outputs in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            seed, length = requests[request_id]
            count = counts[request_id]
            computed = before + count
            ids.append(request_id)
            # `outputs` counts tokens that are still being sampled, and so does `before`.
            sampled.append([token(seed, computed - length)] if computed >= length + outputs else [])
            if count > 1:
                prefill += count
            context += before

        output = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
            sampled_token_ids=sampled,
        )
        return SampledStep(output, len(ids), prefill, context)
