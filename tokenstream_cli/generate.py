"""`tokenstream generate "prompt"`: one request to a running service, printed as it comes.

The answer goes to standard output and nothing else does; a line of figures goes to standard error
when that is a terminal. Ctrl-C closes the call, which ends the decoding on the service.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from tokenstream_cli.settings import load
from tokenstream_client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    Delta,
    Event,
    Finished,
    TokenstreamError,
)

_FAILED = 1
_INTERRUPTED = 128 + signal.SIGINT


class GenerateSettings(BaseSettings):
    """Settings of `tokenstream generate`; an option left out is the model's own default."""

    model_config = SettingsConfigDict(
        env_prefix="TOKENSTREAM_GENERATE_",
        env_ignore_empty=True,
        extra="forbid",
        protected_namespaces=(),
    )

    prompt: CliPositionalArg[str] = Field(
        description="the text to continue; '-' reads it from standard input"
    )
    server: str = Field(default="127.0.0.1:50051", description="host:port of the service")
    model: str = Field(default="", description="model id; empty: the one that is served")
    max_tokens: int | None = Field(default=None, description="most tokens to generate")
    min_tokens: int | None = Field(default=None, description="fewest tokens before a stop counts")
    temperature: float | None = Field(default=None, description="0 (greedy) to 2")
    top_p: float | None = Field(default=None, description="above 0, at most 1")
    top_k: int | None = Field(default=None, description="0: all tokens")
    min_p: float | None = Field(default=None, description="0 to 1")
    presence_penalty: float | None = Field(default=None, description="-2 to 2")
    frequency_penalty: float | None = Field(default=None, description="-2 to 2")
    repetition_penalty: float | None = Field(default=None, description="above 0; 1: none")
    seed: int | None = Field(default=None, description="seed of the request's random numbers")
    stop: list[str] = Field(default_factory=list, description="stop string; may be repeated")
    ignore_eos: bool = Field(default=False, description="go on after the end of the text")
    max_delay_ms: int | None = Field(
        default=None, description="how long tokens may wait for company, 0 to 1000"
    )
    timeout: float | None = Field(default=None, description="seconds for the whole answer")
    json_events: bool = Field(
        default=False, alias="json", description="print every event as a line of JSON"
    )


def main(argv: Sequence[str]) -> int:
    """Print an answer. Returns 0, or 1 after an error, or 130 after Ctrl-C."""
    settings = load(GenerateSettings, command="generate", section="generate", argv=argv)
    try:
        return asyncio.run(_run(settings))
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return _FAILED


async def _run(settings: GenerateSettings) -> int:
    prompt = sys.stdin.read() if settings.prompt == "-" else settings.prompt
    options = settings.model_dump(exclude={"prompt", "server", "json_events"}, exclude_none=True)
    interrupted = False
    try:
        async with (
            AsyncClient(settings.server) as client,
            client.generate(prompt, **options) as stream,
        ):

            def interrupt() -> None:
                nonlocal interrupted
                interrupted = True
                stream.cancel()

            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
            await _print(stream, as_json=settings.json_events)
    except Cancelled:
        if not interrupted:
            raise
        print(file=sys.stderr)
        return _INTERRUPTED
    except TokenstreamError as error:
        print(f"tokenstream generate: {error}", file=sys.stderr)
        return _FAILED
    return 0


async def _print(stream: AsyncStream, *, as_json: bool) -> None:
    async for event in stream:
        if as_json:
            print(_json_line(event), flush=True)
        elif isinstance(event, Delta):
            print(event.text, end="", flush=True)
        elif isinstance(event, Finished):
            print(flush=True)
            if sys.stderr.isatty():
                print(_figures(event), file=sys.stderr)


def _json_line(event: Event) -> str:
    return json.dumps({"event": type(event).__name__.lower()} | asdict(event), ensure_ascii=False)


def _figures(finished: Finished) -> str:
    tokens, timings = finished.usage.completion_tokens, finished.timings
    parts = [f"{tokens} tokens", f"ended by {finished.reason}"]
    with suppress(TypeError, ZeroDivisionError):
        first = timings.time_to_first_token or 0.0
        parts.append(f"first after {first * 1000:.0f} ms")
        parts.append(f"{(tokens - 1) / (timings.total - first):.0f} tokens/s")
    return "\033[2m" + ", ".join(parts) + "\033[0m"
