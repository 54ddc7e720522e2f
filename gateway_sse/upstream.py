"""The bridge's client: how the service behind is reached."""

from pathlib import Path

from gateway_sse.config import GatewaySettings
from gateway_sse.tls import TlsFilesError
from tokenstream_client import AsyncClient, ClientOptions, Tls
from tokenstream_client.pem import UnusableTls


def connect(settings: GatewaySettings, tls: Tls | None) -> AsyncClient:
    """Make the client: one session a replica for all callers, resumed without their noticing.

    Raises ValueError for a key that no header can carry.
    """
    return AsyncClient(
        settings.upstream,
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        tls=tls or False,
        options=ClientOptions(
            # A refusal is the caller's to know, with the time to come back.
            max_attempts=1,
            allow_plaintext_keys=settings.allow_plaintext_keys,
        ),
    )


def tls_of(settings: GatewaySettings) -> Tls | None:
    """Read what the connection is encrypted with; None: it is not. Raises `TlsFilesError`."""
    if not settings.upstream_encrypted:
        return None
    try:
        return Tls(
            root_certificates=_content("upstream_ca_file", settings.upstream_ca_file),
            private_key=_content("upstream_private_key_file", settings.upstream_private_key_file),
            certificate_chain=_content(
                "upstream_certificate_file", settings.upstream_certificate_file
            ),
        )
    except UnusableTls as error:
        setting, path = {
            "root_certificates": ("upstream_ca_file", settings.upstream_ca_file),
            "private_key": ("upstream_private_key_file", settings.upstream_private_key_file),
            "certificate_chain": ("upstream_certificate_file", settings.upstream_certificate_file),
        }[error.part]
        raise TlsFilesError(f"TLS: {setting}: {path} {error.why}") from error


def _content(setting: str, path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise TlsFilesError(f"TLS: {setting}: cannot read {path}: {error.strerror}") from error
