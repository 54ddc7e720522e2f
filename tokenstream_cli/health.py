"""`tokenstream health serve | gateway`: asks the process beside it how it is, for container checks.

It reads the settings that the process itself has read, and so knows its port and its TLS. Under TLS
it trusts the certificate that the settings name, under whatever name that has, and where clients
need certificates it shows the same one: that must then be good for clients, too.
"""

import asyncio
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from gateway_sse.config import GatewaySettings
from service.config import ServiceSettings
from tokenstream_cli.settings import USAGE_ERROR, load
from tokenstream_client import AsyncClient, Tls

_USAGE: Final = """\
usage: tokenstream health serve | gateway [--live] [--config FILE] [options]

Ends with status 0 if the process with the same settings on this machine takes requests, else with
1 and a line that says why. `gateway --live` asks only whether the bridge answers. The options are
those of `tokenstream serve` and `tokenstream gateway`."""

_UNWELL: Final = 1
_PATIENCE_S: Final = 4.0  # below what the chart's probes wait


class _Served(Protocol):
    """What settings say about a server's TLS."""

    @property
    def tls_certificate_file(self) -> Path | None: ...
    @property
    def tls_private_key_file(self) -> Path | None: ...
    @property
    def tls_client_ca_file(self) -> Path | None: ...


def main(argv: Sequence[str]) -> int:
    """Return 0 if it is well, 1 if it is not, 2 for wrong usage."""
    live = "--live" in argv
    which, *rest = [arg for arg in argv if arg != "--live"] or [""]
    if which in ("-h", "--help"):
        print(_USAGE)
        return 0
    if which not in ("serve", "gateway") or (live and which == "serve"):
        print(_USAGE, file=sys.stderr)
        return USAGE_ERROR
    command = f"health {which}"
    try:
        if which == "serve":
            service = load(ServiceSettings, command=command, section="service", argv=rest)
            why = asyncio.run(_service(service))
        else:
            gateway = load(GatewaySettings, command=command, section="gateway", argv=rest)
            why = _gateway(gateway, "/healthz" if live else "/readyz")
    except OSError as error:  # which ssl.SSLError is, and what urllib raises
        why = str(getattr(error, "reason", error))
    if why:
        print(f"tokenstream {command}: {why}", file=sys.stderr)
        return _UNWELL
    return 0


async def _service(settings: ServiceSettings) -> str:
    """Say what is wrong, or nothing. Raises OSError."""
    target, context = _beside(settings.listen), _own_tls(settings)
    tls: Tls | bool = False
    if context is not None and settings.tls_certificate_file and settings.tls_private_key_file:
        certificate = settings.tls_certificate_file.read_bytes()
        mutual = settings.tls_client_ca_file is not None
        tls = Tls(
            root_certificates=certificate,
            private_key=settings.tls_private_key_file.read_bytes() if mutual else None,
            certificate_chain=certificate if mutual else None,
            server_name_override=await _certified_name(target, context),
        )
    async with AsyncClient(target, tls=tls) as client:
        ready = await client.is_ready(timeout=_PATIENCE_S)
    return "" if ready else f"the service on {target} takes no requests"


def _gateway(settings: GatewaySettings, path: str) -> str:
    """Say what is wrong, or nothing. Raises OSError."""
    context = _own_tls(settings)
    url = f"{'https' if context else 'http'}://{_beside(settings.listen)}{path}"
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # never by way of a proxy
        urllib.request.HTTPSHandler(context=context),
    )
    try:
        with opener.open(url, timeout=_PATIENCE_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{url} answers {error.code}"


def _beside(listen: str) -> str:
    """Where this machine reaches what listens there."""
    host, _, port = listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - not bound here
    return f"{host}:{port}"


def _own_tls(settings: _Served) -> ssl.SSLContext | None:
    """What a connection to oneself is encrypted with; None without TLS."""
    certificate = settings.tls_certificate_file
    if certificate is None:
        return None
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted
    if settings.tls_client_ca_file is not None:
        context.load_cert_chain(certificate, settings.tls_private_key_file)
    return context


async def _certified_name(target: str, context: ssl.SSLContext) -> str:
    """A name that the server's certificate is for; gRPC insists on one. Raises OSError."""
    host, _, port = target.rpartition(":")
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.wait_for(
        asyncio.open_connection(host.strip("[]"), int(port), ssl=context), _PATIENCE_S
    )
    try:
        certificate = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    names = [str(name).replace("*", "any") for _, name in certificate.get("subjectAltName", ())]
    if not names:
        raise OSError("the certificate names nobody: it needs a subjectAltName")
    return names[0]
