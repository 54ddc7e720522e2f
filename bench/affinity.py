"""Who runs on which core, where a case gives the frontend one to itself."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil

from bench.processes import ProcessFailed


@contextmanager
def alone(pids: Iterable[int]) -> Iterator[None]:
    """Give these processes the first core; their children and this process get the others.

    What this process starts meanwhile gets them too. Other processes of the machine stay where
    they are, so the first core is alone only on a machine that is otherwise quiet.
    Raises `ProcessFailed` where there is only one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ProcessFailed("a frontend can only have a core to itself where there are two")
    first, others = {cores[0]}, set(cores[1:])
    for pid in pids:
        _pin(pid, first)
        for child in psutil.Process(pid).children(recursive=True):
            _pin(child.pid, others)
    _pin(os.getpid(), others)
    try:
        yield
    finally:
        _pin(os.getpid(), set(cores))


def _pin(pid: int, cores: set[int]) -> None:
    """Pin all threads of a process; threads to come inherit it."""
    for thread in psutil.Process(pid).threads():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(thread.id, cores)
