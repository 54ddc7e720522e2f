"""An engine without a model, for tests and demonstrations: it says back what it was told.

A token is a byte of UTF-8 (ids 0 to 255) or the end of text (256). The answer to a prompt is the
prompt's own bytes and then the end of text, or the bytes again and again if that is ignored; so
every token of every stream is known beforehand. Choice i does without the prompt's first i bytes
(modulo their number). A chat is answered with its last message's content; the role "nobody" is
refused, as a template may. Token i has the log-probability -i/1024, and the likeliest in its place
are itself and those before it, each -1 less. It keeps vLLM's rules: one batch a step, at most
`max_running` requests in it, the others wait; nothing comes for an aborted request.

Time passes by itself every `step_s` seconds, or, with None, only when `step` is called.
"""

import asyncio
import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from service.domain import (
    ChatPrompt,
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
    TextPrompt,
    TokensPrompt,
)
from service.engine.protocol import Progress, RenderedRequest
from service.errors import EngineDead, FieldViolation, InvalidRequest

END_OF_TEXT = 256
VOCABULARY = 257


@dataclass(slots=True)
class ScriptedOutput:
    """One step's token of one request."""

    request_id: str
    new_token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    broken: bool = False
    likeliest: int = 0


@dataclass(slots=True)
class ScriptedBatch:
    """One step's outputs."""

    outputs: Sequence[ScriptedOutput]

    def explain(self, output: EngineOutput) -> EngineFinish | None:
        """Tell how a finished output ended."""
        assert isinstance(output, ScriptedOutput)
        if output.broken or output.finish_reason is None:
            return None
        return EngineFinish(output.finish_reason, output.stop_reason)

    def given_up(self, output: EngineOutput) -> bool:
        """Deadlines are not looked at."""
        return False

    def account(self, output: EngineOutput) -> EngineAccount | None:
        """There is none."""
        return None

    def cached_prompt_tokens(self, output: EngineOutput) -> int | None:
        """There is no prefix cache."""
        return None

    def logprobs(self, output: EngineOutput) -> LogprobRows:
        """See the top of the file."""
        assert isinstance(output, ScriptedOutput)
        rows = [scripted_logprobs(i, output.likeliest) for i in output.new_token_ids]
        return LogprobRows([ids for ids, _ in rows], [logprobs for _, logprobs in rows])


class Utf8Decoder:
    """Bytes to text; keeps an incomplete character to itself."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, token_ids: Sequence[int]) -> str:
        """Take the next bytes."""
        return self._decoder.decode(bytes(i for i in token_ids if i != END_OF_TEXT))

    def decode_token(self, token_id: int) -> str:
        """Take the next byte."""
        return self.decode((token_id,))


@dataclass(slots=True)
class _Job:
    request_id: str
    prompt: bytes
    answer: Iterator[int]
    left: int
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    likeliest: int = 0
    broken: bool = False


class ScriptedEngine:
    """An `EngineClient`; see above."""

    def __init__(
        self,
        *,
        step_s: float | None = 0.0,
        max_running: int = 1024,
        context_length: int = 1024,
        loading: asyncio.Event | None = None,
    ) -> None:
        self._step_s = step_s
        self._max_running = max_running
        self._loading = loading
        self._card = ModelCard("scripted", context_length, VOCABULARY, has_chat_template=True)
        self._jobs: dict[str, _Job] = {}
        self._batches: asyncio.Queue[ScriptedBatch | None] = asyncio.Queue()
        self._stepping: asyncio.Task[None] | None = None
        self._work = asyncio.Event()
        self._dead = False
        self.submitted = 0
        self.positions: dict[str, int] = {}

    @property
    def model(self) -> ModelCard:
        """The model it serves."""
        return self._card

    @property
    def build(self) -> str:
        """It has no version."""
        return "scripted"

    def ranks(self) -> Sequence[EngineRank]:
        """One; it has no cache."""
        running = min(len(self._jobs), self._max_running)
        return (EngineRank(running=running, waiting=len(self._jobs) - running),)

    async def start(self, progress: Progress) -> None:
        """Be ready at once, or when the event `loading` is set."""
        progress("learning its lines")
        if self._loading is not None:
            await self._loading.wait()
        if self._step_s is not None:
            self._stepping = asyncio.create_task(self._step_forever(self._step_s))

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        """Bytes of the prompt; its answer."""
        prompt = _prompt_bytes(request)
        sampling = request.sampling
        room = self._card.context_length - len(prompt)
        wanted = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        job = _Job(
            engine_id,
            prompt,
            _answer(prompt, sampling.ignore_eos),
            wanted,
            sampling.stop_token_ids,
            sampling.ignore_eos,
            sampling.logprobs or 0,
        )
        return RenderedRequest(len(prompt), Utf8Decoder, job, scripted_token_bytes)

    def choice(self, rendered: RenderedRequest, engine_id: str, index: int) -> RenderedRequest:
        """Leave out the answer's first bytes."""
        job: _Job = rendered.handle
        rest = job.prompt[index % len(job.prompt) :]
        answer = _answer(rest, job.ignore_eos)
        return replace(rendered, handle=replace(job, request_id=engine_id, answer=answer))

    async def submit(self, *rendered: RenderedRequest) -> None:
        """Queue them behind the others."""
        if self._dead:
            raise EngineDead
        for one in rendered:
            job: _Job = one.handle
            self._jobs[job.request_id] = job
            self.submitted += 1
        self._work.set()

    async def abort(self, engine_ids: Sequence[str]) -> None:
        """Forget these."""
        if self._dead:
            raise EngineDead
        for engine_id in engine_ids:
            self._jobs.pop(engine_id, None)

    async def deliver(self, take: Callable[[EngineBatch], None]) -> None:
        """See `EngineClient.deliver`."""
        while not self._dead and (batch := await self._batches.get()) is not None:
            take(batch)
        raise EngineDead

    async def census(self) -> EngineCensus:
        """Count what is not finished."""
        running = min(len(self._jobs), self._max_running)
        return EngineCensus(running, len(self._jobs) - running)

    async def readers_moved(
        self, engine_ids: Sequence[str], positions: Sequence[int]
    ) -> SchedulerReport:
        """Keep them in `positions`; nobody waits for a reader here."""
        self.positions.update(zip(engine_ids, positions, strict=True))
        return SchedulerReport()

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """UTF-8; there are no special tokens to add."""
        return tuple(text.encode())

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """UTF-8, with U+FFFD where it is none."""
        return bytes(i for i in token_ids if i != END_OF_TEXT).decode(errors="replace")

    async def stop(self) -> None:
        """End."""
        if self._stepping is not None:
            self._stepping.cancel()
        self.die()

    def step(self) -> None:
        """Move every running request on by one token."""
        outputs = [self._next(job) for job in list(self._jobs.values())[: self._max_running]]
        for output in outputs:
            if output.finish_reason is not None or output.broken:
                del self._jobs[output.request_id]
        if outputs:
            self._batches.put_nowait(ScriptedBatch(outputs))

    def break_request(self, engine_id: str) -> None:
        """Let the engine fail this one at its next step."""
        self._jobs[engine_id].broken = True

    def die(self) -> None:
        """Let the engine process vanish."""
        self._dead = True
        self._batches.put_nowait(None)

    @property
    def running_ids(self) -> list[str]:
        """Ids in the order in which they came."""
        return list(self._jobs)

    def _next(self, job: _Job) -> ScriptedOutput:
        if job.broken:
            return ScriptedOutput(job.request_id, (), FinishReason.STOP, broken=True)
        token_id = next(job.answer)
        job.left -= 1
        output = ScriptedOutput(job.request_id, (token_id,), likeliest=job.likeliest)
        if token_id == END_OF_TEXT and not job.ignore_eos:
            output.finish_reason = FinishReason.STOP
        elif token_id in job.stop_token_ids:
            output.finish_reason, output.stop_reason = FinishReason.STOP, token_id
        elif job.left == 0:
            output.finish_reason = FinishReason.LENGTH
        return output

    async def _step_forever(self, step_s: float) -> None:
        while True:
            if not self._jobs:
                self._work.clear()
                await self._work.wait()
            await asyncio.sleep(step_s)
            self.step()


def _prompt_bytes(request: GenerationRequest) -> bytes:
    match request.prompt:
        case TextPrompt(text):
            return text.encode()
        case TokensPrompt(token_ids):
            return bytes(i % 256 for i in token_ids)
        case ChatPrompt(messages):
            if any(message.role == "nobody" for message in messages):
                raise InvalidRequest((FieldViolation("chat", "nobody has nothing to say"),))
            return messages[-1].content.encode() or b"."
        case None:
            raise ValueError("a request is validated before it is rendered")


def _answer(prompt: bytes, ignore_eos: bool) -> Iterator[int]:
    for _ in count():
        yield from prompt
        if not ignore_eos:
            yield END_OF_TEXT


def scripted_token_bytes(token_id: int) -> bytes:
    """The byte that a token is."""
    return b"" if token_id == END_OF_TEXT else bytes((token_id,))


def scripted_logprobs(token_id: int, likeliest: int) -> tuple[list[int], list[float]]:
    """A token's row: see the top of the file."""
    others = [(token_id - i) % VOCABULARY for i in range(likeliest)]
    own = -token_id / 1024
    return [token_id, *others], [own, *(own - i for i in range(likeliest))]
