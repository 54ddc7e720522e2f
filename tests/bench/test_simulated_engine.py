"""The simulated engine under the real service: every token of every stream is known."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.dialects.dialect import Workload
from bench.dialects.generate import Generate
from bench.load import Load
from bench.servers import Setup, service
from bench.simulation import Simulation

_STREAMS = 16


@pytest.mark.engine
@pytest.mark.timeout(240)
def test_every_token_of_every_stream_is_right_also_when_the_cache_is_short(
    tmp_path: Path,
) -> None:
    # The cache holds a third of what the streams need together, so some are preempted and resumed.
    simulation = Simulation(step_us=2000, kv_tokens=2304)
    work = Workload(streams=_STREAMS, tokens=300, prompt_tokens=80, known=simulation.tokens)
    setup = Setup(simulation, _STREAMS, tmp_path / "service.log")
    with service(setup) as server:
        for merged in (work, replace(work, max_delay_ms=20)):
            with Load(Generate(), server.address, merged, timeout_s=30) as load:
                load.warm_up()
                outcome = load.apply()
            assert outcome.wrong == ()
            assert outcome.tokens == _STREAMS * 300
