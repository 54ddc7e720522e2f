from bench.idle import CASES, Measured, render


def _measured(kilobytes: float, lag_p99_s: float, own: float | None) -> Measured:
    return Measured(
        case=CASES[0],
        streams=10,
        grown_bytes=int(10 * 1024 * kilobytes),
        lag_p50_s=0.001,
        lag_p99_s=lag_p99_s,
        own_lag_p99_s=own,
        cpu_share=0.25,
        tokens=0,
        wrong=(),
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_tables_have_what_a_stream_costs_and_whether_the_goals_are_met() -> None:
    lines = render([_measured(41, 0.0195, 0.025)]).splitlines()
    assert _cells(lines[2])[1:] == ["10", "41", "1.0", "19.5", "≤ 25", "25%"]
    assert [_cells(line)[1:] for line in lines[6:]] == [
        ["≤ 40", "41", "no"],
        ["≤ 20", "19.5", "yes"],
        ["≤ 0", "0", "yes"],
    ]


def test_a_service_that_does_not_count_its_own_lag_leaves_its_place_empty() -> None:
    assert _cells(render([_measured(1, 0.001, None)]).splitlines()[2])[5] == "-"
