"""Keeping the machine's cores from halting, as those of a busy machine never do.

Between two engine steps the cores of an otherwise idle machine halt. A virtual machine's are then
given to others, and come back with cold caches: the same work costs a fifth more, and wanders.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_awake() -> Iterator[list[int]]:
    """Have a process on each core that computes whenever nobody else would; yields their ids.

    Its policy is SCHED_IDLE (`sched(7)`): it gives way at once to whoever has anything to do.
    """
    processes = []
    try:
        for core in sorted(os.sched_getaffinity(0)):
            process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
            processes.append(process)
            os.sched_setaffinity(process.pid, {core})
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
