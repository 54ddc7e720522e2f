"""Keeping the machine's cores from halting, as those of a busy machine never do.

Between two engine steps the cores of an otherwise idle machine halt. A virtual machine's are then
given to others, and come back with cold caches: the same work costs a fifth more, and wanders.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Ends with the one that started it, however that ends: prctl(2), PR_SET_PDEATHSIG, SIGKILL.
_COMPUTE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
print("ready", flush=True)
while True:
    pass
"""


@contextmanager
def kept_awake() -> Iterator[list[int]]:
    """Have a process on each core that computes whenever nobody else would; yields their ids.

    Its policy is SCHED_IDLE (`sched(7)`): it gives way at once to whoever has anything to do.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for core in sorted(os.sched_getaffinity(0)):
            command = [sys.executable, "-S", "-c", _COMPUTE, str(core)]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))  # noqa: S603 - ours
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
