"""Checks a request against its model, before anything is rendered or submitted.

Some of these values would otherwise raise inside the engine process and end it for everybody, so
the bounds are enforced here whatever vLLM's own layers do. All violations are reported at once,
each under its field's path in `GenerateRequest`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from service.admission.structured_output import check_structured_output
from service.domain import (
    ChatMessage,
    ChatPrompt,
    DeliveryOptions,
    GenerationRequest,
    ModelCard,
    OnDisconnect,
    Priority,
    SamplingOptions,
    TextPrompt,
)
from service.errors import FieldViolation, InvalidRequest, ModelNotFound
from service.stream.reader import MOST_TOKENS_PER_MESSAGE

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 128
MAX_CLIENT_REQUEST_ID_CHARACTERS = 128
MAX_CHAT_MESSAGES = 1024
MAX_ROLE_CHARACTERS = 64
MAX_NAME_CHARACTERS = 64
MAX_LOGPROBS = 20
MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100
MAX_DELAY_S = 1.0
MOST_READING_RATE = 10_000.0  # tokens a second
MAX_REPETITION_PENALTY = 10.0
MAX_CHOICES = 16
_MOST_SEED = 2**63 - 1
WHOLE_MESSAGE = ""


def check_model(name: str, model: ModelCard) -> None:
    """Accept the served model's id, or none at all. Raises `ModelNotFound`."""
    if name not in ("", model.id):
        raise ModelNotFound(name, model.id)


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Refuse a message larger than the service takes. Raises `InvalidRequest`, naming no field."""
    if size_bytes > limit_bytes:
        why = f"the message has {size_bytes} bytes, more than {limit_bytes}"
        raise InvalidRequest((FieldViolation(WHOLE_MESSAGE, why),))


def check_request(request: GenerationRequest, model: ModelCard, limit_bytes: int) -> None:
    """Raise `ModelNotFound`, or `InvalidRequest` with every field that is out of bounds."""
    check_size(request.size_bytes, limit_bytes)
    check_model(request.model, model)
    violations = (
        *_prompt(request, model),
        *_sampling(request.sampling, model),
        *_delivery(request.delivery),
        *_time_to_live(request.delivery),
        *_priority(request.priority),
    )
    if request.sampling.n is not None:
        violations += (*_choices(request.sampling.n, request),)
    if len(request.client_request_id) > MAX_CLIENT_REQUEST_ID_CHARACTERS:
        limit = f"has more than {MAX_CLIENT_REQUEST_ID_CHARACTERS} characters"
        violations += (FieldViolation("client_request_id", limit),)
    if violations:
        raise InvalidRequest(violations)


def check_without_credit(delivery: DeliveryOptions) -> None:
    """Refuse credit on a call that has no way to grant more. Raises `InvalidRequest`."""
    if delivery.credit is not None:
        why = "is for sessions; a call is paced by gRPC's flow control"
        raise InvalidRequest((FieldViolation("stream.credit", why),))


def check_places(choices: int, places: int) -> None:
    """Refuse more choices than there will ever be places for. Raises `InvalidRequest`."""
    if choices > places:
        why = f"{choices} is more than the {places} streams that this service has places for"
        raise InvalidRequest((FieldViolation("sampling.n", why),))


def check_resume(delivery: DeliveryOptions) -> None:
    """Check how a stream is to be read on. Raises `InvalidRequest`."""
    violations = list(_delivery(delivery))
    if delivery.on_disconnect is not None:
        violations.append(FieldViolation("stream.on_disconnect", "stays as the request has it"))
    if delivery.time_to_live_s is not None:
        violations.append(FieldViolation("stream.time_to_live_ms", "stays as the request has it"))
    if delivery.reading_rate is not None:
        field = "stream.reading_tokens_per_second"
        violations.append(FieldViolation(field, "stays as the request has it"))
    if violations:
        raise InvalidRequest(tuple(violations))


def check_fits(prompt_tokens: int, request: GenerationRequest, model: ModelCard) -> None:
    """Check prompt and wanted output together, once the prompt's tokens are counted.

    Raises `InvalidRequest`.
    """
    room = model.context_length - prompt_tokens
    sampling = request.sampling
    for field, wanted in (
        ("sampling.max_tokens", sampling.max_tokens),
        ("sampling.min_tokens", sampling.min_tokens),
    ):
        if room >= 1 and wanted is not None and wanted > room:
            why = f"{wanted} do not fit: the prompt has {prompt_tokens} tokens and the context "
            raise InvalidRequest((FieldViolation(field, why + str(model.context_length)),))
    if room < 1:
        assert request.prompt is not None
        raise InvalidRequest((_too_long(request.prompt.path, prompt_tokens, model),))


def check_text(text: str, model: ModelCard) -> None:
    """Check a text for Tokenize. Raises `InvalidRequest`."""
    if not model.has_tokenizer:
        raise InvalidRequest((FieldViolation("text", "the model is served without a tokenizer"),))
    if violations := tuple(_characters("text", text)):
        raise InvalidRequest(violations)


def check_token_ids(token_ids: Sequence[int], model: ModelCard) -> None:
    """Check ids for Detokenize. Raises `InvalidRequest`."""
    if not model.has_tokenizer:
        why = "the model is served without a tokenizer"
        raise InvalidRequest((FieldViolation("token_ids", why),))
    if violations := tuple(_token_ids("token_ids", token_ids, model)):
        raise InvalidRequest(violations)


def _too_long(field: str, prompt_tokens: int, model: ModelCard) -> FieldViolation:
    return FieldViolation(
        field,
        f"has {prompt_tokens} tokens; with room for one token of output "
        f"the context holds {model.context_length - 1}",
    )


def _prompt(request: GenerationRequest, model: ModelCard) -> Iterator[FieldViolation]:
    prompt = request.prompt
    if prompt is None:
        yield FieldViolation("prompt", "is missing: set text, token_ids or chat")
        return
    if isinstance(prompt, TextPrompt):
        if not model.has_tokenizer:
            yield FieldViolation("text", "the model is served without a tokenizer; use token_ids")
        elif not prompt.text:
            yield FieldViolation("text", "is empty")
        else:
            yield from _characters("text", prompt.text)
        return
    if isinstance(prompt, ChatPrompt):
        yield from _chat(prompt.messages, model)
        return
    if not prompt.token_ids:
        yield FieldViolation("token_ids.ids", "is empty")
    elif len(prompt.token_ids) >= model.context_length:
        yield _too_long("token_ids.ids", len(prompt.token_ids), model)
        return
    yield from _token_ids("token_ids.ids", prompt.token_ids, model)


def _chat(messages: tuple[ChatMessage, ...], model: ModelCard) -> Iterator[FieldViolation]:
    if not model.has_tokenizer:
        yield FieldViolation("chat", "the model is served without a tokenizer; use token_ids")
    elif not model.has_chat_template:
        yield FieldViolation("chat", "the model has no chat template; use text or token_ids")
    elif not messages:
        yield FieldViolation("chat.messages", "is empty")
    elif len(messages) > MAX_CHAT_MESSAGES:
        why = f"has {len(messages)} entries, more than {MAX_CHAT_MESSAGES}"
        yield FieldViolation("chat.messages", why)
    else:
        for position, message in enumerate(messages):
            if violations := tuple(_message(f"chat.messages[{position}]", message)):
                yield from violations
                return  # the first is enough: all would not fit into a status


def _message(field: str, message: ChatMessage) -> Iterator[FieldViolation]:
    if not message.role:
        yield FieldViolation(f"{field}.role", "is empty")
    for name, text, most in (
        ("role", message.role, MAX_ROLE_CHARACTERS),
        ("name", message.name, MAX_NAME_CHARACTERS),
    ):
        if len(text) > most:
            why = f"has {len(text)} characters, more than {most}"
            yield FieldViolation(f"{field}.{name}", why)
        yield from _characters(f"{field}.{name}", text)
    yield from _characters(f"{field}.content", message.content)


def _characters(field: str, text: str) -> Iterator[FieldViolation]:
    if "\0" in text:
        yield FieldViolation(field, "contains the character U+0000")


def _token_ids(field: str, token_ids: Sequence[int], model: ModelCard) -> Iterator[FieldViolation]:
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < model.vocab_size:
        bad = next(i for i in token_ids if not 0 <= i < model.vocab_size)
        yield FieldViolation(field, f"{bad} is not in the vocabulary of {model.vocab_size} tokens")


def _sampling(sampling: SamplingOptions, model: ModelCard) -> Iterator[FieldViolation]:
    s = sampling
    if s.max_tokens is not None and not 1 <= s.max_tokens < model.context_length:
        yield FieldViolation(
            "sampling.max_tokens",
            f"{s.max_tokens} is not between 1 and {model.context_length - 1}, "
            "which the model's context has room for",
        )
    if s.min_tokens is not None:
        most = model.context_length - 1 if s.max_tokens is None else s.max_tokens
        yield from _between("sampling.min_tokens", s.min_tokens, 0, most)
    yield from _between("sampling.temperature", s.temperature, 0, 2)
    yield from _between("sampling.min_p", s.min_p, 0, 1)
    yield from _between("sampling.presence_penalty", s.presence_penalty, -2, 2)
    yield from _between("sampling.frequency_penalty", s.frequency_penalty, -2, 2)
    yield from _above_zero("sampling.top_p", s.top_p, 1)
    yield from _above_zero(
        "sampling.repetition_penalty", s.repetition_penalty, MAX_REPETITION_PENALTY
    )
    yield from _between("sampling.top_k", s.top_k, 0, 2**31 - 1)
    yield from _between("sampling.seed", s.seed, 0, _MOST_SEED)
    yield from _between("sampling.logprobs", s.logprobs, 0, min(MAX_LOGPROBS, model.max_logprobs))
    yield from _logit_bias(s.logit_bias, model)
    if s.structured_output is not None:
        yield from check_structured_output(s, s.structured_output, model)
    yield from _stop_strings(s.stop, model)
    if len(s.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        yield FieldViolation(
            "sampling.stop_token_ids",
            f"has {len(s.stop_token_ids)} entries, more than {MAX_STOP_TOKEN_IDS}",
        )
    else:
        yield from _token_ids("sampling.stop_token_ids", s.stop_token_ids, model)


def _logit_bias(biases: Mapping[int, float], model: ModelCard) -> Iterator[FieldViolation]:
    field = "sampling.logit_bias"
    if len(biases) > MAX_LOGIT_BIASES:
        yield FieldViolation(field, f"has {len(biases)} entries, more than {MAX_LOGIT_BIASES}")
        return
    yield from _token_ids(field, tuple(biases), model)
    for token_id, bias in biases.items():
        if violations := tuple(
            _between(f"{field}[{token_id}]", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
        ):
            yield from violations
            return  # the first is enough: all would not fit into a status


def _choices(n: int, request: GenerationRequest) -> Iterator[FieldViolation]:
    yield from _between("sampling.n", n, 1, MAX_CHOICES)
    if n <= 1:
        return
    if request.delivery.on_disconnect is OnDisconnect.DETACH:
        yield FieldViolation("stream.on_disconnect", "several choices cannot be detached")
    seed = request.sampling.seed
    if seed is not None and n <= MAX_CHOICES and seed <= _MOST_SEED < seed + n - 1:
        why = f"the last of {n} choices would have a seed above {_MOST_SEED}"
        yield FieldViolation("sampling.seed", why)


def _stop_strings(stop: tuple[str, ...], model: ModelCard) -> Iterator[FieldViolation]:
    if not stop:
        return
    if not model.has_tokenizer:
        yield FieldViolation("sampling.stop", "the model is served without a tokenizer")
    if len(stop) > MAX_STOP_STRINGS:
        yield FieldViolation(
            "sampling.stop", f"has {len(stop)} entries, more than {MAX_STOP_STRINGS}"
        )
        return
    for position, string in enumerate(stop):
        if not string:
            yield FieldViolation(f"sampling.stop[{position}]", "is empty")
        elif len(string) > MAX_STOP_STRING_CHARACTERS:
            yield FieldViolation(
                f"sampling.stop[{position}]",
                f"has {len(string)} characters, more than {MAX_STOP_STRING_CHARACTERS}",
            )


def _delivery(delivery: DeliveryOptions) -> Iterator[FieldViolation]:
    if delivery.on_disconnect is OnDisconnect.UNKNOWN:
        yield FieldViolation("stream.on_disconnect", "is a value that this service does not know")
    if delivery.max_delay_s is not None and delivery.max_delay_s > MAX_DELAY_S:
        yield FieldViolation(
            "stream.max_delay_ms",
            f"{delivery.max_delay_s * 1000:.0f} is more than {MAX_DELAY_S * 1000:.0f}",
        )
    yield from _between(
        "stream.max_tokens_per_message",
        delivery.max_tokens_per_message,
        1,
        MOST_TOKENS_PER_MESSAGE,
    )
    yield from _above_zero(
        "stream.reading_tokens_per_second", delivery.reading_rate, MOST_READING_RATE
    )


def _priority(priority: Priority) -> Iterator[FieldViolation]:
    if priority is Priority.UNKNOWN:
        yield FieldViolation("priority", "is a value that this service does not know")


def _time_to_live(delivery: DeliveryOptions) -> Iterator[FieldViolation]:
    wanted_s = delivery.time_to_live_s
    field = "stream.time_to_live_ms"
    if wanted_s is None:
        return
    if delivery.on_disconnect is not OnDisconnect.DETACH:
        yield FieldViolation(field, "needs on_disconnect to be ON_DISCONNECT_DETACH")
    elif wanted_s <= 0:
        yield FieldViolation(field, "is not at least 1")


def _between(
    field: str, value: float | None, least: float, most: float
) -> Iterator[FieldViolation]:
    # Written so that NaN, which compares to nothing, is out of bounds.
    if value is not None and not least <= value <= most:
        yield FieldViolation(field, f"{_shown(value)} is not between {least} and {most}")


def _above_zero(field: str, value: float | None, most: float) -> Iterator[FieldViolation]:
    if value is not None and not 0 < value <= most:
        yield FieldViolation(field, f"{_shown(value)} is not above 0 and at most {most:g}")


def _shown(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:g}" if isinstance(value, float) else str(value)
