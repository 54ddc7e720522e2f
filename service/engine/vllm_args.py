"""From our settings to vLLM's engine arguments: any field of `AsyncEngineArgs`, checked by name."""

import dataclasses
import difflib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from service.errors import EngineStartFailed

_log = structlog.get_logger(__name__)

DEMO = "demo"
DEMO_MODEL_ID = "tokenstream-demo"
STREAM_SCHEDULER = "service.engine_core.scheduler.StreamScheduler"
_SCHEDULER_ARGS = "tokenstream"  # where the scheduler looks for them (`engine_core.settings`)

_CPU_KV_CACHE_GIB = "1"

# Small and quick to start: the demo model is for trying things, not for speed.
_DEMO_ARGS: Mapping[str, Any] = {
    "served_model_name": DEMO_MODEL_ID,
    "max_model_len": 1024,
    "max_num_seqs": 128,
    "enforce_eager": True,
}


def prepare_environment(log_level: str) -> None:
    """Set what vLLM reads from the environment, where the operator has not; before its import."""
    # gRPC's threads do not survive a fork.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", log_level.upper())
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # vLLM's imports warn of what vLLM's developers have to mend; and what a failed start leaves
    # behind is cleaned up by Python's resource tracker, which need not tell after our last line.
    os.environ.setdefault(
        "PYTHONWARNINGS",
        "ignore::FutureWarning,ignore::UserWarning:multiprocessing.resource_tracker",
    )


def check_model(model: str) -> None:
    """Refuse a path that leads nowhere, before vLLM is loaded. Raises `EngineStartFailed`."""
    if model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().is_dir():
        raise EngineStartFailed(f"model: there is no folder {model}")


def engine_arguments(
    model: str,
    extra: Mapping[str, Any],
    demo_path: Path,
    scheduler_args: Mapping[str, Any] | None = None,
    *,
    progress_bars: bool = False,
) -> dict[str, Any]:
    """The keyword arguments for `AsyncEngineArgs`.

    `model` is a path, a hub id or `demo`. `extra` wins over our defaults. Raises
    `EngineStartFailed` for a name that vLLM does not have, with the nearest one that it has.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    known = [f.name for f in dataclasses.fields(AsyncEngineArgs)]
    for name in extra:
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise EngineStartFailed(f"engine_args: vLLM has no argument {name!r}{hint}")
    if "model" in extra:
        raise EngineStartFailed("engine_args: the model is set by 'model', not here")

    arguments: dict[str, Any] = {
        "scheduler_cls": STREAM_SCHEDULER,
        # Why this one: `structured_output`.
        "structured_outputs_config": {"backend": "guidance"},
        "use_tqdm_on_load": progress_bars,
    }
    if model == DEMO:
        arguments |= _DEMO_ARGS
        path = str(demo_path)
    else:
        path = str(Path(model).expanduser()) if model.startswith("~") else model
    if not extra.keys() & {"gpu_memory_utilization", "kv_cache_memory_bytes"}:
        # Only its CPU build reads this. Unset, it wants nearly all of a machine's free memory.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_KV_CACHE_GIB)
    if current_platform.is_cpu() and shutil.which(os.environ.get("CXX", "g++")) is None:
        _log.warning("no_compiler", consequence="the model runs uncompiled", remedy="install g++")
        arguments["enforce_eager"] = True
    arguments |= {"model": path} | dict(extra)
    additional = extra.get("additional_config") or {}
    if isinstance(additional, Mapping):
        told = {_SCHEDULER_ARGS: dict(scheduler_args or {})}
        arguments["additional_config"] = dict(additional) | told
    return arguments
