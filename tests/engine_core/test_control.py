"""What runs inside the engine process, tried in processes of its own kind."""

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

# Spawned processes import this file by its path, as `__main__` or not at all; so these are texts.
CHILD = """
import sys, time, types
# The watch needs nothing of vLLM's; importing that takes ten seconds a process.
for name in ("vllm", "vllm.v1", "vllm.v1.engine"):
    sys.modules[name] = types.ModuleType(name)
core = sys.modules["vllm.v1.engine.core"] = types.ModuleType("vllm.v1.engine.core")
core.EngineCoreProc = type("EngineCoreProc", (), {})
sys.modules["vllm.v1.engine"].EngineCoreRequestType = None
from service.engine_core import control
control.PARENT_CHECK_S, control.END_GRACE_S = 0.05, 0.5
"""
ENGINE = (
    CHILD
    + """
def engine(loading_s):
    time.sleep(loading_s)
    control.end_with_parent()
    print("watching", flush=True)
    time.sleep(60)
"""
)
SERVICE = """
import multiprocessing, sys, engine_of_test
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(
        target=engine_of_test.engine, args=(float(sys.argv[1]),))
    process.start()
    print(process.pid, flush=True)
    process.join()
"""


@pytest.mark.parametrize("killed", ["while the engine loads", "while it serves"])
def test_the_engine_ends_soon_after_its_service_was_killed(tmp_path: Path, killed: str) -> None:
    (tmp_path / "engine_of_test.py").write_text(ENGINE)
    (tmp_path / "service_of_test.py").write_text(SERVICE)
    loading_s = "1.0" if killed == "while the engine loads" else "0"
    read_end, write_end = os.pipe()
    service = psutil.Popen(
        [sys.executable, "service_of_test.py", loading_s], cwd=tmp_path, stdout=write_end
    )
    os.close(write_end)
    with os.fdopen(read_end) as output:
        engine = psutil.Process(int(output.readline()))
        if killed == "while it serves":
            assert output.readline() == "watching\n"

        service.send_signal(signal.SIGKILL)
        service.wait()

        _, alive = psutil.wait_procs([engine], timeout=10)
        assert alive == []


def test_the_census_tells_running_and_waiting_apart() -> None:
    from service.engine_core import control

    scheduler = SimpleNamespace(
        get_request_counts=lambda: (3, 1), get_num_unfinished_requests=lambda: 5
    )

    assert control.tokenstream_census(SimpleNamespace(scheduler=scheduler)) == (3, 2)


def test_in_a_process_that_no_service_started_nothing_is_watched() -> None:
    from service.engine_core import control

    assert multiprocessing.parent_process() is None
    control.end_with_parent()
    assert "tokenstream-parent" not in {thread.name for thread in threading.enumerate()}
