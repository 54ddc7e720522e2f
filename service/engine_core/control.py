"""The service's way into the engine process: methods added to vLLM's engine core.

vLLM answers a utility call by looking the method up by name on its `EngineCoreProc`; importing the
scheduler installs ours. They run on the engine's own thread between two steps, so they must be
short, and what they raise is sent back as the call's failure (vLLM 0.32,
`EngineCoreProc._handle_client_request`).
"""

import multiprocessing
import os
import signal
import threading
import time
from typing import Any

from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.engine.core import EngineCoreProc

PARENT_CHECK_S = 1.0
END_GRACE_S = 15.0


def tokenstream_census(self: EngineCoreProc) -> tuple[int, int]:
    """Numbers of requests running and waiting in the scheduler."""
    running = self.scheduler.get_request_counts()[0]
    return running, self.scheduler.get_num_unfinished_requests() - running


def tokenstream_readers_moved(
    self: EngineCoreProc, request_ids: list[str], positions: list[int]
) -> dict[str, Any]:
    """Take how many tokens have been read of these. Returns the scheduler's report."""
    _watch(self)
    self.scheduler.readers_moved(request_ids, positions)
    report: dict[str, Any] = self.scheduler.report()
    return report


def _watch(core: EngineCoreProc) -> None:
    """See to it that the scheduler notices when the service has fallen silent.

    An engine of which all requests wait for their readers sleeps until a message comes, and the
    only one that could come is the service's.
    """
    if getattr(core, "_tokenstream_watch", None) is not None:
        return

    def watch() -> None:
        while True:
            time.sleep(core.scheduler.settings.silence_s / 2)
            if core.scheduler.hears_nothing():
                core.input_queue.put_nowait((EngineCoreRequestType.WAKEUP, None))

    core.scheduler.is_ending = lambda: not core.is_running()
    core._tokenstream_watch = threading.Thread(target=watch, name="tokenstream-watch", daemon=True)
    core._tokenstream_watch.start()


def install() -> None:
    """Make the control methods callable; harmless when done twice."""
    EngineCoreProc.tokenstream_census = tokenstream_census
    EngineCoreProc.tokenstream_readers_moved = tokenstream_readers_moved


def end_with_parent() -> None:
    """End this process soon after the service's process has gone, however that ended.

    Without it an engine whose service was killed would keep the GPU. SIGTERM is vLLM's own way to
    end, workers included; what has not ended by then is killed.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return  # not a process that a service started
    # The service may be gone already: loading the weights before this took its time.
    service_pid = parent.pid

    def watch() -> None:
        while os.getppid() == service_pid:
            time.sleep(PARENT_CHECK_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_GRACE_S)
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(1)

    threading.Thread(target=watch, name="tokenstream-parent", daemon=True).start()
