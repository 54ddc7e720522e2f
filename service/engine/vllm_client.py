"""vLLM's engine process, driven through `EngineCoreClient`, the layer below `AsyncLLM`.

Written for vLLM 0.32.0 and pinned to it: that layer is not a public interface. What is relied on:
the client's constructor starts the process and waits for it; `add_request_async`,
`abort_requests_async`, `get_output_async` and `call_utility_all_async`; the fields of
`EngineCoreOutput`; `EngineDeadError` from any of them once the process has gone; of its inner
parts, its sockets, its decoder and its queue of outputs (`vllm_outputs`).
"""

import asyncio
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from service.domain import (
    EngineAccount,
    EngineBatch,
    EngineCensus,
    EngineFinish,
    EngineOutput,
    EngineRank,
    FinishReason,
    GenerationRequest,
    LogprobRows,
    ModelCard,
    SchedulerReport,
)
from service.engine.processes import end_engine_processes
from service.engine.protocol import Progress, RenderedRequest
from service.engine.submissions import Submissions
from service.engine.vllm_args import check_model, engine_arguments, prepare_environment
from service.engine.vllm_choices import choice_of
from service.engine.vllm_figures import VllmFigures
from service.engine.vllm_log import EngineLog
from service.engine.vllm_outputs import VllmOutputs
from service.engine.zmq_sockets import Sender
from service.errors import EngineDead, EngineStartFailed

if TYPE_CHECKING:
    # vLLM takes ten seconds to import; it is loaded when the engine starts, off the event loop.
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.engine.core_client import AsyncMPClient

    from service.engine.vllm_rendering import VllmRenderer

# vLLM's `FinishReason` by value; ABORT (2) and ERROR (3) are no ends of a request's own.
_FINISH_REASONS = {
    0: FinishReason.STOP,
    1: FinishReason.LENGTH,
    4: FinishReason.REPETITION,
}

# As the scheduler in the engine process spells them (`engine_core`, which is not imported here).
_GIVEN_UP = "tokenstream: deadline"
_TOLD = "tokenstream"

_STOP_GRACE_S = 20.0
_LEFTOVER_GRACE_S = 5.0  # for processes that the client's own end left
_GIVE_UP_POLL_S = 1.0
_GIVE_UP_AFTER_S = 15.0


class VllmBatch:
    """One step's outputs, as vLLM sent them."""

    __slots__ = ("outputs",)

    def __init__(self, outputs: "EngineCoreOutputs") -> None:
        self.outputs: Sequence[EngineCoreOutput] = outputs.outputs

    def explain(self, output: EngineOutput) -> EngineFinish | None:
        """Tell how a finished output ended; None if the engine failed or aborted the request."""
        finished = cast("EngineCoreOutput", output)  # only what vLLM sent comes here
        reason = _FINISH_REASONS.get(int(finished.finish_reason))
        return None if reason is None else EngineFinish(reason, finished.stop_reason)

    def given_up(self, output: EngineOutput) -> bool:
        """See `EngineBatch.given_up`."""
        return bool(cast("EngineCoreOutput", output).stop_reason == _GIVEN_UP)

    def account(self, output: EngineOutput) -> EngineAccount | None:
        """See `EngineBatch.account`."""
        # The one place of an output for what vLLM does not know of.
        told = (cast("EngineCoreOutput", output).kv_transfer_params or {}).get(_TOLD)
        return None if told is None else EngineAccount(**told)

    def cached_prompt_tokens(self, output: EngineOutput) -> int | None:
        """Prompt tokens found in the prefix cache, in a request's first output; else None."""
        stats = cast("EngineCoreOutput", output).prefill_stats
        return None if stats is None else int(stats.num_cached_tokens)

    def logprobs(self, output: EngineOutput) -> LogprobRows:
        """See `EngineBatch.logprobs`."""
        rows = cast("EngineCoreOutput", output).new_logprobs
        if rows is None:
            raise RuntimeError("the engine told no log-probabilities of its tokens")
        return LogprobRows(rows.logprob_token_ids.tolist(), rows.logprobs.tolist())


class VllmEngine:
    """An `EngineClient`. `model`: path, hub id or `demo`; `engine_args`: as vLLM names them.

    `scheduler_args`: fields of `engine_core.settings.Settings`. `tells_figures`: whether the engine
    tells of its work with each step, for `ranks`.
    """

    def __init__(
        self,
        model: str,
        engine_args: Mapping[str, Any],
        log_level: str,
        demo_path: Path,
        scheduler_args: Mapping[str, Any] | None = None,
        *,
        tells_figures: bool = False,
    ) -> None:
        self._model_source = model
        self._engine_args = engine_args
        self._scheduler_args = scheduler_args or {}
        self._log_level = log_level
        self._log = EngineLog(log_level)
        self._demo_path = demo_path
        self._tells_figures = tells_figures
        self._figures = VllmFigures()
        self._build = ""
        self._card: ModelCard | None = None
        self._client: AsyncMPClient | None = None
        self._outputs: VllmOutputs | None = None
        self._renderer: VllmRenderer | None = None
        self._tokenizer: Any = None
        # One thread: a long text keeps the next one waiting, not the event loop.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._submissions = Submissions(lambda request: self._alive.add_request_async(request))
        self._starting: asyncio.Future[None] | None = None
        self._stopping = False

    @property
    def model(self) -> ModelCard:
        """The model it serves. Not to be asked before `start` has returned."""
        assert self._card is not None
        return self._card

    @property
    def build(self) -> str:
        """vLLM's version."""
        return self._build

    def ranks(self) -> Sequence[EngineRank]:
        """See `EngineClient.ranks`."""
        return self._figures.ranks()

    async def start(self, progress: Progress) -> None:
        """Load the model. Raises `EngineStartFailed` with one line that says why."""
        loop = asyncio.get_running_loop()

        def report(phase: str) -> None:
            if self._stopping:
                raise EngineStartFailed("stopped while starting")
            loop.call_soon_threadsafe(progress, phase)

        self._starting = asyncio.ensure_future(asyncio.to_thread(self._start, report))
        await self._until_started(self._starting)
        try:
            tasks = await self._alive.get_supported_tasks_async()
        except Exception as error:
            raise EngineStartFailed(self._log.root_cause() or _one_line(error)) from error
        if "generate" not in tasks:
            raise EngineStartFailed(f"{self.model.id} is not a model that generates text")

    async def _until_started(self, starting: asyncio.Future[None]) -> None:
        """Wait for the start; not for ever once vLLM has said that it failed.

        Its processes should then end, and usually do, but a worker can miss its signal.
        """
        given_up_for_s = 0.0
        while not starting.done():
            await asyncio.wait([starting], timeout=_GIVE_UP_POLL_S)
            given_up_for_s += _GIVE_UP_POLL_S if self._log.has_given_up() else 0.0
            if given_up_for_s > _GIVE_UP_AFTER_S and not self._stopping:
                await asyncio.to_thread(end_engine_processes, 0.0)
                raise EngineStartFailed(self._log.root_cause() or "the engine did not start")
        starting.result()

    def _start(self, report: Progress) -> None:
        self._log.install()
        try:
            self._load(report)
        except EngineStartFailed:
            raise
        except Exception as error:
            raise EngineStartFailed(self._log.root_cause() or _one_line(error)) from error

    def _load(self, report: Progress) -> None:
        check_model(self._model_source)
        report("importing vLLM")
        prepare_environment(self._log_level)
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.renderers import renderer_from_config
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.core_client import EngineCoreClient
        from vllm.v1.engine.input_processor import InputProcessor
        from vllm.v1.executor import Executor

        from service.engine.vllm_chat import has_chat_template
        from service.engine.vllm_rendering import VllmRenderer

        self._build = f"vllm {vllm.__version__}"
        report("reading the model's configuration")
        arguments = engine_arguments(
            self._model_source,
            self._engine_args,
            self._demo_path,
            self._scheduler_args,
            progress_bars=self._log_level in ("debug", "info"),
        )
        config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
        renderer = renderer_from_config(config)
        processor = InputProcessor(config, renderer)

        report("starting the engine process and loading the weights")
        _keep_terminal_interrupts_from_children()
        client = self._client = EngineCoreClient.make_async_mp_client(
            vllm_config=config,
            executor_class=Executor.get_class(config),
            log_stats=self._tells_figures,
            renderer=renderer,
        )
        # Ours in the place of vLLM's sockets, before anything waits on those.
        self._outputs = VllmOutputs(client)
        client.input_socket = client.resources.input_socket = Sender.in_place_of(
            client.input_socket
        )
        # Only now: the engine may have fitted the context length to its memory.
        served, most_logprobs = (
            config.model_config.served_model_name,
            config.model_config.max_logprobs,
        )
        self._tokenizer = renderer.tokenizer
        self._renderer = VllmRenderer(processor, config.model_config.get_diff_sampling_param())
        self._card = ModelCard(
            id=served if isinstance(served, str) else served[0],
            context_length=config.model_config.max_model_len,
            vocab_size=config.model_config.get_vocab_size(),
            has_tokenizer=renderer.tokenizer is not None,
            has_chat_template=has_chat_template(renderer),
            max_logprobs=sys.maxsize if most_logprobs == -1 else most_logprobs,
        )

    @property
    def _alive(self) -> "AsyncMPClient":
        if self._client is None:
            raise EngineDead
        return self._client

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        """See `EngineClient.render`."""
        assert self._renderer is not None
        return await self._renderer.render(engine_id, request)

    def choice(self, rendered: RenderedRequest, engine_id: str, index: int) -> RenderedRequest:
        """See `EngineClient.choice`."""
        return choice_of(rendered, engine_id, index)

    async def submit(self, *rendered: RenderedRequest) -> None:
        """Hand a request, or its choices, to the engine's queue. Raises `EngineDead`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            self._alive.ensure_alive()
            await self._submissions.add(*(one.handle for one in rendered))
        except EngineDeadError as dead:
            raise EngineDead from dead

    async def abort(self, engine_ids: Sequence[str]) -> None:
        """Stop these requests; unknown ids are ignored. Raises `EngineDead`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._submissions.flush()
            await self._alive.abort_requests_async(list(engine_ids))
        except EngineDeadError as dead:
            raise EngineDead from dead

    async def deliver(self, take: Callable[[EngineBatch], None]) -> None:
        """See `EngineClient.deliver`."""

        def take_outputs(outputs: "EngineCoreOutputs") -> None:
            if outputs.scheduler_stats is not None:
                self._figures.take(outputs.engine_index, outputs.scheduler_stats)
            take(VllmBatch(outputs))

        if self._outputs is None:
            raise EngineDead
        await self._outputs.deliver(take_outputs)

    async def census(self) -> EngineCensus:
        """Ask the engine what it has not finished. Raises `EngineDead`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            counts = await self._alive.call_utility_all_async("tokenstream_census")
        except EngineDeadError as dead:
            raise EngineDead from dead
        return EngineCensus(sum(c[0] for c in counts), sum(c[1] for c in counts))

    async def readers_moved(
        self, engine_ids: Sequence[str], positions: Sequence[int]
    ) -> SchedulerReport:
        """Take how many tokens have been read of these. Raises `EngineDead`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            reports = await self._alive.call_utility_all_async(
                "tokenstream_readers_moved", list(engine_ids), list(positions)
            )
        except EngineDeadError as dead:
            raise EngineDead from dead
        return _report(reports)

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a text, as a text prompt of it would have."""
        encode = partial(self._tokenizer.encode, text, add_special_tokens=add_special_tokens)
        return tuple(await asyncio.get_running_loop().run_in_executor(self._tokenizing, encode))

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        decode = partial(
            self._tokenizer.decode, list(token_ids), skip_special_tokens=skip_special_tokens
        )
        return str(await asyncio.get_running_loop().run_in_executor(self._tokenizing, decode))

    async def stop(self) -> None:
        """End the engine and its processes; safe at any time, also while it starts."""
        self._stopping = True
        if self._starting is not None and not self._starting.done():
            # The starting thread waits for the engine process: without it, it gives up.
            while not self._starting.done():
                for child in multiprocessing.active_children():
                    child.terminate()
                await asyncio.wait([self._starting], timeout=0.2)
        if self._starting is not None and not self._starting.cancelled():
            self._starting.exception()  # told to whoever awaits `start`
        self._submissions.close()
        client, self._client, self._outputs = self._client, None, None
        if client is not None:
            await asyncio.to_thread(client.shutdown, timeout=_STOP_GRACE_S)
            await asyncio.sleep(0)  # its sockets are closed by a callback on this loop
            client.resources.ctx.destroy(linger=0)
        await asyncio.to_thread(end_engine_processes, _LEFTOVER_GRACE_S)
        if self._renderer is not None:
            self._renderer.close()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
        self._log.remove()


def _report(reports: Sequence[Mapping[str, Any]]) -> SchedulerReport:
    """One report of all ranks: counts add up, of times the longest."""
    counts = {
        name: sum(r[name] for r in reports)
        for name in reports[0]
        if name not in ("shares", "decision_p99_s")
    }
    shares: Counter[str] = Counter()
    for report in reports:
        shares.update(report["shares"])
    return SchedulerReport(
        **counts,
        decision_p99_s=max(r["decision_p99_s"] for r in reports),
        shares=dict(shares),
    )


def _keep_terminal_interrupts_from_children() -> None:
    """Block SIGINT in this thread: processes it starts inherit that, and theirs.

    A Ctrl-C in a terminal goes to every process of the foreground group. The service answers it
    with a drain, for which it needs its engine; it ends the engine itself. Python's resource
    tracker unblocks SIGINT as it starts, so it has to be there before.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _one_line(error: Exception) -> str:
    """The readable part of an exception that vLLM raised while starting."""
    if callable(errors := getattr(error, "errors", None)):  # pydantic's: one message a field
        try:
            return "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in errors())
        except (TypeError, KeyError):
            pass
    first = str(error).strip().partition("\n")[0]
    return first or type(error).__name__
