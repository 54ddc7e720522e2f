"""From Python arguments to the wire's request messages.

`GenerateOptions` is the one list of what `generate` takes; both clients share it. A test holds it
against the contract's fields.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import model_pb2
from tokenstream_client.errors import FieldViolation, InvalidRequest
from tokenstream_client.prompts import Chat, Prompt

OnDisconnect = Literal["end", "detach"]
Priority = Literal["low", "normal", "high"]


class GenerateOptions(TypedDict, total=False):
    """What `generate` takes besides the prompt. None is the same as leaving a name out.

    What is left out has the model's own default, else the one given here; zero is a value.
    """

    model: str
    """The model's id. Default: the one that the service serves."""
    client_request_id: str
    """Your own name for the request, for logs; at most 128 characters."""

    max_tokens: int | None
    """Most tokens to generate, at least 1. Default: what the context has left."""
    min_tokens: int | None
    """Fewest tokens before anything may end the answer. Default 0."""
    temperature: float | None
    """Randomness, 0 to 2; 0 is greedy. Default 1."""
    top_p: float | None
    """Smallest set of likely tokens whose probability reaches this, in (0, 1]. Default 1."""
    top_k: int | None
    """Number of likely tokens to consider. Default 0: all."""
    min_p: float | None
    """Least probability relative to the likeliest token's, 0 to 1. Default 0."""
    presence_penalty: float | None
    """For tokens that the answer has already, -2 to 2. Default 0."""
    frequency_penalty: float | None
    """The same, growing with each occurrence, -2 to 2. Default 0."""
    repetition_penalty: float | None
    """Divides the logits of tokens in prompt or answer, above 0 and up to 10. Default 1."""
    seed: int | None
    """Seed of the request's own random numbers, 0 to 2^63-1. Default: random."""
    stop: str | Sequence[str] | None
    """String or strings that end the answer, at most 16 of at most 256 characters."""
    stop_token_ids: Sequence[int] | None
    """Tokens that end the answer, at most 128."""
    ignore_eos: bool | None
    """Whether to go on after the end-of-text token. Default false."""
    skip_special_tokens: bool | None
    """Whether special tokens are left out of the text. Default true."""
    include_stop: bool | None
    """Whether the text includes the stop string or token that ended it. Default false."""
    n: int | None
    """Number of choices: so many answers to the one prompt, each with its own randomness (the seed
    plus its index), 1 to 16. Default 1. With more, events tell theirs by `choice_index`, and a lost
    connection is an error: they can be neither resumed nor detached."""
    logprobs: int | None
    """Log-probabilities: of each token, and of so many of the likeliest in its place, 0 to 20.
    Default: none."""
    logit_bias: Mapping[int, float] | None
    """Added to the logits of these tokens before a choice is made, -100 to 100; at most 1024."""
    json_object: bool | None
    """True keeps the answer to some JSON object. At most one of the three forms can be given."""
    json_schema: str | None
    """A JSON Schema, as text, that the answer is kept to; at most 64 KiB."""
    regex: str | None
    """A regular expression that the answer is kept to; at most 4 KiB."""
    priority: Priority | None
    """Before all others ("high"), or when nobody else waits ("low"). Default "normal"."""

    reading_tokens_per_second: float | None
    """How fast the answer is read, above 0 and up to 10000; people read about 4.8. While requests
    compete, one whose reader has text for long may wait. Default: as fast as it comes."""
    max_delay_ms: int | None
    """Longest time that a token after the first may wait for company, 0 to 1000 ms. Default 0."""
    max_tokens_per_message: int | None
    """Most tokens in one `Delta`, 1 to 1024. Default 1024."""
    on_disconnect: OnDisconnect | None
    """What a lost reader means: "end" ends the decoding, also after a lost connection; "detach"
    keeps the stream for its time to live, also after its reader has left. Default: leaving ends
    it, and a lost connection is resumed (`ClientOptions.resume`)."""
    time_to_live: float | None
    """Seconds that the service keeps a stream without a reader, above 0; its own limit caps it.
    Default: `ClientOptions.time_to_live`; with "end" it means nothing."""


_M = TypeVar("_M", bound=Message)

# What a field's values are, for people. Bounds within these types are the service's to check.
_WANTED: Final = {
    FieldDescriptor.TYPE_UINT32: "an integer from 0 to 4294967295",
    FieldDescriptor.TYPE_INT64: "an integer from -2^63 to 2^63-1",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_STRING: "text without lone surrogates",
}

_TOP_FIELDS: Final = ("model", "client_request_id")
_FORMS: Final = tuple(field.name for field in pb.StructuredOutput.DESCRIPTOR.fields)
_SAMPLING_FIELDS: Final = tuple(
    field.name
    for field in pb.SamplingOptions.DESCRIPTOR.fields
    if field.name not in ("logit_bias", "structured_output")
)
_STREAM_FIELDS: Final = ("max_delay_ms", "max_tokens_per_message", "reading_tokens_per_second")
_CHOICES: Final[dict[str, dict[str, int]]] = {
    "on_disconnect": {
        "end": pb.ON_DISCONNECT_END,
        "detach": pb.ON_DISCONNECT_DETACH,
    },
    "priority": {
        "low": pb.PRIORITY_LOW,
        "normal": pb.PRIORITY_NORMAL,
        "high": pb.PRIORITY_HIGH,
    },
}
_LONGEST_TIME_TO_LIVE_S: Final = 1_000_000


def generate_request(prompt: Prompt, **options: Unpack[GenerateOptions]) -> pb.GenerateRequest:
    """Build a request. A string is text, a sequence of integers is token ids.

    Raises:
        InvalidRequest: a value does not fit its field; all such fields are named.
        TypeError: an option that does not exist, or bytes for a prompt.
    """
    request = pb.GenerateRequest()
    values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if isinstance(values.get("stop"), str):
        values["stop"] = [values["stop"]]
    writer = _Writer()
    if isinstance(prompt, bytes | bytearray):
        raise TypeError("the prompt must be text or token ids, not bytes")
    if isinstance(prompt, str):
        writer.put(request, "", "text", prompt)
    elif isinstance(prompt, Chat):
        request.chat.SetInParent()
        for position, message in enumerate(prompt.messages):
            entry = request.chat.messages.add()
            for name in ("role", "content", "name"):
                writer.put(entry, f"chat.messages[{position}].", name, getattr(message, name))
    else:
        request.token_ids.SetInParent()  # empty is set too, and for the service to refuse
        writer.put(request.token_ids, "token_ids.", "ids", prompt)
    for name in _TOP_FIELDS:
        if name in values:
            writer.put(request, "", name, values.pop(name))
    for name in _SAMPLING_FIELDS:
        if name in values:
            writer.put(request.sampling, "sampling.", name, values.pop(name))
    if "logit_bias" in values:
        writer.map(request.sampling, "sampling.", "logit_bias", values.pop("logit_bias"))
    forms = {name: values.pop(name) for name in _FORMS if name in values}
    for name, value in forms.items():
        writer.put(request.sampling.structured_output, "sampling.structured_output.", name, value)
    if len(forms) > 1:
        writer.refuse("sampling.structured_output", f"give one of {', '.join(forms)}")
    for name in _STREAM_FIELDS:
        if name in values:
            writer.put(request.stream, "stream.", name, values.pop(name))
    if "priority" in values:
        writer.choose(request, "", "priority", values.pop("priority"))
    if "on_disconnect" in values:
        writer.choose(request.stream, "stream.", "on_disconnect", values.pop("on_disconnect"))
    if "time_to_live" in values:
        writer.seconds(request.stream, "stream.", "time_to_live_ms", values.pop("time_to_live"))
    if values:
        raise TypeError(f"generate() got an unexpected keyword argument {next(iter(values))!r}")
    writer.check()
    return request


def resume_request(
    stream_id: str,
    next_token_index: int,
    max_delay_ms: int | None = None,
    max_tokens_per_message: int | None = None,
) -> pb.ResumeRequest:
    """Build a request to read a stream on. Raises InvalidRequest."""
    request, writer = pb.ResumeRequest(), _Writer()
    writer.put(request, "", "stream_id", stream_id)
    writer.put(request, "", "next_token_index", next_token_index)
    if max_delay_ms is not None:
        writer.put(request.stream, "stream.", "max_delay_ms", max_delay_ms)
    if max_tokens_per_message is not None:
        writer.put(request.stream, "stream.", "max_tokens_per_message", max_tokens_per_message)
    writer.check()
    return request


def cancel_request(stream_id: str) -> pb.CancelRequest:
    """Build a request to end a stream. Raises InvalidRequest."""
    return _filled(pb.CancelRequest(), stream_id=stream_id)


def get_model_request(model: str) -> model_pb2.GetModelRequest:
    """Build a request for one model. Raises InvalidRequest."""
    return _filled(model_pb2.GetModelRequest(), model=model)


def tokenize_request(
    text: str, model: str, add_special_tokens: bool | None
) -> model_pb2.TokenizeRequest:
    """Build a request for a text's token ids. Raises InvalidRequest."""
    return _filled(
        model_pb2.TokenizeRequest(), text=text, model=model, add_special_tokens=add_special_tokens
    )


def detokenize_request(
    token_ids: Iterable[int], model: str, skip_special_tokens: bool | None
) -> model_pb2.DetokenizeRequest:
    """Build a request for the text of token ids. Raises InvalidRequest."""
    return _filled(
        model_pb2.DetokenizeRequest(),
        token_ids=token_ids,
        model=model,
        skip_special_tokens=skip_special_tokens,
    )


def _filled(message: _M, **values: object) -> _M:
    writer = _Writer()
    for name, value in values.items():
        if value is not None:
            writer.put(message, "", name, value)
    writer.check()
    return message


class _Writer:
    """Sets fields, and collects those whose value does not fit instead of failing at the first."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def put(self, message: Message, prefix: str, name: str, value: object) -> None:
        field = message.DESCRIPTOR.fields_by_name[name]
        try:
            if field.is_repeated:
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        except (TypeError, ValueError, OverflowError):
            wanted = _WANTED[field.type]
            article = "a list, each " if field.is_repeated else ""
            self.refuse(prefix + name, f"must be {article}{wanted}")

    def map(self, message: Message, prefix: str, name: str, value: Any) -> None:
        try:
            getattr(message, name).update(value)
        except (TypeError, ValueError, OverflowError):
            entry = message.DESCRIPTOR.fields_by_name[name].message_type
            assert entry is not None
            key, wanted = (_WANTED[entry.fields_by_name[part].type] for part in ("key", "value"))
            self.refuse(prefix + name, f"must be a mapping, each {key} to {wanted}")

    def refuse(self, field: str, why: str) -> None:
        self._violations.append(FieldViolation(field, why))

    def choose(self, message: Message, prefix: str, name: str, value: object) -> None:
        choices = _CHOICES[name]
        if isinstance(value, str) and value in choices:
            setattr(message, name, choices[value])
        else:
            wanted = " or ".join(f'"{choice}"' for choice in choices)
            self._violations.append(FieldViolation(prefix + name, f"must be {wanted}"))

    def seconds(self, message: Message, prefix: str, name: str, value: object) -> None:
        fits = isinstance(value, int | float) and 0 < value <= _LONGEST_TIME_TO_LIVE_S
        if fits:
            assert isinstance(value, int | float)
            setattr(message, name, max(1, round(value * 1000)))
        else:
            wanted = f"must be above 0 and at most {_LONGEST_TIME_TO_LIVE_S} seconds"
            self._violations.append(FieldViolation(prefix + name, wanted))

    def check(self) -> None:
        if self._violations:
            raise InvalidRequest(
                "; ".join(f"{v.field}: {v.description}" for v in self._violations),
                reason="INVALID_REQUEST",
                field_violations=self._violations,
            )
