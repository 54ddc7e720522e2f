"""`tokenstream generate "prompt"`: one request to a running service, printed as it comes.

The answer goes to standard output and nothing else does; a line of figures goes to standard error
when that is a terminal. Ctrl-C closes the stream, which ends the decoding on the service. A lost
connection is resumed, and shows as a gap in time.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import typer

from tokenstream_cli.settings import fail
from tokenstream_client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    ClientOptions,
    Delta,
    Event,
    Finished,
    GenerateOptions,
    Priority,
    Tls,
    TokenstreamError,
)
from tokenstream_client.channel import is_local
from tokenstream_client.pem import UnusableTls

_FAILED = 1
_LONGEST_TIMEOUT_S = 1_000_000
_INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """What `tokenstream generate` was asked for; `options` are the client library's."""

    prompt: str
    server: str
    api_key: str | None
    tls: bool
    ca_file: Path | None
    certificate_file: Path | None
    private_key_file: Path | None
    allow_plaintext_keys: bool
    timeout: float | None
    as_json: bool
    options: GenerateOptions


_app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _option(help_text: str) -> Any:
    return typer.Option(None, help=help_text, show_default=False)


@_app.command()
def _parse(
    context: typer.Context,
    prompt: str = typer.Argument(..., help="The text to continue; '-' reads standard input."),
    server: str = typer.Option(
        "127.0.0.1:50051", envvar="TOKENSTREAM_SERVER", help="host:port of the service."
    ),
    api_key: str | None = typer.Option(
        None,
        envvar="TOKENSTREAM_API_KEY",
        help="API key; better in the environment, where other users do not see it.",
        show_default=False,
        show_envvar=True,
    ),
    tls: bool = typer.Option(False, "--tls", help="Encrypt; the service needs a certificate."),
    ca_file: Path | None = _option("PEM file of who vouches for the service; implies --tls."),
    certificate_file: Path | None = _option(
        "PEM file of your own certificate, for a service that asks for one; implies --tls."
    ),
    private_key_file: Path | None = _option("PEM file of that certificate's private key."),
    allow_plaintext_keys: bool = typer.Option(
        False,
        "--allow-plaintext-keys",
        help="Send the API key to another machine without TLS: where something else encrypts.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print every event as a line of JSON."),
    timeout: float | None = _option("Seconds for the whole answer."),
    model: str | None = _option("Model id; the one that is served if left out."),
    max_tokens: int | None = _option("Most tokens to generate."),
    min_tokens: int | None = _option("Fewest tokens before a stop counts."),
    temperature: float | None = _option("0 (greedy) to 2."),
    top_p: float | None = _option("Above 0, at most 1."),
    top_k: int | None = _option("0: all tokens."),
    min_p: float | None = _option("0 to 1."),
    presence_penalty: float | None = _option("-2 to 2."),
    frequency_penalty: float | None = _option("-2 to 2."),
    repetition_penalty: float | None = _option("Above 0, at most 10; 1: none."),
    seed: int | None = _option("Seed of the request's own random numbers."),
    stop: list[str] | None = _option("A string that ends the answer; may be repeated."),
    ignore_eos: bool = typer.Option(False, "--ignore-eos", help="Go on after the end of text."),
    max_delay_ms: int | None = _option("How long tokens may wait for company, 0 to 1000."),
    reading_tokens_per_second: float | None = _option(
        "How fast it is read, up to 10000; people read about 4.8. Left out: as fast as it comes."
    ),
    priority: str | None = _option("low, normal or high."),
) -> None:
    """Send one prompt to a running service and print the answer as it comes.

    An option left out is the model's own default. Ctrl-C ends the request on the service.
    """
    options: GenerateOptions = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop,
        "ignore_eos": ignore_eos,
        "max_delay_ms": max_delay_ms,
        "reading_tokens_per_second": reading_tokens_per_second,
        "priority": cast("Priority | None", priority),  # checked where the request is built
    }
    if model is not None:
        options["model"] = model
    context.obj.append(
        GenerateSettings(
            prompt=prompt,
            server=server,
            api_key=api_key or None,
            tls=tls,
            ca_file=ca_file,
            certificate_file=certificate_file,
            private_key_file=private_key_file,
            allow_plaintext_keys=allow_plaintext_keys,
            timeout=timeout,
            as_json=as_json,
            options=options,
        )
    )


def parse(argv: Sequence[str]) -> GenerateSettings:
    """Read the command's arguments; ends the process with a usage error, or after its help."""
    parsed: list[GenerateSettings] = []
    try:
        typer.main.get_command(_app).main(
            args=list(argv), prog_name="tokenstream generate", obj=parsed
        )
    except SystemExit:  # which is how it returns
        if not parsed:
            raise
    settings = parsed[0]
    if (settings.certificate_file is None) != (settings.private_key_file is None):
        fail("generate", "--certificate-file and --private-key-file go together")
    if settings.timeout is not None and not 0 < settings.timeout <= _LONGEST_TIMEOUT_S:
        fail("generate", f"--timeout must be above 0 and at most {_LONGEST_TIMEOUT_S} seconds")
    return settings


def main(argv: Sequence[str]) -> int:
    """Print an answer. Returns 0, or 1 after an error, or 130 after Ctrl-C."""
    settings = parse(argv)
    try:
        return asyncio.run(_run(settings))
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return _FAILED
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename}: "
        print(f"tokenstream generate: {name}{error.strerror}", file=sys.stderr)
        return _FAILED


def _connect(settings: GenerateSettings) -> AsyncClient:
    tls = _tls(settings)
    plain = tls is False and not settings.allow_plaintext_keys
    if settings.api_key and plain and not is_local(settings.server):
        fail(
            "generate",
            f"the API key would go to {settings.server} unencrypted: give --tls or --ca-file,"
            " or --allow-plaintext-keys where something else encrypts",
        )
    try:
        return AsyncClient(
            settings.server,
            api_key=settings.api_key,
            tls=tls,
            options=ClientOptions(allow_plaintext_keys=settings.allow_plaintext_keys),
        )
    except ValueError as error:
        fail("generate", str(error))


def _tls(settings: GenerateSettings) -> Tls | bool:
    if settings.ca_file is None and settings.certificate_file is None:
        return settings.tls
    try:
        return Tls(
            root_certificates=_content(settings.ca_file),
            private_key=_content(settings.private_key_file),
            certificate_chain=_content(settings.certificate_file),
        )
    except UnusableTls as error:
        option, path = {
            "root_certificates": ("--ca-file", settings.ca_file),
            "private_key": ("--private-key-file", settings.private_key_file),
            "certificate_chain": ("--certificate-file", settings.certificate_file),
        }[error.part]
        print(f"tokenstream generate: {option}: {path} {error.why}", file=sys.stderr)
        sys.exit(_FAILED)


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


async def _run(settings: GenerateSettings) -> int:
    prompt = sys.stdin.read() if settings.prompt == "-" else settings.prompt
    interrupted = False
    stream: AsyncStream | None = None
    try:
        async with (
            _connect(settings) as client,
            client.generate(prompt, timeout=settings.timeout, **settings.options) as stream,
        ):
            cancel = stream.cancel

            def interrupt() -> None:
                nonlocal interrupted
                interrupted = True
                cancel()

            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
            await _print(stream, as_json=settings.as_json)
    except TokenstreamError as error:
        if not settings.as_json and stream is not None and stream.started is not None:
            print(flush=True)  # the answer broke off in the middle of a line
        if interrupted and isinstance(error, Cancelled):
            return _INTERRUPTED
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
    if isinstance(event, Delta):
        values = event._asdict()
        del values["logprobs"]  # not asked for here
    else:
        values = asdict(event)
    return json.dumps({"event": type(event).__name__.lower()} | values, ensure_ascii=False)


def _figures(finished: Finished) -> str:
    tokens, timings = finished.usage.completion_tokens, finished.timings
    parts = [f"{tokens} tokens", f"ended by {finished.reason}"]
    with suppress(TypeError, ZeroDivisionError):
        first = timings.time_to_first_token or 0.0
        parts.append(f"first after {first * 1000:.0f} ms")
        parts.append(f"{(tokens - 1) / (timings.total - first):.0f} tokens/s")
    return "\033[2m" + ", ".join(parts) + "\033[0m"
