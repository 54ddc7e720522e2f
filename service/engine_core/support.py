"""What our scheduling does not go together with, refused when the engine starts."""

from typing import Any


def refuse_what_is_not_supported(config: Any) -> None:
    """Raise ValueError that names the first setting of vLLM's that is not supported.

    `config`: vLLM's `VllmConfig`.
    """
    if config.scheduler_config.policy != "fcfs":
        raise ValueError(
            f"tokenstream: scheduling_policy {config.scheduler_config.policy!r} is not supported:"
            " requests have a priority class of their own"
        )
    parallel, model = config.parallel_config, config.model_config
    if parallel.data_parallel_size > 1 and model.is_moe:
        raise ValueError(
            "tokenstream: data_parallel_size above 1 is not supported for mixture-of-experts"
            " models: their ranks step together, also when all requests of one are parked"
        )
    if config.kv_transfer_config is not None or config.ec_transfer_config is not None:
        raise ValueError(
            "tokenstream: kv_transfer_config, kv_offloading_size and ec_transfer_config are not"
            " supported: what they have on its way is not known to who parks and evicts"
        )
    if model.runner_type != "generate" or model.is_diffusion:
        raise ValueError("tokenstream: only models that generate text token by token are supported")
