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

from vllm.v1.engine.core import EngineCoreProc

PARENT_CHECK_S = 1.0
END_GRACE_S = 15.0


def tokenstream_census(self: EngineCoreProc) -> tuple[int, int]:
    """Numbers of requests running and waiting in the scheduler."""
    running = self.scheduler.get_request_counts()[0]
    return running, self.scheduler.get_num_unfinished_requests() - running


def install() -> None:
    """Make the control methods callable; harmless when done twice."""
    EngineCoreProc.tokenstream_census = tokenstream_census


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
