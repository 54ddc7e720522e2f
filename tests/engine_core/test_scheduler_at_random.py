"""Readers of all paces, a KV cache that is too small: every token is right, whoever is parked."""

import random
from dataclasses import dataclass
from typing import Any

import pytest

from tests.engine_core.virtual import Asked, Engine, engine, ids

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

REQUESTS = 24
KV_TOKENS = 52 * 16  # four of the longest, or six that are parked
MOST_STEPS = 30_000

VARIANTS: dict[str, dict[str, Any]] = {
    "two batches in flight": {},
    "one batch in flight": {"two_in_flight": False},
    "chunked prefill": {"batched_tokens": 24},
    "prefix caching": {"more": {"enable_prefix_caching": True}},
    "chunked prefill with prefix caching": {
        "batched_tokens": 24,
        "more": {"enable_prefix_caching": True},
    },
    "fewer active than places": {"active": 4},
    "second runner": {"runner": 2},
    "second runner with chunked prefill": {"runner": 2, "batched_tokens": 24},
}


@dataclass
class Reader:
    """Somebody who reads at a pace of its own. `position`: tokens taken."""

    asked: Asked
    pace: str
    chance: random.Random
    position: int = 0

    def read(self) -> bool:
        """Let a moment pass. Returns whether something was taken, or put back."""
        there, chance, before = len(self.asked.tokens), self.chance, self.position
        if self.pace == "quick":
            self.position = there
        elif self.pace == "steady":
            self.position = min(there, before + chance.randrange(2))
        elif self.pace == "in bursts":
            if chance.random() < 0.03:
                self.position = there
        elif self.pace == "begins again":
            if chance.random() < 0.02:
                self.position = chance.randrange(before + 1)
            else:
                self.position = min(there, before + chance.randrange(4))
        return self.position != before

    def move_on(self) -> None:
        """Read a part of what is there."""
        self.position += self.chance.randrange(len(self.asked.tokens) - self.position + 1)


PACES = ("quick", "steady", "in bursts", "begins again", "not at all")


def said_at_random(chance: random.Random) -> dict[str, Any]:
    said: dict[str, Any] = {"tenant": chance.choice("abc"), "priority": chance.choice((0, 0, 0, 1))}
    if chance.random() < 0.5:
        said["reading_rate"] = chance.choice((5.0, 20.0, 200.0))
    return said


def read_and_write(made: Engine, chance: random.Random) -> set[str]:
    """Let requests come, readers read and some leave, until all have ended. Who left."""
    arrivals = sorted(chance.randrange(400) for _ in range(REQUESTS))
    names = list(ids("r", REQUESTS))
    readers: dict[str, Reader] = {}
    gone: set[str] = set()
    for number in range(MOST_STEPS):
        while arrivals and arrivals[0] <= number:
            arrivals.pop(0)
            name = names.pop(0)
            asked = made.ask(
                name,
                chance.randrange(1, 160),
                prompt_tokens=chance.randrange(4, 40),
                prefix=chance.choice((0, 16, 40)),
                **said_at_random(chance),
            )
            readers[name] = Reader(asked, chance.choice(PACES), chance)
        if not arrivals and all(a.end or i in gone for i, a in made.asked.items()):
            return gone
        for name, reader in readers.items():
            # Not every step is told of; what is told later is newer.
            if reader.read() and chance.random() < 0.3:
                made.tell(**{name: reader.position})
        if chance.random() < 0.004:
            leaves = chance.choice(sorted(readers))
            gone |= {leaves} if made.asked[leaves].end is None else set()
            made.abort(leaves)
        if made.has_work:
            made.step()
        elif not arrivals:
            # All wait for readers: those who never read by themselves do so now.
            for name, reader in readers.items():
                reader.move_on()
                made.tell(**{name: reader.position})
    raise AssertionError(f"not all end: {made.report}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_parked_and_evicted_gets_every_token_in_order_once(
    variant: str, seed: int
) -> None:
    chance = random.Random(f"{seed} {variant}")
    with engine(kv_tokens=KV_TOKENS, **VARIANTS[variant]) as made:
        gone = read_and_write(made, chance)

        stayed = [i for i in made.asked if i not in gone]
        made.check_exact(*stayed)
        report = made.report
        made.check_nothing_left()
    # The test says little unless all of it happened.
    assert len(stayed) >= REQUESTS / 2
    assert report["parkings"] >= 10
    assert report["evicted_parked"] >= 1
    assert report["failures"] == 0
