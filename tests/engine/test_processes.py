import multiprocessing
import multiprocessing.connection
import signal
import subprocess
import sys
import time

import psutil
import pytest

from service.engine.processes import end_engine_processes

# A worker that ignores being asked, and an engine that waits for it before it ends.
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1); time.sleep(60)"
)


def _engine(answers: "multiprocessing.connection.Connection[int, int]", deaf: bool) -> None:
    worker = subprocess.Popen([sys.executable, "-uc", DEAF], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    worker.stdout.readline()
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers.send(worker.pid)
    time.sleep(60)


@pytest.mark.parametrize("deaf", [False, True])
def test_an_engine_and_a_worker_that_miss_their_signals_are_gone_all_the_same(deaf: bool) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    engine = context.Process(target=_engine, args=(theirs, deaf))
    engine.start()
    worker = psutil.Process(ours.recv())

    end_engine_processes(within_s=0.3)

    assert not engine.is_alive()
    psutil.wait_procs([worker], timeout=5)
    assert not worker.is_running()
    assert multiprocessing.active_children() == []
    ours.close()
    theirs.close()


def test_without_processes_there_is_nothing_to_wait_for() -> None:
    began = time.monotonic()
    end_engine_processes(within_s=30.0)
    assert time.monotonic() - began < 5
