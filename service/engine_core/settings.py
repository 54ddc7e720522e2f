"""What the service tells the scheduler at its start, and each request at its submission.

Both travel through vLLM: the first in `additional_config`, the second in the sampling parameters'
`extra_args`, each under the key `tokenstream`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

KEY = "tokenstream"


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds and switches; every policy can be switched off by itself.

    Flow control: `high_mark` and `low_mark` are the tokens that a request may be ahead of its
    reader before it is parked, and from which on it runs again. A reader that has not shown yet
    that it reads gets less: `first_mark`, and one more for each token that it has taken.

    Pacing, of readers that declared a rate: one gives its place up only if it can read on for
    `spare_s` longer than the one that wants it, and only for one that has waited `wait_s`; it
    comes back when its reader has `return_s` left, or after `most_away_s`. `headroom` is the share
    of the KV cache that is kept for arrivals while some are away. What goes into computing them
    again is at most `recompute_share` of the time in which requests need their places, and what was
    saved up before: `recompute_share_in_peace` of the time in which none did, and no more than
    `recompute_reserve_s`. Nothing is earned while requests wait that are late already. For
    requests that are lost at their deadline there is another `deadline_share`.

    Late requests: one whose first token is `patience_s` later than its target is served behind
    those that are in time, until it has waited `patience_factor` times as long as it would have,
    first come first served, but at least `least_patience_s`.

    `silence_s`: after so long without a word from the service nobody waits for a reader.
    `weights`: of tenants, 1 where not named.
    """

    flow_control: bool = True
    high_mark: int = 256
    low_mark: int = 64
    first_mark: int = 64
    silence_s: float = 10.0
    pacing: bool = True
    spare_s: float = 30.0
    wait_s: float = 0.05
    return_s: float = 4.0
    most_away_s: float = 20.0
    headroom: float = 0.05
    recompute_share: float = 0.03
    recompute_share_in_peace: float = 0.1
    recompute_reserve_s: float = 2.0
    deadline_share: float = 0.2
    patience_s: float = 1.0
    patience_factor: float = 1.5
    least_patience_s: float = 20.0
    fair_shares: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)
    deadlines: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.low_mark < self.high_mark:
            raise ValueError("tokenstream: low_mark must be at least 0 and below high_mark")
        if self.first_mark < 1:
            raise ValueError("tokenstream: first_mark must be at least 1")
        for name in ("headroom", "recompute_share", "recompute_share_in_peace", "deadline_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"tokenstream: {name} must be in [0, 1)")
        for name in ("silence_s", "patience_factor", "least_patience_s", "most_away_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"tokenstream: {name} must be above 0")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ValueError("tokenstream: a tenant's weight must be above 0")

    @classmethod
    def from_additional_config(cls, config: Any) -> Self:
        """Read them; raises ValueError for a name that is not known."""
        given = dict(config.get(KEY, {})) if isinstance(config, Mapping) else {}
        strange = given.keys() - {f.name for f in fields(cls)}
        if strange:
            raise ValueError(f"tokenstream: there is no setting {sorted(strange)[0]!r}")
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Said:
    """What a request's caller has declared.

    `reading_rate`: tokens a second; None reads as fast as it comes. `deadline`: moment of the
    monotonic clock after which a first token is of no use. `priority`: classes above 0 are served
    before it, those below behind it. `slow_start` False: its tokens are merged for so long that
    many may wait though its reader keeps up.
    """

    tenant: str = ""
    reading_rate: float | None = None
    first_token_target_s: float = 1.0
    deadline: float | None = None
    priority: int = 0
    slow_start: bool = True

    @classmethod
    def from_extra_args(cls, extra_args: Mapping[str, Any] | None) -> Self:
        """Read it; nothing was said where there is nothing, or nothing that can be read.

        Under vLLM's own frontends callers can write here, and what is raised would end the engine.
        """
        told = extra_args.get(KEY) if extra_args else None
        try:
            said = cls(**told) if told else cls()
        except TypeError:
            return cls()
        return said if said._can_be_counted_with() else cls()

    def _can_be_counted_with(self) -> bool:
        return (
            isinstance(self.tenant, str)
            and isinstance(self.priority, int)
            and _is_finite(self.first_token_target_s)
            and (self.deadline is None or _is_finite(self.deadline))
            and (
                self.reading_rate is None
                or (_is_finite(self.reading_rate) and self.reading_rate > 0)
            )
        )


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)
