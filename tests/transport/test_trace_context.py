import pytest

from service.transport.trace_context import trace_id_in, trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

WELL_FORMED = [
    f"00-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-00",
    f"01-{TRACE}-{SPAN}-01",
    f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
    f"cc-{TRACE}-{SPAN}-01-",
]
# From the W3C's own test suite, and what else could go wrong.
NOT_WELL_FORMED = [
    "",
    "00",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-extra",
    f"cc-{TRACE}-{SPAN}-01.what",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}0-01",
    f"00-{TRACE}-{SPAN}-1",
    f"0g-{TRACE}-{SPAN}-01",
    f" 00-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01\n",
    f"00-{TRACE[:-1]}\u0661-{SPAN}-01",
    f"cc-{TRACE}-{SPAN}-01-{'x' * 512}",
]


@pytest.mark.parametrize("header", WELL_FORMED)
def test_a_well_formed_header_names_its_trace(header: str) -> None:
    assert trace_id_of(header) == TRACE


@pytest.mark.parametrize("header", NOT_WELL_FORMED)
def test_any_other_header_names_none(header: str) -> None:
    assert trace_id_of(header) == ""


def test_a_calls_metadata_has_it_once_or_not_at_all() -> None:
    header = ("traceparent", WELL_FORMED[0])
    assert trace_id_in((("other", "x"), header)) == TRACE
    assert trace_id_in((header, header)) == ""
    assert trace_id_in((("traceparent", b"\x00"),)) == ""
    assert trace_id_in(()) == trace_id_in(None) == ""
