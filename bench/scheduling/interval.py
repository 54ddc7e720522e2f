"""Means of few runs, with how sure they are."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

# Student's t, 97.5 %, by degrees of freedom from 1; from 12 runs on the normal distribution's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_NORMAL = 1.960


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and half the width of its 95 % confidence interval; 0 of a single run."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value, each from a seed of its own."""
        mean = statistics.fmean(values)
        freedom = len(values) - 1
        if not freedom:
            return cls(mean, 0.0)
        t = _T[freedom - 1] if freedom <= len(_T) else _NORMAL
        return cls(mean, t * statistics.stdev(values) / math.sqrt(len(values)))

    def render(self, form: str) -> str:
        """Return `mean ± half`, or the mean where the rest looks like nothing."""
        mean, half = form.format(self.mean), form.format(self.half)
        return mean if half == form.format(0.0) else f"{mean} ± {half}"
