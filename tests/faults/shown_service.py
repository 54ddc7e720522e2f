"""A service over the scripted engine: `python -m tests.faults.shown_service STEP_S`.

It says its address, and for each line what its requests hold.
"""

import sys
from typing import Any

import uvloop

from service.app import spare_long_lived_objects
from service.engine.scripted import ScriptedEngine
from tests.faults.shown import answer_lines, keep_output
from tests.service.running import running_service


async def main(step_s: float) -> None:
    """Serve until the input ends."""
    out = keep_output()
    engine = ScriptedEngine(step_s=step_s, context_length=500_000)
    async with running_service(engine, drain_grace_s=0, log_level="error") as running:
        spare_long_lived_objects()

        async def look() -> dict[str, Any]:
            return {"held": running.service.gate.held, "nothing_runs": running.nothing_runs}

        await answer_lines(out, running.target, look)


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1])))
