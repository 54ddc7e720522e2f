"""What a refused request is told."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway_sse.openai.asked import Asked
from gateway_sse.openai.errors import ErrorDetail, body_of
from gateway_sse.problems import Refused

JSON = "application/json"


def refusal(parse: Callable[[str, bytes], Asked], body: Any) -> ErrorDetail:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused) as refused:
        parse(JSON, raw)
    assert refused.value.problem.status == 400
    return body_of(refused.value.problem)["error"]
