"""HTTPS: the bridge's certificate, and whose clients may connect.

The files are read at the start and, as certificates are renewed while bridges run, again when they
change: at most once a second, when a client connects. A version that cannot be used is logged once
and the one before it stays. Connections that are there keep what they began with.
"""

import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_log = logging.getLogger("tokenstream.gateway")

LOOK_EVERY_S: Final = 1.0


class TlsFilesError(Exception):
    """A file of TLS cannot be used. The operator: mend the file that the message names."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `certificate`: the bridge's, then its chain. `private_key`: no passphrase.

    `client_ca`: with it a client must have a certificate that one of these authorities signed.
    """

    certificate: Path
    private_key: Path
    client_ca: Path | None = None


def server_context(files: TlsFiles, clock: Callable[[], float] = time.monotonic) -> ssl.SSLContext:
    """Return what a listening socket needs for TLS. `clock`: monotonic seconds.

    Raises `TlsFilesError`.
    """
    return _Renewed(files, clock).first


class _Renewed:
    """Gives each handshake the newest usable version of the files."""

    def __init__(self, files: TlsFiles, clock: Callable[[], float]) -> None:
        self._files = files
        self._clock = clock
        self._version = _version(files)
        self.first = self._newest = _context(files)
        self._looked_at = clock()
        # OpenSSL calls it for each handshake, also for clients that name no server.
        self.first.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            version = _version(self._files)
            if version != self._version:
                self._version = version
                self._renew()
        if self._newest is not self.first:
            connection.context = self._newest

    def _renew(self) -> None:
        try:
            self._newest = _context(self._files)
        except TlsFilesError as error:
            _log.error("tls files not reloaded: %s", error)
        else:
            _log.info("tls files read again")


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _check_readable(files)
    _load_pair(context, files)
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except OSError as error:  # which ssl.SSLError is
            raise TlsFilesError(f"TLS: {files.client_ca} has no certificate in PEM form") from error
        context.verify_mode = ssl.CERT_REQUIRED
        # A resumed session would not be asked for its certificate again, nor would an authority
        # that has been withdrawn count.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _check_readable(files: TlsFiles) -> None:
    for path in (files.certificate, files.private_key, files.client_ca):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise TlsFilesError(f"TLS: cannot read {path}: {error.strerror}") from error


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    def passphrase() -> str:  # or OpenSSL would ask the terminal
        raise TlsFilesError(f"TLS: {files.private_key} needs a passphrase; take one without")

    try:
        context.load_cert_chain(files.certificate, files.private_key, password=passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"{files.private_key} is not the key of {files.certificate}"
        else:
            why = f"{files.certificate} and {files.private_key} are not both in PEM form"
        raise TlsFilesError(f"TLS: {why}") from error


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
