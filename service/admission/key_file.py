"""The key file on disk: read at the start, and again when it changes.

A version that cannot be read or used is logged once and the one before it stays in force, so that
a slip of an editor does not lock everybody out. Taking a key away therefore needs a good file; a
file without any key is one, and refuses every caller.
"""

import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.admission.callers import LARGEST_KEY_FILE, Caller, KeyFileError, KeyRing

_log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Version:
    """What tells one version of a file from the next, a replaced file included."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class KeyFile:
    """The keys of a file, at most `LOOK_EVERY_S` seconds behind it. `clock`: monotonic seconds.

    Looks at the file when it is asked, not in the background; it is small and on this machine, so
    that this costs some microseconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file. Raises `KeyFileError`."""
        self._path = path
        self._clock = clock
        self._version = _version(path)
        self._keys = read_key_file(path)
        self._looked_at = clock()
        self._tell()

    def identify(self, key: str) -> Caller | None:
        """Whose key it is now; None if it is nobody's. Raises nothing."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._keys.identify(key)

    def _look(self) -> None:
        # Taken before the file is read: what changes meanwhile is seen the next time.
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = read_key_file(self._path)
        except KeyFileError as error:
            _log.error("api_keys_not_reloaded", why=str(error), still_valid=len(self._keys.entries))
        else:
            self._tell()

    def _tell(self) -> None:
        keys = self._keys
        _log.info("api_keys_read", keys=len(keys.entries), tenants=len(keys.tenants))
        if not keys.entries:
            _log.warning("api_keys_file_has_no_key", path=str(self._path), so="all are refused")
        try:
            mode = self._path.stat().st_mode
        except OSError:
            return
        # As sshd sees authorized_keys: hashes may be read, but who writes lets himself in.
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            _log.warning("api_keys_file_writable_by_others", path=str(self._path))


def read_key_file(path: Path) -> KeyRing:
    """Read a key file once. Raises `KeyFileError`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise KeyFileError(f"{path}: not a regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST_KEY_FILE + 1)
        text = content.decode()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{path}: not text in UTF-8") from error
    return KeyRing.parse(text, str(path))


def _version(path: Path) -> _Version | None:
    try:
        now = path.stat()
    except OSError:
        return None
    return _Version(now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
