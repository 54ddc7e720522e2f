"""The bridge with the packages of its image and no others."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.images.dockerfile import ROOT, locked
from tests.service.running import RunningService

OURS = [str(ROOT), str(ROOT / "gen"), str(ROOT / "clients" / "python")]
PATIENCE_S = 30.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the bridge's lock file names, of what is installed, and our version."""
    folder = tmp_path_factory.mktemp("packages")
    for name, version in locked("image-bridge.lock").items():
        found = distribution(name)
        assert found.version == version
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                link = folder / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(found.locate_file(file))))
    for file in distribution("tokenstream").files or ():
        if file.parent.suffix == ".dist-info":
            (folder / file.parent).mkdir(exist_ok=True)
            (folder / file).symlink_to(Path(str(file.locate())))
    return folder


@pytest.fixture
def start(packages: Path) -> Start:
    """Run Python with those packages only."""

    def run(program: str, *arguments: str) -> "subprocess.Popen[str]":
        begin = f"import sys; sys.path += {[str(packages), *OURS]}; "
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", begin + program, *arguments],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return run


COMMAND = "from tokenstream_cli.main import main; main()"


def test_there_is_no_vllm_to_lean_on(start: Start) -> None:
    for name in ("vllm", "torch", "pytest"):
        said, _ = start(f"import {name}").communicate(timeout=PATIENCE_S)
        assert f"No module named '{name}'" in said


def test_the_bridge_starts_and_is_well_by_its_health_check(start: Start) -> None:
    bridge = start(COMMAND, "gateway", "--listen=127.0.0.1:0")
    try:
        assert bridge.stdout is not None
        first = bridge.stdout.readline()
        address = first.partition("http://")[2].partition(",")[0].strip()
        check = start(COMMAND, "health", "gateway", f"--listen={address}")
        said, _ = check.communicate(timeout=PATIENCE_S)
        assert check.returncode == 0, said + first
    finally:
        bridge.terminate()
        said, _ = bridge.communicate(timeout=PATIENCE_S)
    assert bridge.returncode == 0, said


async def test_the_test_of_the_chart_can_stream_with_it(
    running: RunningService, start: Start
) -> None:
    asked = start(COMMAND, "generate", "hello", f"--server={running.target}", "--max-tokens=5")
    said, _ = await asyncio.to_thread(asked.communicate, timeout=PATIENCE_S)
    assert said == "hello\n"
