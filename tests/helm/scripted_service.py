"""`tokenstream serve` with the scripted engine in place of vLLM; the settings are read as there."""

import asyncio
import sys

from service.app import serve
from service.config import ServiceSettings
from service.engine.scripted import ScriptedEngine
from service.telemetry import logging
from tokenstream_cli.settings import load

if __name__ == "__main__":
    settings = load(ServiceSettings, command="serve", section="service", argv=sys.argv[2:])
    logging.configure(settings.log_format, settings.log_level)
    sys.exit(asyncio.run(serve(settings, ScriptedEngine())))
