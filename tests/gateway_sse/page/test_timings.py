"""The figures, from known times."""

from typing import Any

from tests.gateway_sse.page.node import run_module

FIGURES = """
    import { duration, Timings } from "page/timings.js";
    const timings = new Timings(1000);
    for (const [what, ...values] of given) timings[what](...values);
    const { tokens, firstTokenMs, firstVisibleMs, lastVisibleMs, longestGapMs } = timings;
    tell({ tokens, firstTokenMs, firstVisibleMs, lastVisibleMs, longestGapMs,
           rate: timings.tokensPerSecond, perceived: timings.perceived });
"""


def figures(*steps: tuple[Any, ...]) -> dict[str, Any]:
    """The page's figures of an answer that was asked for at 1,000 ms."""
    told: dict[str, Any] = run_module(FIGURES, [list(step) for step in steps])
    return told


def test_nothing_is_claimed_of_an_answer_that_has_not_begun() -> None:
    told = figures()
    assert told.pop("tokens") == 0
    assert set(told.values()) == {None}


def test_arriving_and_being_seen_are_two_things() -> None:
    told = figures(
        ("arrived", 1100, 1), ("drawn", 1116), ("arrived", 1150, 3), ("drawn", 1166),
        ("arrived", 1500, 5), ("arrived", 1600, 11), ("drawn", 1616),
    )  # fmt: skip
    assert told["firstTokenMs"] == 100
    assert told["firstVisibleMs"] == 116
    assert told["lastVisibleMs"] == 616
    assert told["longestGapMs"] == 450
    assert told["rate"] == 20, "10 tokens behind the first, in half a second"
    assert told["perceived"] == {
        "first_token_ms": 116,
        "last_token_ms": 616,
        "longest_gap_ms": 450,
    }


def test_a_rate_is_the_services_where_all_came_at_once() -> None:
    usage = {"completion_tokens": 11}
    service = {"time_to_first_token_ms": 50, "total_ms": 300}
    told = figures(
        ("arrived", 1100, 10),
        ("arrived", 1101, 11),
        ("drawn", 1116),
        ("finished", {"usage": usage, "timings": service}),
    )
    assert told["rate"] == 40
    assert told["perceived"]["longest_gap_ms"] == 0


def test_durations_are_rounded_for_people() -> None:
    said = run_module(
        'import { duration } from "page/timings.js"; tell(given.map(duration));',
        [None, 0, 85.4, 999.4, 999.6, 1240],
    )
    none = "\N{EN DASH}"
    assert said == [none, "0 ms", "85 ms", "999 ms", "1.00 s", "1.24 s"]


def test_attempts_to_come_back_get_rarer_and_are_spread() -> None:
    waits = run_module(
        """
        import { backoffMs } from "page/backoff.js";
        tell([0, 1, 2, 20].map((n) => [backoffMs(n, 300, 0), backoffMs(n, 300, 1)]));
        """
    )
    assert waits[0] == [225, 300]
    assert waits[-1] == [2250, 3000]
    assert all(low < high for low, high in waits)
    assert sorted(waits) == waits
