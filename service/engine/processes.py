"""The end of the engine's processes, also of those that miss their signal.

vLLM ends its engine process, and that one its workers; but a start that fails can leave both
waiting for each other, and a process that ends by itself first waits for its children.
"""

import multiprocessing
from contextlib import suppress

import psutil

_WORKERS_END_WITHIN_S = 2.0


def end_engine_processes(within_s: float) -> None:
    """End what this process has spawned, and their children; blocks up to `within_s` and a bit.

    They are asked first, and killed when they have not ended in time.
    """
    engines = multiprocessing.active_children()
    workers: list[psutil.Process] = []
    for engine in engines:
        with suppress(psutil.NoSuchProcess):
            workers += psutil.Process(engine.pid).children(recursive=True)
        engine.terminate()
    for engine in engines:
        engine.join(within_s)
        if engine.is_alive():
            engine.kill()
            engine.join()
    _, alive = psutil.wait_procs(workers, timeout=_WORKERS_END_WITHIN_S)
    for worker in alive:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
