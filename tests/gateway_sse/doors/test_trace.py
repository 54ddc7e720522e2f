"""Examples of https://www.w3.org/TR/trace-context/."""

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway_sse.doors.trace import trace_context_of

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("traceparent", [GOOD, "cc" + GOOD[2:], "cc" + GOOD[2:] + "-more"])
def test_a_context_is_passed_on_as_it_came(traceparent: str) -> None:
    headers = {"traceparent": traceparent, "tracestate": "congo=t61rcWkgMzE"}
    request = make_mocked_request("GET", "/", headers=headers)
    assert trace_context_of(request) == (traceparent, "congo=t61rcWkgMzE")


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        GOOD + "-more",  # version 00 has no more
        GOOD.upper(),
        "ff" + GOOD[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "cc" + GOOD[2:] + "-" + "x" * 600,
        "cc" + GOOD[2:] + "-é",
    ],
)
def test_what_is_no_context_is_dropped_with_its_state(traceparent: str) -> None:
    headers = {"traceparent": traceparent, "tracestate": "congo=t61rcWkgMzE"}
    assert trace_context_of(make_mocked_request("GET", "/", headers=headers)) == ("", "")


@pytest.mark.parametrize("tracestate", ["x" * 513, "a=é"])
def test_a_state_that_cannot_be_passed_on_is_dropped_alone(tracestate: str) -> None:
    headers = {"traceparent": GOOD, "tracestate": tracestate}
    assert trace_context_of(make_mocked_request("GET", "/", headers=headers)) == (GOOD, "")
