"""Processes of this benchmark: started, looked at through /proc, ended by their own ids."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_RESET_PEAK = "5"  # proc(5), clear_refs
_GRACE_S = 60.0


class ProcessFailed(Exception):
    """A process of the benchmark ended, or was not ready in time; has the end of its words."""


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, talks: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the repository's root and end it, and whatever it started, at the end.

    Its words go to `log`; with `talks` its standard input and output are the caller's instead.
    """
    pipe = subprocess.PIPE if talks else None
    with log.open("a") as words:
        process = subprocess.Popen(  # noqa: S603 - our own commands, without a shell
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or words,
            stderr=words,
            text=True,
            start_new_session=True,  # so that its group is all of it, engine included
        )
    try:
        yield process
    finally:
        if process.stdin:
            with suppress(BrokenPipeError):
                process.stdin.close()
        else:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        with suppress(ProcessLookupError):  # the normal case: nobody is left in the group
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def tell(process: subprocess.Popen[str]) -> None:
    """Write a line to a process that talks."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended: its answer will be missed
        process.stdin.write("\n")
        process.stdin.flush()


def heard(process: subprocess.Popen[str], log: Path) -> str:
    """Return the next line of a process that talks. Raises `ProcessFailed` if it ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ProcessFailed(f"a load generator gave up:\n{last_words(log)}")
    return line


def last_words(log: Path) -> str:
    """Return the end of a log, for people."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process with all its threads but not its children."""
    # The name, in brackets, may hold anything; the numbers begin behind it.
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / _TICKS_PER_S


def reset_peak(pid: int) -> int:
    """Forget a process's highest memory use so far; return the present one in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Highest resident memory since `reset_peak`, in bytes."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise ProcessFailed(f"process {pid} has no {name}")
