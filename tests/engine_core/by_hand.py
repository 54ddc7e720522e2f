"""A scheduler of vLLM's, real and alone: steps are taken by hand, and the model answers at once."""

from collections.abc import Sequence
from typing import Any

import demo_model

BLOCK_SIZE = 16


def vllm_config(**arguments: Any) -> Any:
    """vLLM's configuration for the demo model; no weights are read."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    from service.engine.vllm_args import prepare_environment

    prepare_environment("error")
    usual = {
        "model": str(demo_model.path()),
        "load_format": "dummy",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 16,
        "block_size": BLOCK_SIZE,
        "enable_prefix_caching": False,
    }
    return AsyncEngineArgs(**usual | arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)


class ByHand:
    """A scheduler with so many KV blocks, of which vLLM keeps one for itself."""

    def __init__(self, scheduler: type, config: Any, blocks: int = 64) -> None:
        import torch
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(
            block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.bfloat16
        )
        self.scheduler: Any = scheduler(
            config,
            KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            StructuredOutputManager(config),
            block_size=BLOCK_SIZE,
        )

    def add(
        self, request_id: str, prompt: int = 8, output: int = 50, adapter: int = 0, **said: Any
    ) -> Any:
        """A request arrives, for the LoRA adapter of that number if there is one."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.v1.request import Request

        request = Request(
            request_id=request_id,
            prompt_token_ids=[1] * prompt,
            sampling_params=SamplingParams(
                max_tokens=output, ignore_eos=True, extra_args={"tokenstream": said}
            ),
            pooling_params=None,
            lora_request=LoRARequest(f"lora {adapter}", adapter, "/nowhere") if adapter else None,
        )
        self.scheduler.add_request(request)
        return request

    def begin_step(self) -> Any:
        """Schedule; the model has not answered yet."""
        return self.scheduler.schedule()

    def end_step(self, scheduled: Any) -> list[Any]:
        """The model answers with a token for each that is past its prompt; what comes out."""
        from vllm.v1.outputs import ModelRunnerOutput

        ids = list(scheduled.num_scheduled_tokens)
        chunks = {i for i in ids if self.scheduler.requests[i].is_prefill_chunk}
        answer = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(ids)},
            sampled_token_ids=[[] if i in chunks else [2] for i in ids],
        )
        batches = self.scheduler.update_from_output(scheduled, answer)
        return [output for batch in batches.values() for output in batch.outputs]

    def steps(self, number: int = 1) -> Sequence[set[str]]:
        """So many steps; who was in each."""
        taken = []
        for _ in range(number):
            scheduled = self.begin_step()
            taken.append(set(scheduled.num_scheduled_tokens))
            self.end_step(scheduled)
        return taken

    def blocks_of(self, request: Any) -> int:
        """How many KV blocks a request has."""
        return sum(
            len(group)
            for group in self.scheduler.kv_cache_manager.get_block_ids(request.request_id)
        )
