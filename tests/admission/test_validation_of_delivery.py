"""How an answer may be delivered."""

import dataclasses
import math
from collections.abc import Callable

import pytest

from service.admission import validation
from service.domain import (
    DeliveryOptions,
    GenerationRequest,
    OnDisconnect,
    TextPrompt,
)
from service.errors import InvalidRequest
from tests.admission.requests import (
    DETACHED,
    bad_fields,
    request,
)


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


def test_several_choices_cannot_be_detached_and_one_can() -> None:
    assert bad_fields(dataclasses.replace(request(n=2), delivery=DETACHED)) == [
        "stream.on_disconnect"
    ]
    assert bad_fields(dataclasses.replace(request(n=1), delivery=DETACHED)) == []
