"""The stream scheduler, disturbed at random, and a program that asks vLLM's offline API with it.

The program answers the same requests once for each way to run: JSON on standard input, JSON in a
file. Its engines run in its own process, one after the other.
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput

from service.engine_core.scheduler import StreamScheduler
from service.engine_core.settings import Settings

NAME = "tests.engine_core.disturbed.DisturbedScheduler"
PARKED, RELEASED, EVICTED, EVICTED_PARKED = 0.06, 0.2, 0.01, 0.05  # chances, each step


class DisturbedScheduler(StreamScheduler):
    """Parks, evicts and lets go whom it likes, as any policy of ours could."""

    seed = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chance = random.Random(self.seed)
        self.evicted_by_us = 0
        # There is no service here, so nobody else may park or let go.
        self.settings = Settings(flow_control=False)

    def hears_nothing(self) -> bool:
        """Nobody is there to be heard."""
        return False

    def has_requests(self) -> bool:
        """Whoever is parked is let go by a later step, so there is always one."""
        return bool(AsyncScheduler.has_requests(self))

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Disturb, then schedule."""
        now, chance = self.clock(), self._chance
        for request in [*self.running, *self.waiting]:
            state = self._states[request.request_id]
            runs = request in self.running
            if state.parked:
                if chance.random() < RELEASED:
                    self._parking.unpark(request, state, self.current_step, now)
                elif runs and chance.random() < EVICTED_PARKED:
                    self._evict_at_random(state, now)
            elif runs and not request.is_prefill_chunk and request.num_output_tokens:
                if chance.random() < PARKED:
                    self._parking.park(request, state, now)
                elif chance.random() < EVICTED:
                    self._evict_at_random(state, now)
        return super().schedule(throttle_prefills)

    def _evict_at_random(self, state: Any, now: float) -> None:
        self.evicted_by_us += 1
        request = self.requests[state.request_id]
        self.running.remove(request)
        self._preempt_request(request, now)

    def report(self) -> dict[str, Any]:
        """With what was done on purpose."""
        return super().report() | {"evicted_by_us": self.evicted_by_us}


def answers(
    model: str,
    requests: list[dict[str, Any]],
    scheduler: str | None,
    seed: int,
    every: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Answer all requests, or each one of so many, on an engine that is made for it."""
    requests = requests[::every]
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    # The engine imports it by this name, whatever this program's own is.
    from tests.engine_core import disturbed

    disturbed.DisturbedScheduler.seed = seed
    if scheduler is not None:
        options["scheduler_cls"] = scheduler
    llm = LLM(
        model, dtype="float32", max_model_len=512, enforce_eager=True, max_num_seqs=64, **options
    )
    params = []
    for request in requests:
        given = dict(request["params"])
        if structured := given.pop("structured_outputs", None):
            given["structured_outputs"] = StructuredOutputsParams(**structured)
        params.append(SamplingParams(**given))
    outputs = llm.generate([r["prompt"] for r in requests], params, use_tqdm=False)
    core = llm.llm_engine.engine_core.engine_core
    report = core.scheduler.report() if scheduler is not None else {}
    core.shutdown()
    return {
        "report": report,
        "answers": [
            {
                "text": o.outputs[0].text,
                "token_ids": list(o.outputs[0].token_ids),
                "finish_reason": o.outputs[0].finish_reason,
                "logprobs": [
                    sorted((token_id, value.logprob, value.rank) for token_id, value in at.items())
                    for at in o.outputs[0].logprobs or ()
                ],
            }
            for o in outputs
        ],
    }


def main(model: str, answer_file: str) -> None:
    """Answer in every way that is asked for: a name, and the arguments of `answers`."""
    told = json.load(sys.stdin)
    done = {
        name: answers(model, told["requests"], **options) for name, options in told["ways"].items()
    }
    Path(answer_file).write_text(json.dumps(done))


if __name__ == "__main__":
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    main(*sys.argv[1:])
