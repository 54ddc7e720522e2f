"""The questions and answers the demo model is taught, read from ``corpus/*.md``.

A file is a list of entries: a ``## `` heading is a question, the ``- `` lines right below it
say the same in other words, and everything up to the next heading is the answer, verbatim.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus"


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer and the questions (at least two) that lead to it, the main one first."""

    questions: tuple[str, ...]
    answer: str


def load(folder: Path = FOLDER) -> list[Entry]:
    """Read all entries of a folder, in the order of file names and lines."""
    return [
        entry for file in sorted(folder.glob("*.md")) for entry in parse(file.read_text("utf-8"))
    ]


def parse(text: str) -> list[Entry]:
    """Split the text of one corpus file into its entries.

    Raises:
        ValueError: an entry has no second question or no answer.
    """
    entries = []
    for block in ("\n" + text).split("\n## ")[1:]:
        head, _, body = block.partition("\n\n")
        question, *others = head.splitlines()
        if not others or not all(line.startswith("- ") for line in others):
            raise ValueError(f"no other wording right below: {question}")
        if not body.strip():
            raise ValueError(f"no answer to: {question}")
        questions = (question, *(line.removeprefix("- ") for line in others))
        entries.append(Entry(questions, body.strip()))
    return entries


def bare(question: str) -> str:
    """Return a question as a hasty user types it: lower-case, without the final sign."""
    return question.lower().rstrip("?!. ")
