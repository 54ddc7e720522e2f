"""Measures what the demo model has learned: ``python -m demo_model.check``.

Every taught question is asked greedily in three ways, and the share of answers that equal
the corpus letter by letter is printed. Takes a few minutes on two cores.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import demo_model
from demo_model import corpus
from demo_model.batches import chat

BATCH = 64
MARGIN = 8


class Student:
    """The saved model on the CPU, in float32, answering greedily."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answers(self, prompts: list[str], limit: int) -> list[str]:
        """Continue every prompt by at most ``limit`` tokens (1 to 1,024), without its end token."""
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.no_grad():
            outputs = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=limit,
                do_sample=False,
            )
        new = outputs[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        # The plain form begins with the break that ends the question.
        return [text.strip() for text in texts]


def misses(student: Student, ask: Callable[[str], str]) -> list[tuple[str, str]]:
    """Ask every taught question and return each (question, answer) that is not verbatim."""
    pairs = [(q, entry.answer) for entry in corpus.load() for q in entry.questions]
    # Like lengths together, so that short answers do not wait for the long ones.
    pairs.sort(key=lambda pair: len(pair[1]))
    wrong = []
    for at in range(0, len(pairs), BATCH):
        part = pairs[at : at + BATCH]
        longest = max(len(student.tokenizer.encode(answer)) for _, answer in part)
        given = student.answers([ask(question) for question, _ in part], longest + MARGIN)
        wrong += [
            (question, text)
            for (question, answer), text in zip(part, given, strict=True)
            if text != answer
        ]
    return wrong


def main() -> None:
    """Print the verbatim share of each way of asking, and the questions that were missed."""
    parser = argparse.ArgumentParser(prog="python -m demo_model.check", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=demo_model.path())
    student = Student(parser.parse_args().folder)
    total = sum(len(entry.questions) for entry in corpus.load())
    ways: dict[str, Callable[[str], str]] = {
        "as taught": str,
        "lower-case, no final sign": corpus.bare,
        "chat": lambda question: chat(student.tokenizer, question),
    }
    for name, ask in ways.items():
        wrong = misses(student, ask)
        print(f"{name}: {total - len(wrong)} of {total} verbatim", flush=True)
        for question, text in wrong:
            print(f"  {question!r} -> {text[:100]!r}")


if __name__ == "__main__":
    main()
