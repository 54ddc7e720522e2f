from types import SimpleNamespace
from typing import Any

import pytest

from service.engine_core.support import refuse_what_is_not_supported


def config_of(**changed: Any) -> SimpleNamespace:
    """The part of vLLM's configuration that is looked at, as it is for a plain language model."""
    usual: dict[str, Any] = {
        "policy": "fcfs",
        "data_parallel_size": 1,
        "is_moe": False,
        "runner_type": "generate",
        "is_diffusion": False,
        "kv_transfer_config": None,
        "ec_transfer_config": None,
    }
    value = usual | changed
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(policy=value["policy"]),
        parallel_config=SimpleNamespace(data_parallel_size=value["data_parallel_size"]),
        model_config=SimpleNamespace(
            is_moe=value["is_moe"],
            runner_type=value["runner_type"],
            is_diffusion=value["is_diffusion"],
        ),
        kv_transfer_config=value["kv_transfer_config"],
        ec_transfer_config=value["ec_transfer_config"],
    )


@pytest.mark.parametrize(
    "changed",
    [{}, {"is_moe": True}, {"data_parallel_size": 2}],
    ids=["plain", "mixture of experts", "data parallel"],
)
def test_what_goes_together_with_it_is_let_pass(changed: dict[str, Any]) -> None:
    refuse_what_is_not_supported(config_of(**changed))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"policy": "priority"}, "scheduling_policy 'priority'"),
        ({"data_parallel_size": 2, "is_moe": True}, "data_parallel_size"),
        ({"runner_type": "pooling"}, "generate text"),
        ({"is_diffusion": True}, "generate text"),
        ({"kv_transfer_config": object()}, "kv_offloading_size"),
        ({"ec_transfer_config": object()}, "ec_transfer_config"),
    ],
    ids=["priorities", "mixture of experts in parallel", "pooling", "diffusion", "KV", "EC"],
)
def test_what_does_not_go_together_with_it_is_refused_and_named(
    changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=f"^tokenstream: .*{named}.*supported"):
        refuse_what_is_not_supported(config_of(**changed))
