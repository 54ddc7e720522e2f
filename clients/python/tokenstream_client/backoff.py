"""How long to wait before another try. No I/O."""

import random
from collections.abc import Callable
from typing import Final

FIRST_WAIT: Final = 0.1
_MOST_DOUBLINGS: Final = 16


def backoff(failures: int, longest: float, *, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after so many failures in a row, at least one.

    Doubles from `FIRST_WAIT` up to `longest`; then up to half of it is taken off at random, so
    that those who failed together do not come back together. `draw` gives numbers in [0, 1).
    """
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    whole = min(longest, FIRST_WAIT * 2.0**doublings)
    return whole * (1 - draw() / 2)
