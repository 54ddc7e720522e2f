"""What a request asks of the service, whichever of the two kinds it is. No I/O."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from gateway_sse.openai.fields import ResponseFormat, SharedOptions
from gateway_sse.problems import Refused
from tokenstream_client import Chat, GenerateOptions


@dataclass(frozen=True, slots=True)
class Asked:
    """What `generate` takes, and how the answer is to be given."""

    prompt: str | Sequence[int] | Chat
    options: GenerateOptions
    choices: int
    """As asked for; the service checks it."""
    stream: bool
    include_usage: bool
    """In a stream. An answer in one piece always has it."""
    logprobs: bool


def shared_options(request: SharedOptions) -> GenerateOptions:
    """Return what both kinds have. Raises Refused where fields do not go together."""
    if request.stream_options is not None and not request.stream:
        raise Refused(
            "INVALID_REQUEST", "is only for requests with stream set", field="stream_options"
        )
    values = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "min_tokens": request.min_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "n": request.n,
        "stop": request.stop,
        "stop_token_ids": request.stop_token_ids,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "seed": request.seed,
        "ignore_eos": request.ignore_eos,
        "skip_special_tokens": request.skip_special_tokens,
        "include_stop": request.include_stop_str_in_output,
        "priority": request.priority,
        "max_delay_ms": request.max_delay_ms,
        "max_tokens_per_message": request.max_tokens_per_message,
        "reading_tokens_per_second": request.reading_tokens_per_second,
    }
    given = {name: value for name, value in values.items() if value is not None}
    options = cast(GenerateOptions, given)
    if request.logit_bias:
        options["logit_bias"] = {int(key): bias for key, bias in request.logit_bias.items()}
    if request.response_format is not None:
        _put_format(request.response_format, options)
    if request.structured_outputs is not None:
        if "json_object" in options or "json_schema" in options:
            raise Refused(
                "INVALID_REQUEST",
                "does not go together with response_format",
                field="structured_outputs",
            )
        options["regex"] = request.structured_outputs.regex
    return options


def wants_usage(request: SharedOptions) -> bool:
    """Tell whether a stream's last chunk is to have the counts of tokens."""
    return request.stream_options is not None and bool(request.stream_options.include_usage)


def _put_format(wanted: ResponseFormat, options: GenerateOptions) -> None:
    field = "response_format.json_schema"
    if wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise Refused("MISSING_FIELD", "is required", field=field)
        try:
            options["json_schema"] = json.dumps(
                wanted.json_schema.schema_, ensure_ascii=False, allow_nan=False
            )
        except (ValueError, RecursionError) as error:  # NaN, numbers of thousands of digits
            raise Refused(
                "INVALID_REQUEST", "has a number that is none in JSON", field=f"{field}.schema"
            ) from error
        return
    if wanted.json_schema is not None:
        raise Refused("INVALID_REQUEST", "is only for type json_schema", field=field)
    if wanted.type == "json_object":
        options["json_object"] = True
