"""Programs that run beside a test and show their inside: a line in, a line of JSON out.

Each is a process of its own, so that what one does costs no other any of its event loop's time.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TextIO

from bench.processes import heard, last_words, started, tell


def keep_output() -> TextIO:
    """Inside the program: keep standard output to what is said here; logs go to the other."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


async def answer_lines(out: TextIO, first: Any, answer: Callable[[], Awaitable[Any]]) -> None:
    """Inside the program: say `first`, then answer each line that comes, until the input ends."""
    asked = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(asked), sys.stdin
    )
    print(json.dumps(first), file=out, flush=True)
    while await asked.readline():
        print(json.dumps(await answer()), file=out, flush=True)


class Shown:
    """A running program, from outside. `first`: what it said when it was ready."""

    def __init__(self, process: subprocess.Popen[str], log: Path, first: Any) -> None:
        self._process, self._log = process, log
        self.first = first

    async def ask(self) -> Any:
        """Its answer to a line."""
        tell(self._process)
        return json.loads(await asyncio.to_thread(heard, self._process, self._log))

    async def until(self, right: Callable[[Any], bool], within_s: float = 10.0) -> Any:
        """Ask until the answer is right; fails with the last one."""
        deadline = asyncio.get_running_loop().time() + within_s
        while not right(answer := await self.ask()):
            assert asyncio.get_running_loop().time() < deadline, answer
            await asyncio.sleep(0.02)
        return answer


@asynccontextmanager
async def shown(log: Path, module: str, *arguments: str) -> AsyncIterator[Shown]:
    """Start a program, and end it; its words go to `log`, and none of them may be an error.

    The caller's event loop goes on meanwhile.
    """
    running = started([sys.executable, "-m", module, *arguments], {}, log, talks=True)
    process = await asyncio.to_thread(running.__enter__)
    try:
        yield Shown(process, log, json.loads(await asyncio.to_thread(heard, process, log)))
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
    assert process.returncode == 0, last_words(log)
    assert "Traceback" not in log.read_text(), last_words(log)
