"""A body as long as is let in costs little to refuse, whatever is wrong with it."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from gateway_sse.native.request import StreamRequest, from_body
from gateway_sse.problems import Refused
from tokenstream_client import FieldViolation

UNKNOWN = {f"x{index}": 0 for index in range(100_000)}
USER = {"role": "user", "content": ""}
LONG_NAME = "x" * 1_000_000


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        ({"prompt": "Hi", **UNKNOWN}, "x0", "unknown field"),
        ({"messages": [{**USER, **UNKNOWN}]}, "messages[0].x0", "unknown field"),
        ({"messages": [USER, *[{"x": 1}] * 100_000]}, "messages[1].x", "unknown field"),
        ({"messages": [USER] * 35_000}, "messages", "at most 1024"),
        ({"prompt": "Hi", LONG_NAME: 1}, "x" * 64, "unknown field"),
        ({"messages": [{**USER, LONG_NAME: 1}]}, f"messages[0].{'x' * 64}", "unknown field"),
    ],
    ids=[
        "unknown fields",
        "unknown fields of a message",
        "bad messages",
        "many messages",
        "a long name",
        "a long name in a message",
    ],
)
def test_a_long_bad_body_is_refused_for_its_first_fault_and_no_other_is_looked_for(
    body: dict[str, Any], field: str, description: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = list[str]()
    compare = difflib.get_close_matches

    def counted(word: str, known: Sequence[str], **how: Any) -> list[str]:
        compared.append(word)
        return compare(word, known, **how)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    with pytest.raises(Refused) as refused:
        from_body("application/json", json.dumps(body).encode())
    (violation,) = refused.value.problem.field_violations
    assert isinstance(violation, FieldViolation)
    assert violation.field == field
    assert description in violation.description
    assert all(len(word) <= 64 for word in compared)
    assert len(compared) <= 1
    with pytest.raises(ValidationError) as raised:
        StreamRequest.model_validate(body)
    assert raised.value.error_count() == 1


def test_as_many_messages_as_the_contract_allows_are_taken() -> None:
    body = {"messages": [USER] * 1024}
    assert from_body("application/json", json.dumps(body).encode()).prompt
