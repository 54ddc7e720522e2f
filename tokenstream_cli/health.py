"""`tokenstream health serve | gateway`: asks the process beside it how it is, for container checks.

It reads the settings that the process itself has read, and so knows where to ask: the port for
operators where there is one (`metrics_listen`), else the port that is served.
"""

import asyncio
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Final

from gateway_sse.config import GatewaySettings
from service.config import ServiceSettings
from tokenstream_cli.settings import USAGE_ERROR, load
from tokenstream_client import AsyncClient

_USAGE: Final = """\
usage: tokenstream health serve | gateway [--config FILE] [options]

Asks the process with the same settings on this machine: a service whether it takes requests, a
bridge whether it answers, whatever the service behind it does. Ends with status 0 if so, else with
1 and a line that says why. Under TLS it needs metrics_listen. The options are those of `tokenstream
serve` and `tokenstream gateway`."""

_UNWELL: Final = 1
_PATIENCE_S: Final = 4.0


def main(argv: Sequence[str]) -> int:
    """Return 0 if it is well, 1 if it is not, 2 for wrong usage."""
    which, *rest = argv or [""]
    if which in ("-h", "--help"):
        print(_USAGE)
        return 0
    command = f"health {which}"
    if which == "serve":
        why = _service(load(ServiceSettings, command=command, section="service", argv=rest))
    elif which == "gateway":
        why = _gateway(load(GatewaySettings, command=command, section="gateway", argv=rest))
    else:
        print(_USAGE, file=sys.stderr)
        return USAGE_ERROR
    if why:
        print(f"tokenstream {command}: {why}", file=sys.stderr)
        return _UNWELL
    return 0


def _service(settings: ServiceSettings) -> str:
    """Say what is wrong, or nothing."""
    if settings.metrics_listen is not None:
        return _asked(settings.metrics_listen, "/readyz")
    if settings.tls_certificate_file is not None:
        return "under TLS this needs metrics_listen"
    target = _beside(settings.listen)

    async def is_ready() -> bool:
        async with AsyncClient(target) as client:
            return await client.is_ready(timeout=_PATIENCE_S)

    return "" if asyncio.run(is_ready()) else f"the service on {target} takes no requests"


def _gateway(settings: GatewaySettings) -> str:
    """Say what is wrong, or nothing."""
    if settings.metrics_listen is not None:
        return _asked(settings.metrics_listen, "/healthz")
    if settings.tls is not None:
        return "under TLS this needs metrics_listen"
    return _asked(settings.listen, "/healthz")


def _asked(listen: str, path: str) -> str:
    url = f"http://{_beside(listen)}{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # nobody is in between
    try:
        with opener.open(url, timeout=_PATIENCE_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{url} answers {error.code}"
    except OSError as error:
        return f"{url}: {getattr(error, 'reason', error)}"


def _beside(listen: str) -> str:
    """Where this machine reaches what listens there."""
    host, _, port = listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - not bound here
    return f"{host}:{port}"
