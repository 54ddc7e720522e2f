import dataclasses
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from service.domain import (
    ChatMessage,
    ChatPrompt,
    DeliveryOptions,
    EngineAccount,
    EngineFinish,
    Finished,
    FinishReason,
    GenerationRequest,
    ModelCard,
    OnDisconnect,
    Priority,
    SamplingOptions,
    StructuredOutput,
    TextPrompt,
    Timings,
    TokensPrompt,
    Usage,
)
from service.transport.convert import from_finished, from_model, to_delivery, to_request
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import model_pb2

FIELDS = list(pb.SamplingOptions.DESCRIPTOR.fields)

# A value of each type that is no default, and the zero.
VALUES: dict[int, tuple[Any, Any]] = {
    FieldDescriptor.TYPE_UINT32: (7, 0),
    FieldDescriptor.TYPE_INT64: (7, 0),
    FieldDescriptor.TYPE_DOUBLE: (0.25, 0.0),
    FieldDescriptor.TYPE_BOOL: (True, False),
    FieldDescriptor.TYPE_STRING: ("x", ""),
}


FORM = pb.StructuredOutput(regex="[ab]")
COMPOUND: dict[str, tuple[Any, Any]] = {
    "logit_bias": ({7: 0.5}, {7: 0.5}),
    "structured_output": (FORM, StructuredOutput(regex="[ab]")),
}


def converted(name: str, value: Any) -> SamplingOptions:
    request = pb.GenerateRequest(text="x", sampling=pb.SamplingOptions(**{name: value}))
    return to_request(pb.GenerateRequest.FromString(request.SerializeToString())).sampling


def test_the_domain_has_the_options_of_the_contract_and_no_others() -> None:
    assert {field.name for field in FIELDS} == {
        field.name for field in dataclasses.fields(SamplingOptions)
    }


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_sampling_option_reaches_the_domain_and_zero_is_a_value(
    field: FieldDescriptor,
) -> None:
    values = VALUES.get(field.type, (None,))
    for value in values:
        wire, own = ([value], (value,)) if field.is_repeated else (value, value)
        if field.name in COMPOUND:
            wire, own = COMPOUND[field.name]
        options = converted(field.name, wire)
        assert getattr(options, field.name) == own
        assert (
            dataclasses.replace(options, **{field.name: getattr(SamplingOptions(), field.name)})
            == SamplingOptions()
        ), "another option changed too"


def test_what_is_not_set_is_the_domains_default() -> None:
    assert to_request(pb.GenerateRequest()) == GenerationRequest(None)


def test_every_scalar_option_tells_zero_from_unset() -> None:
    for message in pb.SamplingOptions, pb.StreamOptions:
        for field in message.DESCRIPTOR.fields:
            # An enum's zero is its "unspecified".
            assert field.is_repeated or field.has_presence or field.enum_type


@pytest.mark.parametrize(
    ("message", "prompt"),
    [
        (pb.GenerateRequest(text="hé"), TextPrompt("hé")),
        (pb.GenerateRequest(text=""), TextPrompt("")),
        (pb.GenerateRequest(), None),
    ],
)
def test_prompts_and_their_absence(message: pb.GenerateRequest, prompt: object) -> None:
    assert to_request(message).prompt == prompt


@pytest.mark.parametrize("ids", [[3, 1], []])
def test_token_ids_are_carried_over(ids: list[int]) -> None:
    prompt = to_request(pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))).prompt
    assert isinstance(prompt, TokensPrompt)
    assert list(prompt.token_ids) == ids


def test_the_rest_of_a_request_is_carried_over() -> None:
    message = pb.GenerateRequest(
        model="m",
        text="x",
        stream=pb.StreamOptions(max_delay_ms=250, max_tokens_per_message=3),
        client_request_id="mine",
    )
    assert to_request(message) == GenerationRequest(
        TextPrompt("x"),
        model="m",
        delivery=DeliveryOptions(0.25, 3),
        client_request_id="mine",
        size_bytes=message.ByteSize(),
    )


@pytest.mark.parametrize(
    ("options", "delivery"),
    [
        (pb.StreamOptions(), DeliveryOptions()),
        (pb.StreamOptions(max_delay_ms=0), DeliveryOptions(max_delay_s=0.0)),
        (pb.StreamOptions(max_delay_ms=1000), DeliveryOptions(max_delay_s=1.0)),
        (pb.StreamOptions(max_delay_ms=2**32 - 1), DeliveryOptions((2**32 - 1) / 1000)),
        (pb.StreamOptions(max_tokens_per_message=0), DeliveryOptions(max_tokens_per_message=0)),
        (pb.StreamOptions(max_tokens_per_message=7), DeliveryOptions(max_tokens_per_message=7)),
        (pb.StreamOptions(credit=0), DeliveryOptions(credit=0)),
        (pb.StreamOptions(credit=9), DeliveryOptions(credit=9)),
        (pb.StreamOptions(reading_tokens_per_second=4.5), DeliveryOptions(reading_rate=4.5)),
        (pb.StreamOptions(time_to_live_ms=0), DeliveryOptions(time_to_live_s=0.0)),
        (pb.StreamOptions(time_to_live_ms=1500), DeliveryOptions(time_to_live_s=1.5)),
        (pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_UNSPECIFIED), DeliveryOptions()),
        (
            pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_END),
            DeliveryOptions(on_disconnect=OnDisconnect.END),
        ),
        (
            pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH),
            DeliveryOptions(on_disconnect=OnDisconnect.DETACH),
        ),
    ],
)
def test_delivery_options(options: pb.StreamOptions, delivery: DeliveryOptions) -> None:
    assert to_delivery(options) == delivery
    assert to_request(pb.GenerateRequest(stream=options)).delivery == delivery


def test_a_value_that_is_newer_than_the_service_is_not_taken_for_one_that_it_knows() -> None:
    options = pb.StreamOptions.FromString(b"\x18\x63")  # on_disconnect = 99
    assert options.on_disconnect == 99
    assert to_delivery(options) == DeliveryOptions(on_disconnect=OnDisconnect.UNKNOWN)


def test_all_fields_of_the_contracts_options_are_known_here() -> None:
    assert [f.name for f in pb.StreamOptions.DESCRIPTOR.fields] == [
        "max_delay_ms",
        "max_tokens_per_message",
        "on_disconnect",
        "credit",
        "reading_tokens_per_second",
        "time_to_live_ms",
    ]
    assert {f.name for f in pb.GenerateRequest.DESCRIPTOR.fields} == {
        "model",
        "priority",
        "text",
        "token_ids",
        "chat",
        "sampling",
        "stream",
        "client_request_id",
    }


@pytest.mark.parametrize(
    ("wire", "own"),
    [
        (pb.StructuredOutput(json_object=False), StructuredOutput(json_object=False)),
        (pb.StructuredOutput(json_schema=""), StructuredOutput(json_schema="")),
        (pb.StructuredOutput(), StructuredOutput()),
    ],
)
def test_an_empty_form_is_told_from_none(wire: pb.StructuredOutput, own: StructuredOutput) -> None:
    assert converted("structured_output", wire).structured_output == own


def test_a_chat_reaches_the_domain_message_for_message() -> None:
    chat = pb.Chat(
        messages=[
            pb.ChatMessage(role="system", content="Be short."),
            pb.ChatMessage(role="user", content="", name="Ann"),
        ]
    )
    assert to_request(pb.GenerateRequest(chat=chat)).prompt == ChatPrompt(
        (ChatMessage("system", "Be short."), ChatMessage("user", "", "Ann"))
    )
    assert to_request(pb.GenerateRequest(chat=pb.Chat())).prompt == ChatPrompt(())


def finished(finish: EngineFinish, first: float | None = 0.5) -> pb.Finished:
    return from_finished(Finished(finish, Usage(3, 2, 1), Timings(first, 1.25)))


def test_a_finished_event() -> None:
    message = finished(EngineFinish(FinishReason.LENGTH))
    assert message.reason == pb.FINISH_REASON_LENGTH
    assert message.WhichOneof("matched") is None
    assert message.usage == pb.Usage(prompt_tokens=3, completion_tokens=2, cached_prompt_tokens=1)
    assert message.timings.total.ToMilliseconds() == 1250
    assert message.timings.time_to_first_token.ToMilliseconds() == 500


def test_the_engines_account_is_part_of_the_timings_where_there_is_one() -> None:
    assert not finished(EngineFinish(FinishReason.CANCELLED)).timings.HasField("engine")
    timings = Timings(0.5, 1.25, EngineAccount(0.1, 0.2, 0.3, 0.4, 5))
    event = Finished(EngineFinish(FinishReason.LENGTH), Usage(3, 2, 1), timings)
    account = from_finished(event).timings.engine
    parts = (account.queued, account.prefill, account.decode, account.parked)
    assert [part.ToMilliseconds() for part in parts] == [100, 200, 300, 400]
    assert account.preemptions == 5


@pytest.mark.parametrize(
    ("wire", "own"),
    [
        (pb.PRIORITY_UNSPECIFIED, Priority.NORMAL),
        (pb.PRIORITY_LOW, Priority.LOW),
        (pb.PRIORITY_NORMAL, Priority.NORMAL),
        (pb.PRIORITY_HIGH, Priority.HIGH),
        (77, Priority.UNKNOWN),
    ],
)
def test_a_priority_reaches_the_domain(wire: Any, own: Priority) -> None:
    assert to_request(pb.GenerateRequest(priority=wire)).priority is own


def test_a_finished_event_without_a_token_has_no_time_to_it() -> None:
    timings = finished(EngineFinish(FinishReason.CANCELLED), first=None).timings
    assert not timings.HasField("time_to_first_token")


@pytest.mark.parametrize(
    ("matched", "field", "value"),
    [("END", "stop_string", "END"), (7, "stop_token_id", 7), (0, "stop_token_id", 0)],
)
def test_what_stopped_it_is_told_token_zero_included(
    matched: str | int, field: str, value: str | int
) -> None:
    message = finished(EngineFinish(FinishReason.STOP, matched))
    assert message.WhichOneof("matched") == field
    assert getattr(message, field) == value


def test_every_reason_has_its_own_value_on_the_wire() -> None:
    wire = {finished(EngineFinish(reason)).reason for reason in FinishReason}
    assert wire == set(pb.FinishReason.values()) - {pb.FINISH_REASON_UNSPECIFIED}


@pytest.mark.parametrize(
    ("has_tokenizer", "capabilities"),
    [
        (True, [model_pb2.CAPABILITY_TEXT_PROMPT, model_pb2.CAPABILITY_TOKEN_IDS_PROMPT]),
        (False, [model_pb2.CAPABILITY_TOKEN_IDS_PROMPT]),
    ],
)
def test_a_model_says_what_it_can_do(
    has_tokenizer: bool, capabilities: list[model_pb2.Capability.ValueType]
) -> None:
    assert from_model(ModelCard("m", 10, 20, has_tokenizer)) == model_pb2.Model(
        id="m", context_length=10, vocab_size=20, capabilities=capabilities
    )


def test_a_model_with_a_chat_template_can_be_talked_to() -> None:
    card = ModelCard("m", 10, 20, has_chat_template=True)
    assert model_pb2.CAPABILITY_CHAT in from_model(card).capabilities
