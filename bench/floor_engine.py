"""The floor under every frontend of vLLM: its engine client, with tokens counted and dropped.

`python -m bench.floor_engine '{"engine_args": …, "work": …, "event_loop": …}'` speaks to its
starter as `bench.load` does, and is both the frontend and the load: it submits all requests at once
and reads every step.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from bench import event_loop
from bench.dialects.dialect import Brought, Reading, Workload
from bench.load import Outcome


class EngineFloor:
    """vLLM's engine process behind its bare client. To be made before there is an event loop."""

    def __init__(self, engine_args: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.renderers import renderer_from_config
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.core_client import EngineCoreClient
        from vllm.v1.engine.input_processor import InputProcessor
        from vllm.v1.executor import Executor

        config = AsyncEngineArgs(**engine_args).create_engine_config(UsageContext.OPENAI_API_SERVER)
        self._renderer = renderer_from_config(config)
        self._processor = InputProcessor(config, self._renderer)
        self._client = EngineCoreClient.make_async_mp_client(
            vllm_config=config,
            executor_class=Executor.get_class(config),
            log_stats=False,
            renderer=self._renderer,
        )

    async def apply(self, work: Workload, first_number: int) -> Outcome:
        """Run the whole workload; prompts are numbered from `first_number`."""
        from vllm import SamplingParams

        began = time.process_time()
        sent: dict[str, float] = {}
        times: dict[str, list[float]] = {}
        counts: dict[str, int] = {}
        for number in range(first_number, first_number + work.streams):
            name = f"floor-{number}"
            prompt = work.known.prompt(number, work.prompt_tokens)
            sent[name] = time.monotonic()
            times[name], counts[name] = [], 0
            (rendered,) = await self._renderer.render_cmpl_async([{"prompt_token_ids": prompt}])
            request = self._processor.process_inputs(
                request_id=name,
                prompt=rendered,
                params=SamplingParams(max_tokens=work.tokens, temperature=0, ignore_eos=True),
                supported_tasks=("generate",),
            )
            request.external_req_id = name
            await self._client.add_request_async(request)
        left = work.streams
        while left:
            step = await self._client.get_output_async()
            now = time.monotonic()
            for output in step.outputs:
                counts[output.request_id] += len(output.new_token_ids)
                times[output.request_id].append(now)
                left -= output.finish_reason is not None
        readings = [
            Reading(times[n], None if counts[n] == work.tokens else f"{counts[n]} tokens")
            for n in times
        ]
        cpu_s = time.process_time() - began
        brought = Brought(readings, sum(len(r.times) for r in readings))
        return Outcome.of(brought, list(sent.values()), work.tokens, cpu_s)

    def close(self) -> None:
        """End the engine process."""
        self._client.shutdown()
        self._renderer.shutdown()


async def _serve(floor: EngineFloor, work: Workload) -> None:
    small = Workload(8, 8, work.prompt_tokens, known=work.known)
    await floor.apply(small, 0)
    number = small.streams
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(asdict(await floor.apply(work, number))), flush=True)
        number += work.streams


def main() -> int:
    """Run as told by the first argument; see the module's docstring."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    told = json.loads(sys.argv[1])
    work = Workload.told(told["work"])

    async def run() -> None:
        floor = EngineFloor(told["engine_args"])
        try:
            await _serve(floor, work)
        finally:
            floor.close()

    event_loop.run(run(), told["event_loop"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
