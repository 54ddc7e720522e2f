import os
import subprocess
import sys

import psutil

from bench.awake import kept_awake


def test_each_core_has_a_process_of_its_own_that_gives_way_to_all_others() -> None:
    with kept_awake() as pids:
        cores = [os.sched_getaffinity(pid) for pid in pids]
        assert cores == [{core} for core in sorted(os.sched_getaffinity(0))]
        assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_IDLE}
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_they_end_with_whoever_started_them_however_that_was() -> None:
    program = (
        "import time\n"
        "from bench.awake import kept_awake\n"
        "with kept_awake() as pids:\n"
        "    print(*pids, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        pids = [int(pid) for pid in killed.stdout.readline().split()]
        started = [psutil.Process(pid) for pid in pids]
        killed.kill()
    assert len(started) == len(os.sched_getaffinity(0))
    _, left = psutil.wait_procs(started, timeout=10)
    assert left == []
