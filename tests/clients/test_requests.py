"""Building requests: what arguments become, and which are refused before anything is sent."""

from typing import Any

import pytest

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import FieldViolation, GenerateOptions, InvalidRequest
from tokenstream_client.requests import generate_request


def test_the_options_are_the_contracts_fields() -> None:
    fields = {"model", "client_request_id", "priority"}
    fields |= {field.name for field in pb.SamplingOptions.DESCRIPTOR.fields}
    fields |= {field.name for field in pb.StreamOptions.DESCRIPTOR.fields}
    fields |= {field.name for field in pb.StructuredOutput.DESCRIPTOR.fields}
    fields -= {"structured_output"}  # its forms are options by themselves
    fields -= {"credit"}  # the client's own business: ClientOptions.window_tokens
    fields = {"time_to_live" if name == "time_to_live_ms" else name for name in fields}
    assert set(GenerateOptions.__annotations__) == fields


def test_only_what_is_given_is_set() -> None:
    assert generate_request("Hi") == pb.GenerateRequest(text="Hi")
    assert generate_request("Hi", temperature=None, stop=None) == pb.GenerateRequest(text="Hi")


def test_zero_and_false_are_values() -> None:
    sampling = generate_request("Hi", temperature=0, ignore_eos=False).sampling
    assert sampling.HasField("temperature")
    assert sampling.HasField("ignore_eos")
    assert not sampling.HasField("top_p")


def test_every_option_lands_in_its_field() -> None:
    request = generate_request(
        [1, 2],
        model="m",
        client_request_id="r",
        max_tokens=5,
        stop=["a", "b"],
        stop_token_ids=(7,),
        seed=2**62,
        priority="high",
        reading_tokens_per_second=4.5,
        max_delay_ms=0,
        max_tokens_per_message=3,
        on_disconnect="detach",
        time_to_live=1.5,
    )
    assert request == pb.GenerateRequest(
        model="m",
        client_request_id="r",
        token_ids=pb.TokenIds(ids=[1, 2]),
        sampling=pb.SamplingOptions(max_tokens=5, stop=["a", "b"], stop_token_ids=[7], seed=2**62),
        stream=pb.StreamOptions(
            max_delay_ms=0,
            max_tokens_per_message=3,
            reading_tokens_per_second=4.5,
            on_disconnect=pb.ON_DISCONNECT_DETACH,
            time_to_live_ms=1500,
        ),
        priority=pb.PRIORITY_HIGH,
    )


def test_one_stop_string_needs_no_list() -> None:
    assert list(generate_request("Hi", stop="END").sampling.stop) == ["END"]


def test_empty_token_ids_are_sent_as_such() -> None:
    assert generate_request([]).WhichOneof("prompt") == "token_ids"


@pytest.mark.parametrize(
    ("prompt", "options", "field", "description"),
    [
        (
            "Hi",
            {"max_tokens": -1},
            "sampling.max_tokens",
            "must be an integer from 0 to",
        ),
        ("Hi", {"max_tokens": 2**32}, "sampling.max_tokens", "4294967295"),
        ("Hi", {"max_tokens": 1.5}, "sampling.max_tokens", "integer"),
        ("Hi", {"seed": 2**63}, "sampling.seed", "2^63-1"),
        ("Hi", {"temperature": "hot"}, "sampling.temperature", "must be a number"),
        ("Hi", {"stop": ["a", 1]}, "sampling.stop", "must be a list, each text"),
        ("Hi", {"stop_token_ids": 7}, "sampling.stop_token_ids", "must be a list"),
        ("Hi", {"max_delay_ms": -1}, "stream.max_delay_ms", "integer"),
        ("Hi", {"model": 1}, "model", "must be text"),
        ("Hi", {"on_disconnect": "wait"}, "stream.on_disconnect", '"end" or "detach"'),
        ("Hi", {"time_to_live": 0}, "stream.time_to_live_ms", "above 0"),
        ("Hi", {"time_to_live": "1"}, "stream.time_to_live_ms", "seconds"),
        ("\ud800", {}, "text", "surrogates"),
        ([1, -1], {}, "token_ids.ids", "must be a list, each an integer"),
        (["1"], {}, "token_ids.ids", "must be a list"),
    ],
)
def test_a_value_that_does_not_fit_names_its_field(
    prompt: Any, options: Any, field: str, description: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        generate_request(prompt, **options)
    (violation,) = caught.value.field_violations
    assert violation.field == field
    assert description in violation.description


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        generate_request("Hi", max_tokens=-1, top_k=-1)
    assert [v.field for v in caught.value.field_violations] == [
        "sampling.max_tokens",
        "sampling.top_k",
    ]
    assert isinstance(caught.value.field_violations[0], FieldViolation)


def test_mistakes_in_the_calling_code_are_type_errors() -> None:
    with pytest.raises(TypeError, match="'maxtokens'"):
        generate_request("Hi", maxtokens=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="not bytes"):
        generate_request(b"Hi")
