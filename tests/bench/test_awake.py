import os

import psutil

from bench.awake import kept_awake


def test_each_core_has_a_process_of_its_own_that_gives_way_to_all_others() -> None:
    with kept_awake() as pids:
        cores = [os.sched_getaffinity(pid) for pid in pids]
        assert cores == [{core} for core in sorted(os.sched_getaffinity(0))]
        assert {os.sched_getscheduler(pid) for pid in pids} == {os.SCHED_IDLE}
    assert not any(psutil.pid_exists(pid) for pid in pids)
