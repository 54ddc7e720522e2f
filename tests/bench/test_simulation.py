from typing import Any

import pytest

from bench.simulation import Simulation


def test_settings_survive_the_way_to_the_engine() -> None:
    simulation = Simulation(step_us=5000, per_sequence_us=2.5, kv_tokens=4096)
    config = simulation.engine_args()["additional_config"]
    assert Simulation.from_additional_config(config) == simulation


def test_without_settings_the_defaults_apply() -> None:
    assert Simulation.from_additional_config({"other": 1}) == Simulation()


def test_a_misspelt_setting_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="step_ms"):
        Simulation.from_additional_config({"simulation": {"step_ms": 20}})


@pytest.mark.parametrize(
    "settings", [{"step_us": -1}, {"kv_tokens": 0}, {"token_count": 0}, {"first_token": -1}]
)
def test_what_cannot_be_simulated_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="simulation"):
        Simulation(**settings)


def test_a_step_takes_the_sum_of_its_parts() -> None:
    simulation = Simulation(
        step_us=1000, per_sequence_us=10, per_prefill_token_us=1, per_context_token_us=0.1
    )
    assert simulation.step_s(4, 100, 1000) == pytest.approx(1240e-6)
