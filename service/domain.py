"""What a request is and what comes back, as frozen values without any wire format.

Times are seconds of the monotonic clock unless a name says otherwise; token indexes count a
choice's output from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import ClassVar, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text for the model's own tokenizer."""

    path: ClassVar[str] = "text"  # its path in the request, for what is wrong with it
    text: str


@dataclass(frozen=True, slots=True)
class TokensPrompt:
    """Token ids, used as they are; read only, and copied by whoever keeps them."""

    path: ClassVar[str] = "token_ids.ids"
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation; `name`: the speaker's, where the template uses one."""

    role: str
    content: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation so far, for the model's own chat template."""

    path: ClassVar[str] = "chat"
    messages: tuple[ChatMessage, ...]


Prompt = TextPrompt | TokensPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A form that the output is kept to; exactly one is set, where the request is right.

    `json_schema`: JSON text.
    """

    json_object: bool | None = None
    json_schema: str | None = None
    regex: str | None = None

    @property
    def path(self) -> str:
        """The path of what is set, for what is wrong with it."""
        for name in ("json_schema", "regex", "json_object"):
            if getattr(self, name) is not None:
                return f"sampling.structured_output.{name}"
        return "sampling.structured_output"


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are chosen; None means the model's default. Bounds: `admission.validation`."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    include_stop: bool = False
    n: int | None = None
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    structured_output: StructuredOutput | None = None


class OnDisconnect(Enum):
    """What becomes of a stream whose reader has gone."""

    END = auto()
    DETACH = auto()
    UNKNOWN = auto()  # a value newer than this service


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How tokens are merged into messages, how far ahead they go, and what outlives the reader.

    `max_delay_s`: None is adaptive. `max_tokens_per_message`, `credit` (tokens that may be
    delivered at first): None is no bound. `on_disconnect`: None is END. `time_to_live_s`: None is
    the service's default. `reading_rate`: tokens a second; None is as fast as it comes.
    """

    max_delay_s: float | None = None
    max_tokens_per_message: int | None = None
    credit: int | None = None
    on_disconnect: OnDisconnect | None = None
    time_to_live_s: float | None = None
    reading_rate: float | None = None


class Priority(Enum):
    """Classes of requests, by how they are told to the engine's scheduler."""

    LOW = -1
    NORMAL = 0
    HIGH = 1
    UNKNOWN = None  # a value newer than this service


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request as the caller sent it, not yet checked. `size_bytes`: of its message.

    Added by the service: `tenant`, whose it is, and `deadline`, the clock's moment after which even
    a first token is of no use. `trace_id`: of the W3C trace that it belongs to, 32 hexadecimal
    digits; empty: none.
    """

    prompt: Prompt | None
    model: str = ""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    delivery: DeliveryOptions = field(default_factory=DeliveryOptions)
    client_request_id: str = ""
    size_bytes: int = 0
    priority: Priority = Priority.NORMAL
    tenant: str = ""
    deadline: float | None = None
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model: its name, most tokens of prompt and output together, number of token ids.

    `has_tokenizer` is False where vLLM was told to skip it: then only token ids go in and out.
    `max_logprobs`: most of the likeliest tokens that the engine tells with each token.
    """

    id: str
    context_length: int
    vocab_size: int
    has_tokenizer: bool = True
    has_chat_template: bool = False
    max_logprobs: int = 20


class FinishReason(Enum):
    """Why a generation came to an end of its own or was stopped on purpose."""

    STOP = auto()
    LENGTH = auto()
    CANCELLED = auto()
    REPETITION = auto()


@dataclass(frozen=True, slots=True)
class EngineFinish:
    """How the engine, or a stop string, ended a generation.

    `matched` is the stop string or stop token id; None with STOP means the end-of-text token.
    """

    reason: FinishReason
    matched: str | int | None = None


class EngineOutput(Protocol):
    """What one engine step brought for one request.

    Structural, so that the engine's own objects pass without a copy: with 256 streams there are
    ten thousand of these a second.
    """

    @property
    def request_id(self) -> str:
        """The id that the request was submitted under."""

    @property
    def new_token_ids(self) -> Sequence[int]:
        """Tokens of this step, in order; usually one."""

    @property
    def finish_reason(self) -> object | None:
        """None while the request goes on; what it means is `EngineBatch.explain`'s business."""


class EngineBatch(Protocol):
    """Everything that one engine step brought."""

    @property
    def outputs(self) -> Sequence[EngineOutput]:
        """One entry for each request that the step moved on."""

    def explain(self, output: EngineOutput) -> EngineFinish | None:
        """Tell how a finished output ended; None if the engine failed or aborted the request."""

    def given_up(self, output: EngineOutput) -> bool:
        """Whether a finished output is one whose deadline could not be met any more."""

    def account(self, output: EngineOutput) -> "EngineAccount | None":
        """Where the time of a finished output's request went, if the engine tells."""

    def cached_prompt_tokens(self, output: EngineOutput) -> int | None:
        """Prompt tokens found in the prefix cache, in a request's first output; else None."""

    def logprobs(self, output: EngineOutput) -> "LogprobRows":
        """Log-probabilities of an output's tokens, of a request that asked for them."""


class LogprobRows(NamedTuple):
    """A row for each token: ids and logarithms, first its own, then the likeliest in its place.

    A row can be longer than what the request asked for: another of its batch asked for more.
    """

    token_ids: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class EngineCensus:
    """Requests that the engine has not finished: decoding, and waiting for their prefill."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class EngineAccount:
    """Where a request's time in the engine went, in seconds, and how often it was preempted."""

    queued_s: float
    prefill_s: float
    decode_s: float
    parked_s: float
    preemptions: int


@dataclass(frozen=True, slots=True)
class SchedulerReport:
    """What the engine's scheduler says of itself.

    `parked`: requests that wait for their readers and hold KV blocks, `parked_away`: and that hold
    none. Since the start: requests parked, evicted while parked, preempted for any reason, given up
    for their deadline; tokens computed again; decisions that failed. `shares`: of each tenant with
    requests, what it has had for its weight.
    """

    parked: int = 0
    parked_away: int = 0
    parkings: int = 0
    evicted_parked: int = 0
    preemptions: int = 0
    given_up: int = 0
    recomputed_tokens: int = 0
    failures: int = 0
    decision_p99_s: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineRank:
    """What one engine of data parallelism told last, and counts since the start.

    `running`: requests in the batches, parked ones included; `waiting` for room, `deferred` for
    something else. `kv_cache_usage`: 0 to 1. Prefix cache in prompt tokens.
    """

    running: int = 0
    waiting: int = 0
    deferred: int = 0
    kv_cache_usage: float = 0.0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What is known of the engine's work. `ranks`: empty if it tells nothing."""

    model: str
    ranks: tuple[EngineRank, ...] = ()
    preemptions: int = 0
    generation_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of prompt, of output, and of the prompt that the prefix cache had."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from arrival to the first token (None if none came) and to the end.

    `engine`: None if the engine did not end the generation by itself.
    """

    time_to_first_token_s: float | None
    total_s: float
    engine: EngineAccount | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted; always a stream's first event."""

    stream_id: str
    model: str
    prompt_tokens: int
    client_request_id: str


class LikelyToken(NamedTuple):
    """A token that could have been chosen; `token`: its own bytes."""

    token_id: int
    logprob: float
    token: bytes


class TokenLogprobs(NamedTuple):
    """How likely a token was, as a natural logarithm; its own bytes; what else was likely."""

    logprob: float
    token: bytes
    likeliest: tuple[LikelyToken, ...]


class Delta(NamedTuple):
    """Some tokens, from `first_token_index` on, and the text that became certain with them.

    A named tuple, because there can be one for each token and it costs a third of a dataclass.
    `logprobs`: one for each of the tokens, if the request asked for them.
    """

    first_token_index: int
    token_ids: Sequence[int]
    text: str
    logprobs: Sequence[TokenLogprobs] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a choice; always a complete stream's last event."""

    finish: EngineFinish
    usage: Usage
    timings: Timings
    choice_index: int = 0
