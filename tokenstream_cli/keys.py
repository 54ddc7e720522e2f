"""`tokenstream keys add | list | remove`: the file of API keys that `--api-keys-file` names.

Only hashes are kept. A key is shown once, when it is made, as the one thing on standard output. The
file is replaced as a whole, so that a running service never reads half of one; commands that run at
the same time wait for each other.
"""

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import typer

from service.admission.callers import (
    TENANT_RULE,
    KeyFileError,
    KeyRing,
    is_tenant,
    key_line,
    new_key,
)
from service.admission.key_file import read_key_file

_FAILED = 1
_MODE = 0o600

_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make, list and remove the API keys of a service (`tokenstream serve --api-keys-file`).",
)
_FILE = typer.Option(..., "--file", help="The file of keys.", show_default=False)
_TENANT = typer.Argument(..., help="Whose key it is: a-z, 0-9 and ._- in between.")


class _CommandError(Exception):
    """What to tell the user."""


@_app.command()
def add(tenant: str = _TENANT, file: Path = _FILE) -> None:
    """Make a key for a tenant and print it, once. A tenant can have several.

    The file is made if there is none, for its owner alone.
    """
    if not is_tenant(tenant):
        raise _CommandError(TENANT_RULE)
    key = new_key()
    line = key_line(tenant, key, f"made {datetime.now(UTC):%Y-%m-%d}")

    def with_key(text: str, _keys: KeyRing) -> str:
        return f"{text}\n{line}\n" if text and not text.endswith("\n") else f"{text}{line}\n"

    _change(file, with_key, may_be_new=True)
    print(key)
    print(f"{tenant}'s key: it is kept nowhere and not shown again", file=sys.stderr)


@_app.command("list")
def list_(file: Path = _FILE) -> None:
    """Show the tenants, and how many keys each has."""
    tenants = read_key_file(file).tenants
    width = max(map(len, tenants), default=0)
    for tenant, keys in tenants.items():
        print(f"{tenant:{width}}  {keys}")


@_app.command()
def remove(
    tenant: str = _TENANT,
    file: Path = _FILE,
    but_newest: bool = typer.Option(
        False, "--but-newest", help="Keep the one that was added last: the end of a change of keys."
    ),
) -> None:
    """Take a tenant's keys away. A running service refuses them within a second."""
    removed = 0

    def without_keys(text: str, keys: KeyRing) -> str:
        nonlocal removed
        own = [entry.line for entry in keys.entries if entry.caller.tenant == tenant]
        if not own:
            raise _CommandError(f"{file} has no key of {tenant!r}")
        gone = own[:-1] if but_newest else own
        removed = len(gone)
        lines = text.split("\n")
        return "\n".join(line for number, line in enumerate(lines, 1) if number not in gone)

    _change(file, without_keys)
    print(f"{removed} of {tenant}'s keys removed", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    """Run one of the commands. Returns 0, or 1 if it cannot be done, or 2 for wrong usage."""
    try:
        typer.main.get_command(_app).main(args=list(argv), prog_name="tokenstream keys")
    except SystemExit as end:  # which is how it returns
        return end.code if isinstance(end.code, int) else 0
    except (_CommandError, KeyFileError) as error:
        print(f"tokenstream keys: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"tokenstream keys: {where}{error.strerror}", file=sys.stderr)
    return _FAILED


def _change(file: Path, change: Callable[[str, KeyRing], str], *, may_be_new: bool = False) -> None:
    """Replace a file by what `change` makes of it, which must be a key file again."""
    file = file.resolve()  # a link stays a link
    with _locked(file.parent):
        if may_be_new and not file.exists():
            changed = change("", KeyRing(()))
        else:
            keys = read_key_file(file)
            # As the lines were counted: without any translation of their ends.
            changed = change(file.read_bytes().decode(), keys)
        KeyRing.parse(changed, str(file))
        _replace(file, changed)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other such commands out of a folder; the lock ends with the process at the latest."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(file: Path, text: str) -> None:
    """Put a whole new file in the place of an old one, whose owner and mode it takes over."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    new = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as out:  # noqa: PTH123 - it is open
            out.write(text)
            out.flush()
            _take_over(file, descriptor)
            os.fsync(descriptor)
        new.replace(file)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _take_over(file: Path, descriptor: int) -> None:
    try:
        old = file.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, _MODE)
        return
    mine = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (mine.st_uid, mine.st_gid):
        try:  # or the service could not read it any more
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except PermissionError as error:
            raise _CommandError(f"{file} is another user's; run this as its owner") from error
    os.fchmod(descriptor, old.st_mode & 0o777)
