import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from service.admission import validation
from service.domain import (
    ChatMessage,
    ChatPrompt,
    DeliveryOptions,
    GenerationRequest,
    ModelCard,
    OnDisconnect,
    Priority,
    Prompt,
    SamplingOptions,
    StructuredOutput,
    TextPrompt,
    TokensPrompt,
)
from service.errors import InvalidRequest, ModelNotFound

MODEL = ModelCard("m", context_length=100, vocab_size=50, has_chat_template=True)
NO_TOKENIZER = dataclasses.replace(MODEL, has_tokenizer=False)
LIMIT = 1000
DETACHED = DeliveryOptions(on_disconnect=OnDisconnect.DETACH)
X = TextPrompt("x")
NAN, INF = math.nan, math.inf


def bad_fields(request: GenerationRequest, model: ModelCard = MODEL) -> list[str]:
    try:
        validation.check_request(request, model, LIMIT)
    except InvalidRequest as refused:
        return [v.field for v in refused.violations if v.description]
    return []


def request(prompt: Prompt = X, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(prompt, sampling=SamplingOptions(**sampling))


INSIDE = [
    ("max_tokens", 1),
    ("max_tokens", 99),
    ("min_tokens", 0),
    ("min_tokens", 99),
    ("temperature", 0.0),
    ("temperature", 2.0),
    ("top_p", 5e-324),
    ("top_p", 1.0),
    ("top_k", 0),
    ("top_k", 2**31 - 1),
    ("min_p", 0.0),
    ("min_p", 1.0),
    ("presence_penalty", -2.0),
    ("presence_penalty", 2.0),
    ("frequency_penalty", -2.0),
    ("frequency_penalty", 2.0),
    ("repetition_penalty", 5e-324),
    ("repetition_penalty", 10.0),
    ("seed", 0),
    ("seed", 2**63 - 1),
    ("n", 1),
    ("n", 16),
    ("stop", ("s",) * 16),
    ("stop", ("s" * 256,)),
    ("stop_token_ids", (0, 49)),
    ("stop_token_ids", (1,) * 128),
    ("logprobs", 0),
    ("logprobs", 20),
    ("logit_bias", {0: -100.0, 49: 100.0}),
    ("structured_output", StructuredOutput(json_object=True)),
    ("structured_output", StructuredOutput(json_schema="s" * 2**16)),
    ("structured_output", StructuredOutput(regex="r" * 2**12)),
    ("structured_output", StructuredOutput(regex=" ")),
]
FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
OUTSIDE = [
    ("n", 0),
    ("n", 17),
    ("n", 2**32 - 1),
    ("max_tokens", 0),
    ("max_tokens", 100),
    ("min_tokens", 100),
    ("temperature", math.nextafter(0, -1)),
    ("temperature", math.nextafter(2, 3)),
    ("top_p", 0.0),
    ("top_p", -0.0),
    ("top_p", math.nextafter(1, 2)),
    ("top_k", 2**31),
    ("min_p", math.nextafter(0, -1)),
    ("min_p", math.nextafter(1, 2)),
    ("presence_penalty", math.nextafter(-2, -3)),
    ("presence_penalty", math.nextafter(2, 3)),
    ("frequency_penalty", math.nextafter(-2, -3)),
    ("frequency_penalty", math.nextafter(2, 3)),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", math.nextafter(10, 11)),
    ("seed", -1),
    ("seed", 2**63),
    ("stop", ("s",) * 17),
    ("stop_token_ids", (50,)),
    ("stop_token_ids", (-1,)),
    ("stop_token_ids", (1,) * 129),
    ("logprobs", 21),
    ("logit_bias", {50: 1.0}),
    *((name, value) for name in FLOATS for value in (NAN, INF, -INF)),
]


@pytest.mark.parametrize(("name", "value"), INSIDE)
def test_a_value_on_its_bound_is_taken(name: str, value: Any) -> None:
    assert bad_fields(request(**{name: value})) == []


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_value_behind_its_bound_is_refused_by_name(name: str, value: Any) -> None:
    assert bad_fields(request(**{name: value})) == [f"sampling.{name}"]


def test_every_option_with_a_bound_is_tried_on_both_sides() -> None:
    unbounded = {"ignore_eos", "skip_special_tokens", "include_stop"}
    names = {f.name for f in dataclasses.fields(SamplingOptions)} - unbounded
    assert {name for name, _ in INSIDE} == names
    assert {name for name, _ in OUTSIDE} == names - {"structured_output"}  # see BAD_FORMS


BAD_FORMS = [
    (StructuredOutput(), ""),
    (StructuredOutput(json_object=False), ".json_object"),
    (StructuredOutput(json_schema=""), ".json_schema"),
    (StructuredOutput(json_schema="s" * (2**16 + 1)), ".json_schema"),
    (StructuredOutput(json_schema="\u20ac" * 2**15), ".json_schema"),
    (StructuredOutput(json_schema="a\0b"), ".json_schema"),
    (StructuredOutput(regex=""), ".regex"),
    (StructuredOutput(regex="r" * (2**12 + 1)), ".regex"),
    (StructuredOutput(regex="a\0b"), ".regex"),
]


@pytest.mark.parametrize(("form", "path"), BAD_FORMS)
def test_a_form_that_is_none_is_refused_by_name(form: StructuredOutput, path: str) -> None:
    assert bad_fields(request(structured_output=form)) == ["sampling.structured_output" + path]


def test_a_form_does_not_go_with_a_least_number_of_tokens() -> None:
    form = StructuredOutput(json_object=True)
    assert bad_fields(request(structured_output=form, min_tokens=0)) == []
    assert bad_fields(request(structured_output=form, min_tokens=1)) == ["sampling.min_tokens"]


def test_a_form_needs_a_tokenizer() -> None:
    prompt = TokensPrompt((1,))
    refused = request(prompt, structured_output=StructuredOutput(regex="a"))
    assert bad_fields(refused, NO_TOKENIZER) == ["sampling.structured_output.regex"]


@pytest.mark.parametrize("bias", [-100.1, 100.1, NAN, INF, -INF])
def test_a_bias_behind_its_bound_is_refused_by_its_tokens_name(bias: float) -> None:
    assert bad_fields(request(logit_bias={1: 1.0, 7: bias, 8: bias})) == ["sampling.logit_bias[7]"]


def test_biases_have_a_most() -> None:
    model = dataclasses.replace(MODEL, vocab_size=2000)
    assert bad_fields(request(logit_bias=dict.fromkeys(range(1024), 1.0)), model) == []
    too_many = request(logit_bias=dict.fromkeys(range(1025), 1.0))
    assert bad_fields(too_many, model) == ["sampling.logit_bias"]


@pytest.mark.parametrize("most", [0, 5])
def test_an_engine_may_tell_fewer_log_probabilities(most: int) -> None:
    model = dataclasses.replace(MODEL, max_logprobs=most)
    assert bad_fields(request(logprobs=most), model) == []
    assert bad_fields(request(logprobs=most + 1), model) == ["sampling.logprobs"]


USER = ChatMessage("user", "Hi")
BAD_CHATS = [
    ((), "chat.messages"),
    ((USER,) * 1025, "chat.messages"),
    ((USER, ChatMessage("", "Hi")), "chat.messages[1].role"),
    ((ChatMessage("r" * 65, "Hi"),), "chat.messages[0].role"),
    ((ChatMessage("r\0", "Hi"),), "chat.messages[0].role"),
    ((ChatMessage("user", "a\0b"),), "chat.messages[0].content"),
    ((ChatMessage("user", "Hi", "n" * 65),), "chat.messages[0].name"),
    ((ChatMessage("user", "Hi", "\0"),), "chat.messages[0].name"),
    ((USER, ChatMessage("", ""), ChatMessage("", "\0")), "chat.messages[1].role"),
]


@pytest.mark.parametrize(
    "messages",
    [(USER,), (USER,) * 1024, (ChatMessage("r" * 64, "", "n" * 64),)],
)
def test_a_chat_within_its_bounds_is_taken(messages: tuple[ChatMessage, ...]) -> None:
    assert bad_fields(request(ChatPrompt(messages))) == []


@pytest.mark.parametrize(("messages", "path"), BAD_CHATS)
def test_a_bad_chat_is_refused_by_its_first_bad_message(
    messages: tuple[ChatMessage, ...], path: str
) -> None:
    assert bad_fields(request(ChatPrompt(messages))) == [path]


def test_a_chat_needs_a_template_and_a_tokenizer() -> None:
    chat = request(ChatPrompt((USER,)))
    assert bad_fields(chat, dataclasses.replace(MODEL, has_chat_template=False)) == ["chat"]
    assert bad_fields(chat, NO_TOKENIZER) == ["chat"]


def test_a_chat_that_is_too_long_once_it_is_tokens_is_refused_as_a_chat() -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.check_fits(100, request(ChatPrompt((USER,))), MODEL)
    assert [v.field for v in refused.value.violations] == ["chat"]


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        (None, ["prompt"]),
        (TextPrompt(""), ["text"]),
        (TextPrompt("a\0b"), ["text"]),
        (TextPrompt(" "), []),
        (TokensPrompt(()), ["token_ids.ids"]),
        (TokensPrompt((0,) * 99), []),
        (TokensPrompt((0,) * 100), ["token_ids.ids"]),
        (TokensPrompt((49,)), []),
        (TokensPrompt((50,)), ["token_ids.ids"]),
        (TokensPrompt((0, -1)), ["token_ids.ids"]),
    ],
)
def test_prompts(prompt: Prompt | None, fields: list[str]) -> None:
    assert bad_fields(GenerationRequest(prompt)) == fields


def test_min_tokens_above_max_tokens_are_refused_by_name() -> None:
    assert bad_fields(request(min_tokens=5, max_tokens=5)) == []
    assert bad_fields(request(min_tokens=6, max_tokens=5)) == ["sampling.min_tokens"]


def test_every_bad_stop_string_is_named_by_its_place() -> None:
    assert bad_fields(request(stop=("a", "", "b", "c" * 257))) == [
        "sampling.stop[1]",
        "sampling.stop[3]",
    ]


@pytest.mark.parametrize(
    ("delivery", "fields"),
    [
        (DeliveryOptions(max_delay_s=1.0), []),
        (DeliveryOptions(max_delay_s=1.001), ["stream.max_delay_ms"]),
        (DeliveryOptions(max_tokens_per_message=1), []),
        (DeliveryOptions(max_tokens_per_message=0), ["stream.max_tokens_per_message"]),
        (DeliveryOptions(max_tokens_per_message=1024), []),
        (DeliveryOptions(max_tokens_per_message=1025), ["stream.max_tokens_per_message"]),
        (DeliveryOptions(credit=0), []),
        (DeliveryOptions(credit=2**32 - 1), []),
        (DeliveryOptions(reading_rate=0.1), []),
        (DeliveryOptions(reading_rate=10_000.0), []),
        (DeliveryOptions(reading_rate=0.0), ["stream.reading_tokens_per_second"]),
        (DeliveryOptions(reading_rate=10_001.0), ["stream.reading_tokens_per_second"]),
        (DeliveryOptions(reading_rate=math.nan), ["stream.reading_tokens_per_second"]),
        (DeliveryOptions(reading_rate=math.inf), ["stream.reading_tokens_per_second"]),
        (DETACHED, []),
        (DeliveryOptions(on_disconnect=OnDisconnect.END), []),
        (DeliveryOptions(on_disconnect=OnDisconnect.UNKNOWN), ["stream.on_disconnect"]),
        (dataclasses.replace(DETACHED, time_to_live_s=0.001), []),
        (dataclasses.replace(DETACHED, time_to_live_s=0.0), ["stream.time_to_live_ms"]),
        (dataclasses.replace(DETACHED, time_to_live_s=1e6), []),  # is cut, not refused
        (DeliveryOptions(time_to_live_s=1.0), ["stream.time_to_live_ms"]),
        (DeliveryOptions(time_to_live_s=0.0), ["stream.time_to_live_ms"]),
    ],
)
def test_delivery_options(delivery: DeliveryOptions, fields: list[str]) -> None:
    assert bad_fields(GenerationRequest(TextPrompt("x"), delivery=delivery)) == fields


def refused_fields(check: Callable[[DeliveryOptions], None], options: DeliveryOptions) -> list[str]:
    try:
        check(options)
    except InvalidRequest as refused:
        return [v.field for v in refused.violations if v.description]
    return []


@pytest.mark.parametrize("credit", [0, 1])
def test_credit_is_refused_where_more_cannot_be_granted(credit: int) -> None:
    check = validation.check_without_credit
    assert refused_fields(check, DeliveryOptions(credit=credit)) == ["stream.credit"]
    assert refused_fields(check, DeliveryOptions(1.0, 5)) == []


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (DeliveryOptions(), []),
        (DeliveryOptions(max_delay_s=1.0, max_tokens_per_message=5, credit=0), []),
        (DeliveryOptions(max_delay_s=2.0), ["stream.max_delay_ms"]),
        (DeliveryOptions(max_tokens_per_message=0), ["stream.max_tokens_per_message"]),
        (DETACHED, ["stream.on_disconnect"]),
        (DeliveryOptions(on_disconnect=OnDisconnect.END), ["stream.on_disconnect"]),
        (DeliveryOptions(time_to_live_s=1.0), ["stream.time_to_live_ms"]),
        (
            dataclasses.replace(DETACHED, max_delay_s=2.0, time_to_live_s=1.0),
            ["stream.max_delay_ms", "stream.on_disconnect", "stream.time_to_live_ms"],
        ),
    ],
)
def test_a_stream_is_read_on_with_a_delivery_of_its_own_but_no_other_life(
    options: DeliveryOptions, fields: list[str]
) -> None:
    assert refused_fields(validation.check_resume, options) == fields


def test_the_callers_own_id_has_a_length() -> None:
    assert bad_fields(GenerationRequest(TextPrompt("x"), client_request_id="i" * 128)) == []
    too_long = GenerationRequest(TextPrompt("x"), client_request_id="i" * 129)
    assert bad_fields(too_long) == ["client_request_id"]


def test_all_bad_fields_are_reported_at_once() -> None:
    request = GenerationRequest(
        None,
        sampling=SamplingOptions(
            max_tokens=0, temperature=NAN, top_p=0.0, stop=("", "x" * 999), stop_token_ids=(999,)
        ),
        delivery=DeliveryOptions(2.0, 0),
        client_request_id="x" * 999,
    )
    assert bad_fields(request) == [
        "prompt",
        "sampling.max_tokens",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.stop[0]",
        "sampling.stop[1]",
        "sampling.stop_token_ids",
        "stream.max_delay_ms",
        "stream.max_tokens_per_message",
        "client_request_id",
    ]


@pytest.mark.parametrize("name", ["", "m"])
def test_the_served_model_may_be_named_or_not(name: str) -> None:
    validation.check_model(name, MODEL)
    assert bad_fields(GenerationRequest(TextPrompt("x"), model=name)) == []


def test_another_model_is_not_found_whatever_else_is_wrong() -> None:
    with pytest.raises(ModelNotFound, match="'other'"):
        validation.check_request(GenerationRequest(None, model="other"), MODEL, LIMIT)


def test_a_models_name_of_a_megabyte_is_not_repeated() -> None:
    with pytest.raises(ModelNotFound) as refused:
        validation.check_model("x" * 2**20, MODEL)
    assert len(str(refused.value)) < 300


def test_a_message_may_be_as_large_as_the_limit_and_not_larger() -> None:
    assert bad_fields(GenerationRequest(TextPrompt("x"), size_bytes=LIMIT)) == []
    assert bad_fields(GenerationRequest(TextPrompt("x"), size_bytes=LIMIT + 1)) == [""]


@pytest.mark.parametrize(
    ("prompt_tokens", "sampling", "fields"),
    [
        (60, SamplingOptions(max_tokens=40), []),
        (60, SamplingOptions(max_tokens=41), ["sampling.max_tokens"]),
        (60, SamplingOptions(min_tokens=40), []),
        (60, SamplingOptions(min_tokens=41), ["sampling.min_tokens"]),
        (60, SamplingOptions(min_tokens=40, max_tokens=40), []),
        (99, SamplingOptions(), []),
    ],
)
def test_prompt_and_output_must_fit_the_context_together(
    prompt_tokens: int, sampling: SamplingOptions, fields: list[str]
) -> None:
    found: list[str] = []
    asked = GenerationRequest(TextPrompt("x"), sampling=sampling)
    try:
        validation.check_fits(prompt_tokens, asked, MODEL)
    except InvalidRequest as refused:
        found = [v.field for v in refused.violations]
    assert found == fields


@pytest.mark.parametrize("prompt_tokens", [100, 101])
def test_a_prompt_that_leaves_no_room_does_not_fit_whatever_is_asked_for(
    prompt_tokens: int,
) -> None:
    with pytest.raises(InvalidRequest, match=r"^text: "):
        validation.check_fits(prompt_tokens, GenerationRequest(TextPrompt("x")), MODEL)
    with pytest.raises(InvalidRequest, match=r"^token_ids\.ids: "):
        validation.check_fits(prompt_tokens, GenerationRequest(TokensPrompt((1,))), MODEL)


def test_a_priority_that_is_newer_than_the_service_is_refused() -> None:
    assert bad_fields(GenerationRequest(TextPrompt("x"), priority=Priority.HIGH)) == []
    assert bad_fields(GenerationRequest(TextPrompt("x"), priority=Priority.UNKNOWN)) == ["priority"]


def test_without_a_tokenizer_only_token_ids_go_in_and_no_stop_strings() -> None:
    assert bad_fields(request(TextPrompt("x"), stop=("s",)), NO_TOKENIZER) == [
        "text",
        "sampling.stop",
    ]
    assert bad_fields(request(TokensPrompt((1,))), NO_TOKENIZER) == []
    with pytest.raises(InvalidRequest, match="without a tokenizer"):
        validation.check_text("x", NO_TOKENIZER)
    with pytest.raises(InvalidRequest, match="without a tokenizer"):
        validation.check_token_ids([1], NO_TOKENIZER)


def test_texts_and_token_ids_to_translate_are_checked_too() -> None:
    validation.check_text("", MODEL)
    validation.check_token_ids([], MODEL)
    with pytest.raises(InvalidRequest, match=r"text: .*U\+0000"):
        validation.check_text("\0", MODEL)
    with pytest.raises(InvalidRequest, match="token_ids: 50 is not"):
        validation.check_token_ids([1, 50], MODEL)


def test_several_choices_cannot_be_detached_and_one_can() -> None:
    assert bad_fields(dataclasses.replace(request(n=2), delivery=DETACHED)) == [
        "stream.on_disconnect"
    ]
    assert bad_fields(dataclasses.replace(request(n=1), delivery=DETACHED)) == []


def test_the_last_choices_seed_must_be_one_too() -> None:
    assert bad_fields(request(n=3, seed=2**63 - 3)) == []
    assert bad_fields(request(n=3, seed=2**63 - 2)) == ["sampling.seed"]
    assert bad_fields(request(n=3, seed=2**63)) == ["sampling.seed"]


def test_more_choices_than_places_are_refused_by_name() -> None:
    validation.check_places(3, 3)
    with pytest.raises(InvalidRequest) as refused:
        validation.check_places(4, 3)
    assert [v.field for v in refused.value.violations] == ["sampling.n"]
