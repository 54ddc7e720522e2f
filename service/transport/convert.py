"""Between the contract's messages and the domain's values; no decisions."""

from google.protobuf.duration_pb2 import Duration

from service.domain import (
    ChatMessage,
    ChatPrompt,
    DeliveryOptions,
    Finished,
    FinishReason,
    GenerationRequest,
    ModelCard,
    OnDisconnect,
    Priority,
    Prompt,
    SamplingOptions,
    Started,
    StructuredOutput,
    TextPrompt,
    TokenLogprobs,
    TokensPrompt,
)
from tokenstream.v1 import generation_pb2, model_pb2

_FINISH_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
    FinishReason.REPETITION: generation_pb2.FINISH_REASON_REPETITION,
}

_ON_DISCONNECT = {
    generation_pb2.ON_DISCONNECT_UNSPECIFIED: None,
    generation_pb2.ON_DISCONNECT_END: OnDisconnect.END,
    generation_pb2.ON_DISCONNECT_DETACH: OnDisconnect.DETACH,
}

_PRIORITIES = {
    generation_pb2.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    generation_pb2.PRIORITY_LOW: Priority.LOW,
    generation_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    generation_pb2.PRIORITY_HIGH: Priority.HIGH,
}

_DELIVERY = DeliveryOptions()
_NO_BIAS: dict[int, float] = {}

# What is more than one value.
_COMPOUND = ("stop", "stop_token_ids", "logit_bias", "structured_output")


def to_request(message: generation_pb2.GenerateRequest, trace_id: str = "") -> GenerationRequest:
    """The request that a message describes. `trace_id`: of the trace that it came in."""
    options = message.sampling
    chosen = {f.name: value for f, value in options.ListFields() if f.name not in _COMPOUND}
    return GenerationRequest(
        prompt=_prompt(message),
        model=message.model,
        sampling=SamplingOptions(
            **chosen,
            stop=tuple(options.stop),
            stop_token_ids=tuple(options.stop_token_ids),
            logit_bias=dict(options.logit_bias) if options.logit_bias else _NO_BIAS,
            structured_output=_structured_output(options),
        ),
        delivery=to_delivery(message.stream) if message.HasField("stream") else _DELIVERY,
        client_request_id=message.client_request_id,
        size_bytes=message.ByteSize(),
        priority=_PRIORITIES.get(message.priority, Priority.UNKNOWN),
        trace_id=trace_id,
    )


def _structured_output(options: generation_pb2.SamplingOptions) -> StructuredOutput | None:
    if not options.HasField("structured_output"):
        return None
    form = options.structured_output
    match form.WhichOneof("form"):
        case "json_object":
            return StructuredOutput(json_object=form.json_object)
        case "json_schema":
            return StructuredOutput(json_schema=form.json_schema)
        case "regex":
            return StructuredOutput(regex=form.regex)
        case _:
            return StructuredOutput()


def _prompt(message: generation_pb2.GenerateRequest) -> Prompt | None:
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "token_ids":
            return TokensPrompt(message.token_ids.ids)  # not copied before it is checked
        case "chat":
            return ChatPrompt(
                tuple(ChatMessage(m.role, m.content, m.name) for m in message.chat.messages)
            )
        case _:
            return None


def to_delivery(options: generation_pb2.StreamOptions) -> DeliveryOptions:
    """How a stream is delivered."""
    has = options.HasField
    return DeliveryOptions(
        max_delay_s=options.max_delay_ms / 1000 if has("max_delay_ms") else None,
        max_tokens_per_message=(
            options.max_tokens_per_message if has("max_tokens_per_message") else None
        ),
        credit=options.credit if has("credit") else None,
        on_disconnect=_ON_DISCONNECT.get(options.on_disconnect, OnDisconnect.UNKNOWN),
        time_to_live_s=options.time_to_live_ms / 1000 if has("time_to_live_ms") else None,
        reading_rate=(
            options.reading_tokens_per_second if has("reading_tokens_per_second") else None
        ),
    )


def from_logprobs(logprobs: TokenLogprobs) -> generation_pb2.TokenLogprobs:
    """The message for one token's log-probabilities."""
    return generation_pb2.TokenLogprobs(
        logprob=logprobs.logprob,
        token=logprobs.token,
        likeliest=[
            generation_pb2.LikelyToken(token_id=token_id, logprob=logprob, token=token)
            for token_id, logprob, token in logprobs.likeliest
        ],
    )


def from_started(event: Started) -> generation_pb2.Started:
    """The message for a stream's beginning."""
    return generation_pb2.Started(
        stream_id=event.stream_id,
        model=event.model,
        prompt_tokens=event.prompt_tokens,
        client_request_id=event.client_request_id,
    )


def from_finished(event: Finished) -> generation_pb2.Finished:
    """The message for a generation's end."""
    message = generation_pb2.Finished(
        choice_index=event.choice_index,
        reason=_FINISH_REASONS[event.finish.reason],
        usage=generation_pb2.Usage(
            prompt_tokens=event.usage.prompt_tokens,
            completion_tokens=event.usage.completion_tokens,
            cached_prompt_tokens=event.usage.cached_prompt_tokens,
        ),
        timings=generation_pb2.Timings(total=_duration(event.timings.total_s)),
    )
    if event.timings.time_to_first_token_s is not None:
        message.timings.time_to_first_token.CopyFrom(_duration(event.timings.time_to_first_token_s))
    account = event.timings.engine
    if account is not None:
        engine = message.timings.engine
        engine.queued.CopyFrom(_duration(account.queued_s))
        engine.prefill.CopyFrom(_duration(account.prefill_s))
        engine.decode.CopyFrom(_duration(account.decode_s))
        engine.parked.CopyFrom(_duration(account.parked_s))
        engine.preemptions = account.preemptions
    match event.finish.matched:
        case str(string):
            message.stop_string = string
        case int(token_id):
            message.stop_token_id = token_id
    return message


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration


def from_model(card: ModelCard) -> model_pb2.Model:
    """The message for a model."""
    capabilities = [model_pb2.CAPABILITY_TOKEN_IDS_PROMPT]
    if card.has_tokenizer:
        capabilities.insert(0, model_pb2.CAPABILITY_TEXT_PROMPT)
    if card.has_chat_template:
        capabilities.append(model_pb2.CAPABILITY_CHAT)
    return model_pb2.Model(
        id=card.id,
        context_length=card.context_length,
        vocab_size=card.vocab_size,
        capabilities=capabilities,
    )
