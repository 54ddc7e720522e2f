"""The service over the scripted engine, as a process: `python -m tests.scripted_service serve`.

Its settings are read as `tokenstream` reads them, and `SCRIPTED_STEP_S` from the environment.
"""

import asyncio
import os
import sys

import uvloop

from service.app import serve
from service.config import ServiceSettings
from service.engine.scripted import ScriptedEngine
from service.telemetry import logging
from tokenstream_cli.settings import load


def main() -> int:
    settings = load(ServiceSettings, command="serve", section="service", argv=sys.argv[2:])
    logging.configure(settings.log_format, settings.log_level)

    async def run() -> int:
        step_s = float(os.environ.get("SCRIPTED_STEP_S", "0.005"))
        return await serve(settings, ScriptedEngine(step_s=step_s, context_length=100_000))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(run()))


if __name__ == "__main__":
    sys.exit(main())
