"""Who has had how much: a virtual token counter per tenant (VTC, Sheng et al., OSDI'24).

A tenant is charged for what was computed for it, divided by its weight, and of those that wait the
one with the smallest counter is served next. Rules:

1. `PROMPT_WEIGHT` for each prompt token that was computed (prefix-cached ones are free), once, and
   `OUTPUT_WEIGHT` for each decoded token; what is computed again after an eviction is free.
2. A tenant that comes back from idle is lifted to the smallest counter of the busy ones: nobody
   saves up a share.

Then two tenants that both have work waiting differ by at most what one batch can be charged (the
paper's bound is 2 x max(prompt weight x longest prompt, output weight x tokens in the cache)).

Bound: one counter for each tenant with requests, and for those that have none but had more than
the least busy one.
"""

from collections import Counter
from collections.abc import Mapping

PROMPT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
OVER_SERVED = 4096.0  # about 2,000 decoded tokens, for a weight of 1


class FairShares:
    """See the rules above. With `enabled` False every tenant has the same counter."""

    def __init__(self, weights: Mapping[str, float], *, enabled: bool = True) -> None:
        self._weights = weights
        self._enabled = enabled
        self._counters: dict[str, float] = {}
        self._requests: Counter[str] = Counter()

    @property
    def contended(self) -> bool:
        """Whether there is more than one tenant to choose from."""
        return self._enabled and len(self._requests) > 1

    def counter(self, tenant: str) -> float:
        """What a tenant has had for its weight."""
        return self._counters.get(tenant, 0.0) if self._enabled else 0.0

    def counters(self) -> dict[str, float]:
        """All of them."""
        return dict(self._counters)

    def is_over_served(self, tenant: str) -> bool:
        """Whether another tenant with requests has had less by more than a large request costs."""
        if not self.contended:
            return False
        least = min(self._counters[t] for t in self._requests)
        return self.counter(tenant) - least > OVER_SERVED

    def arrive(self, tenant: str) -> None:
        """Take notice of a request."""
        self._requests[tenant] += 1
        if self._requests[tenant] == 1:
            least = min((self._counters[t] for t in self._requests if t != tenant), default=0.0)
            self._counters[tenant] = max(self._counters.get(tenant, 0.0), least)

    def leave(self, tenant: str) -> None:
        """Take notice that a request has ended."""
        self._requests[tenant] -= 1
        if self._requests[tenant] == 0:
            del self._requests[tenant]
            least = min((self._counters[t] for t in self._requests), default=None)
            for idle in [t for t in self._counters if t not in self._requests]:
                if least is None or self._counters[idle] <= least:
                    del self._counters[idle]

    def charge(self, tenant: str, prompt_tokens: int, output_tokens: int) -> None:
        """Charge a tenant, if it has requests."""
        cost = PROMPT_WEIGHT * prompt_tokens + OUTPUT_WEIGHT * output_tokens
        if tenant in self._counters:
            self._counters[tenant] += cost / self._weights.get(tenant, 1.0)
