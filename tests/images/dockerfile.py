"""Dockerfiles, read as far as the tests need."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "images").glob("*.Dockerfile"))


@dataclass
class Stage:
    """What follows one FROM: instructions with their arguments, in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [arguments for found, arguments in self.instructions if found == word]

    def the(self, word: str) -> str:
        (arguments,) = self.all(word)
        return arguments

    def command(self, word: str) -> list[str]:
        """An instruction in its JSON form."""
        return list(map(str, json.loads(self.the(word))))


def stages(path: Path) -> list[Stage]:
    """Every stage of a file."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[Stage] = []
    for line in filter(None, text.splitlines()):
        word, _, arguments = line.partition(" ")
        if word == "FROM":
            base, _, name = arguments.partition(" AS ")
            found.append(Stage(base, name))
        elif found:
            found[-1].instructions.append((word, arguments.strip()))
    return found


def copied(path: Path) -> list[str]:
    """What a file takes from the build context."""
    return [
        source
        for stage in stages(path)
        for arguments in stage.all("COPY")
        if not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    ]


def locked(name: str) -> dict[str, str]:
    """Names and versions in a lock file."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.M))
