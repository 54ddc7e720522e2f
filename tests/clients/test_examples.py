"""The examples, as their readers run them: as programs, against a service."""

import asyncio
import sys
from pathlib import Path

from service.engine.scripted import ScriptedEngine
from tests.clients.script import answer
from tests.clients.scripted import ScriptedService
from tests.conftest import Serve
from tests.service.running import RunningService

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"


async def run(name: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_one_answer_with_asyncio(running: RunningService) -> None:
    out = await run("stream_async.py", "hello", running.target)
    assert out == "hello\n(stop, 6 tokens)\n"


async def test_one_answer_without(running: RunningService) -> None:
    out = await run("stream_sync.py", "hello", running.target)
    assert out.splitlines()[1:] == ["hello", "[stop]"]


async def test_many_requests(running: RunningService) -> None:
    out = await run("many_requests.py", "20", running.target)
    assert out.startswith("20 answers, ")


async def test_a_chat_in_json(running: RunningService) -> None:
    out = await run("chat.py", "hi", running.target)
    assert out.splitlines()[-1] == "hi"  # the scripted engine knows no forms
    assert "b'h'" in out


async def test_an_answer_begun_and_read_on(serve: Serve, tmp_path: Path) -> None:
    running = await serve(ScriptedEngine(step_s=0.05))
    place = str(tmp_path / "place.json")
    head = await run("resume_later.py", "begin", place, "a long answer", running.target)
    rest = await run("resume_later.py", "resume", place, running.target)
    assert 0 < len(head) < len("a long answer")
    assert head + rest == "a long answer\n"


async def test_the_readmes_programs_run(service: ScriptedService, tmp_path: Path) -> None:
    service.script = answer("Hel", "lo")
    readme = (EXAMPLES.parent / "README.md").read_text()
    programs = [part.split("```")[0] for part in readme.split("```python\n")[1:]]
    assert programs
    for number, program in enumerate(programs):
        file = tmp_path / f"program_{number}.py"
        file.write_text(program.replace("127.0.0.1:50051", service.target))
        assert "Hello" in await run(str(file))
