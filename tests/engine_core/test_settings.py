import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine_core.settings import KEY, Said, Settings


@pytest.mark.parametrize("config", [None, {}, {"sim": {"step_ms": 20}}, {KEY: {}}, "a plugin's"])
def test_where_nothing_is_given_the_defaults_hold(config: Any) -> None:
    assert Settings.from_additional_config(config) == Settings()


def test_what_is_given_wins_over_the_defaults_and_the_rest_stays() -> None:
    given: dict[str, Any] = {"high_mark": 500, "pacing": False, "weights": {"a": 2.0}}
    settings = Settings.from_additional_config({KEY: given, "another's": {"high_mark": 1}})
    assert settings == dataclasses.replace(Settings(), **given)
    assert settings.low_mark == Settings().low_mark


def test_every_setting_can_be_given_by_its_name() -> None:
    settings = Settings(high_mark=9, low_mark=3, weights={"a": 0.5}, deadlines=False)
    assert Settings.from_additional_config({KEY: dataclasses.asdict(settings)}) == settings


def test_a_name_that_is_not_known_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match="no setting 'hihg_mark'"):
        Settings.from_additional_config({KEY: {"hihg_mark": 500, "low_mark": 3}})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"low_mark": -1}, "low_mark"),
        ({"low_mark": 256}, "low_mark"),
        ({"high_mark": 64}, "high_mark"),
        ({"high_mark": 0, "low_mark": 0}, "high_mark"),
        ({"first_mark": 0}, "first_mark"),
        ({"headroom": 1.0}, "headroom"),
        ({"headroom": -0.1}, "headroom"),
        ({"recompute_share": 1.0}, "recompute_share"),
        ({"recompute_share": float("nan")}, "recompute_share"),
        ({"weights": {"a": 1.0, "b": 0.0}}, "weight"),
        ({"weights": {"a": -1.0}}, "weight"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_and_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"tokenstream: .*{named}"):
        Settings.from_additional_config({KEY: wrong})


@given(st.integers(-3, 5), st.integers(-3, 5))
def test_the_low_mark_is_always_below_the_high_one_and_not_below_zero(low: int, high: int) -> None:
    if 0 <= low < high:
        assert Settings(low_mark=low, high_mark=high).low_mark == low
    else:
        with pytest.raises(ValueError, match="low_mark"):
            Settings(low_mark=low, high_mark=high)


@pytest.mark.parametrize("extra_args", [None, {}, {"another's": 1}, {KEY: None}, {KEY: {}}])
def test_where_a_caller_said_nothing_nothing_is_said(extra_args: dict[str, Any] | None) -> None:
    assert Said.from_extra_args(extra_args) == Said()
    assert Said().reading_rate is None
    assert Said().deadline is None


def test_what_a_caller_said_arrives() -> None:
    said = Said("acme", 4.8, 0.5, 1234.5, -1, slow_start=False)
    extra_args = {KEY: dataclasses.asdict(said), "another's": 1}
    assert Said.from_extra_args(extra_args) == said


@pytest.mark.parametrize(
    "what",
    ["text", 5, 1.5, True, ["tenant", "acme"], {1: 2}, {"tenat": "acme"}, {"tenant": "a", "x": 1}],
    ids=repr,
)
def test_where_what_a_caller_said_cannot_be_read_nothing_is_said(what: Any) -> None:
    assert Said.from_extra_args({KEY: what, "another's": 1}) == Said()


@pytest.mark.parametrize(
    "what",
    [
        {"tenant": ["acme"]},
        {"reading_rate": "fast"},
        {"first_token_target_s": None},
        {"deadline": "soon"},
        {"priority": "high"},
        {"priority": None},
        {"deadline": ""},
        {"deadline": float("nan")},
        {"reading_rate": []},
        {"reading_rate": -1.0},
        {"reading_rate": 0},
        {"first_token_target_s": float("inf")},
    ],
    ids=repr,
)
def test_where_a_value_is_of_a_type_that_cannot_be_counted_with_nothing_is_said(what: Any) -> None:
    """Under vLLM's own `/inference/v1/generate` a caller can write any of these."""
    assert Said.from_extra_args({KEY: what}) == Said()
