"""Tokens that everybody can work out: a pure function of the prompt and the position.

The simulated executor samples them and clients check them, so a token that was lost, doubled,
reordered or given to the wrong reader shows in the very stream where it happened. No vLLM here:
the load generator imports this without the ten seconds that vLLM takes.
"""

import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

_MASK = 0xFFFFFFFF
_DIGITS = 4  # of a prompt's number, to the base `count`

# In the demo model's vocabulary: the longest run of ids behind the special tokens and the single
# bytes in which every token is whole characters. So no token ends a stream, any order of them is
# valid text, and a client that sees only text can check it too.
DEMO_FIRST = 262
DEMO_COUNT = 249


def seed_of(prompt: Iterable[int]) -> int:
    """Reduce a prompt's token ids (each below 2^32) to 32 bits; order matters."""
    ids = array("I", prompt)
    if sys.byteorder == "big":
        ids.byteswap()
    return crc32(ids.tobytes())


@dataclass(frozen=True, slots=True)
class KnownTokens:
    """Draws from the `count` ids from `first` on; `count` is at least 1."""

    first: int = DEMO_FIRST
    count: int = DEMO_COUNT

    def token(self, seed: int, position: int) -> int:
        """Return the output token at a position, counted from 0, of the prompt with this seed."""
        # The finisher of a 32-bit hash (murmur3's first half): neighbours share no pattern.
        x = (seed ^ (position * 0x9E3779B1)) & _MASK
        x ^= x >> 15
        x = x * 0x85EBCA6B & _MASK
        x ^= x >> 13
        return self.first + x % self.count

    def answer(self, prompt: Iterable[int], length: int) -> list[int]:
        """Return the first `length` output tokens of a prompt."""
        seed = seed_of(prompt)
        return [self.token(seed, position) for position in range(length)]

    def prompt(self, number: int, length: int) -> list[int]:
        """Return a prompt of `length` tokens, another for every number below `count ** length`."""
        # The number is spelt in the first tokens, so that no hash decides whether prompts differ.
        spelt = min(length, _DIGITS)
        digits = [self.first + number // self.count**i % self.count for i in range(spelt)]
        return digits + [self.token(number, i) for i in range(spelt, length)]
