"""The examples, as their readers run them: as programs, against a service."""

import asyncio
import sys
from pathlib import Path

import pytest

from service.engine.scripted import ScriptedEngine
from tests.clients.script import answer
from tests.clients.scripted import ScriptedService
from tests.conftest import Serve
from tests.service.running import RunningService

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"


async def start(name: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


async def run(name: str, *arguments: str) -> str:
    status, out, err = await start(name, *arguments)
    assert status == 0, err
    return out


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


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
async def test_without_its_arguments_an_example_says_how_it_is_used(name: str) -> None:
    status, out, err = await start(name)
    assert (status, out) == (2, "")
    assert err.startswith(f"usage: {name} ")
    assert "arguments are required" in err


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["many_requests.py", "all"], "argument number: invalid int value: 'all'"),
        (["resume_later.py", "begin", "place.json"], "required: prompt"),
        (["resume_later.py", "resume"], "required: file"),
        (["resume_later.py", "end", "place.json"], "invalid choice: 'end'"),
        (["stream_sync.py", "one", "two", "three"], "unrecognized arguments: three"),
    ],
)
async def test_an_argument_that_does_not_fit_is_named_after_the_usage(
    arguments: list[str], wrong: str
) -> None:
    status, out, err = await start(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"usage: {arguments[0]} ")
    assert wrong in err.splitlines()[-1]


async def test_the_readmes_programs_run(service: ScriptedService, tmp_path: Path) -> None:
    service.script = answer("Hel", "lo")
    readme = (EXAMPLES.parent / "README.md").read_text()
    programs = [part.split("```")[0] for part in readme.split("```python\n")[1:]]
    assert programs
    for number, program in enumerate(programs):
        file = tmp_path / f"program_{number}.py"
        file.write_text(program.replace("127.0.0.1:50051", service.target))
        assert "Hello" in await run(str(file))
