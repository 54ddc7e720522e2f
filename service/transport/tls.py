"""TLS of the server: its certificate, and whose clients may connect.

The files are read at the start and, as certificates are renewed while services run, again when
they change: at most once a second, when a client connects. A version that cannot be used is logged
once and the one before it stays. Connections that are there keep what they began with.
"""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

_log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0


class TlsFilesError(Exception):
    """A file of TLS cannot be used. The operator: mend the file that the message names."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `certificate`: the server's, then its chain. `private_key`: no passphrase.

    `client_ca`: with it a client must have a certificate that one of these authorities signed.
    """

    certificate: Path
    private_key: Path
    client_ca: Path | None = None

    @classmethod
    def of(
        cls, certificate: Path | None, private_key: Path | None, client_ca: Path | None
    ) -> "TlsFiles | None":
        """The files that settings name; None if there is no certificate, and so no TLS.

        The settings see to it that certificate and key come together.
        """
        if certificate is None or private_key is None:
            return None
        return cls(certificate, private_key, client_ca)


def server_credentials(
    files: TlsFiles, clock: Callable[[], float] = time.monotonic
) -> grpc.ServerCredentials:
    """What a server's port needs for TLS. `clock`: monotonic seconds, asked from any thread.

    Raises `TlsFilesError`.
    """
    renewed = _Renewed(files, clock)
    return grpc.dynamic_ssl_server_credentials(
        renewed.first,
        renewed.fetch,  # type: ignore[arg-type]  # None is documented, and not in the stubs
        require_client_authentication=files.client_ca is not None,
    )


class _Renewed:
    """Gives gRPC the newest usable version of the files."""

    def __init__(self, files: TlsFiles, clock: Callable[[], float]) -> None:
        self._files = files
        self._clock = clock
        self._version = _version(files)
        self.first = _read(files)
        self._looked_at = clock()
        self._lock = threading.Lock()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at each handshake, on threads of its own. None: nothing has changed."""
        with self._lock:
            now = self._clock()
            if now - self._looked_at < LOOK_EVERY_S:
                return None
            self._looked_at = now
            version = _version(self._files)
            if version == self._version:
                return None
            self._version = version
            try:
                newest = _read(self._files)
            except TlsFilesError as error:
                _log.error("tls_files_not_reloaded", why=str(error))
                return None
            _log.info("tls_files_read", certificate=str(self._files.certificate))
            return newest


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read and check the files: gRPC itself would only fail every handshake, without a word."""
    private_key, certificate = _content(files.private_key), _content(files.certificate)
    client_ca = None if files.client_ca is None else _content(files.client_ca)
    for path in (files.certificate, files.client_ca):
        if path is not None:
            _check_certificates(path)
    _check_pair(files.certificate, files.private_key)
    return grpc.ssl_server_certificate_configuration(
        [(private_key, certificate)], root_certificates=client_ca
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFilesError(f"TLS: cannot read {path}: {error.strerror}") from error


def _check_certificates(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=path)
    except OSError as error:  # which ssl.SSLError is
        raise TlsFilesError(f"TLS: {path} has no certificate in PEM form") from error


def _check_pair(certificate: Path, private_key: Path) -> None:
    def passphrase() -> str:  # or OpenSSL would ask the terminal
        raise TlsFilesError(f"TLS: {private_key} needs a passphrase; take one without")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            certificate, private_key, password=passphrase
        )
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFilesError(f"TLS: {private_key} is not the key of {certificate}") from error
        if error.reason in (None, "PEM_LIB", "NO_START_LINE", "UNSUPPORTED"):
            raise TlsFilesError(f"TLS: {private_key} has no private key in PEM form") from error
        raise TlsFilesError(f"TLS: cannot use {certificate}: {error.reason}") from error
    except OSError as error:
        raise TlsFilesError(f"TLS: cannot use {private_key}: {error.strerror}") from error


def _version(files: TlsFiles) -> tuple[tuple[int, ...] | None, ...]:
    """What tells one version of the files from the next, replaced files included."""
    paths = (files.certificate, files.private_key, files.client_ca)
    return tuple(_version_of(path) for path in paths if path is not None)


def _version_of(path: Path) -> tuple[int, ...] | None:
    try:
        now = path.stat()
    except OSError:
        return None
    return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
