"""Turns the corpus into training rows: noisy questions, both forms, many positions.

A row is a run of questions and answers, cut at its length. Short rows teach the first
positions, where most prompts stand; long rows teach the later ones.
"""

import random
from collections.abc import Iterator
from typing import Any

import torch

from demo_model.corpus import Entry, bare
from demo_model.tokenizer import EOS

LENGTHS = (128, 256, 512, 128, 256, 1024, 128, 512, 256, 2048)
IGNORED = -100
SYSTEM = (
    "You are a helpful assistant.",
    "You are the demo model of tokenstream.",
    "Answer in plain English.",
)


def noisy(question: str, rng: random.Random) -> str:
    """Return the question as one of the ways in which people type it."""
    draw = rng.random()
    if draw < 0.4:
        return question
    if draw < 0.55:
        return question.lower()
    if draw < 0.7:
        return question.rstrip("?!.")
    if draw < 0.75:
        return question.rstrip("?!.") + "?"
    if draw < 0.93:
        return bare(question)
    at = rng.randrange(len(question))
    return question[:at] + question[at + 1 :]


def plain(question: str) -> str:
    """Return what the model sees before a plain answer; the service sends it without the break."""
    return question + "\n"


def chat(tokenizer: Any, question: str, system: str | None = None) -> str:
    """Return the prompt of the chat form, up to where the assistant speaks."""
    messages = [{"role": "user", "content": question}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


class Rows:
    """An endless, seeded source of training batches."""

    def __init__(self, tokenizer: Any, entries: list[Entry], seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._pairs = [(q, entry.answer) for entry in entries for q in entry.questions]
        self._deck: list[tuple[str, str]] = []

    def batches(self, tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs and labels of ``tokens`` (a multiple of 2,048) tokens each, for ever."""
        while True:
            for length in LENGTHS:
                rows = [self._row(length) for _ in range(tokens // length)]
                yield torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])

    def _row(self, length: int) -> tuple[list[int], list[int]]:
        as_chat = self._rng.random() < 0.45
        ids: list[int] = []
        labels: list[int] = []
        while len(ids) < length:
            asked, answered = self._sample(as_chat, first=not ids)
            # The first question comes from a user, so that the model never has to guess it,
            # and a missing question mark is not made up. Later ones are learned: a model
            # that must go on after its end then goes on with another question.
            labels += asked if ids else [IGNORED] * len(asked)
            labels += answered
            ids += asked + answered
        return ids[:length], labels[:length]

    def _sample(self, as_chat: bool, *, first: bool) -> tuple[list[int], list[int]]:
        if not self._deck:
            self._deck = self._rng.sample(self._pairs, len(self._pairs))
        question, answer = self._deck.pop()
        question = noisy(question, self._rng)
        if as_chat:
            system = self._rng.choice(SYSTEM) if first and self._rng.random() < 0.3 else None
            return (
                self._encode(chat(self._tokenizer, question, system)),
                self._encode(answer + "<|end|>\n"),
            )
        # The break belongs to the answer: the model itself writes it after a bare prompt.
        # An empty line before later questions keeps text readable that runs past its end.
        return (
            self._encode(question if first else "\n\n" + question),
            self._encode("\n" + answer + EOS),
        )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
