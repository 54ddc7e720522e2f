"""Who has had how much: a virtual token counter per tenant (VTC, Sheng et al., OSDI'24).

A tenant is charged for what was computed for it, divided by its weight, and of those that wait the
one with the smallest counter is served next. Rules:

1. `PROMPT_WEIGHT` for each prompt token that was computed (prefix-cached ones are free), once, and
   `OUTPUT_WEIGHT` for each decoded token; what is computed again after an eviction is free.
2. A tenant that begins to wait is lifted to the smallest counter of those that wait, or, if none
   does, to that of the last one that did: nobody saves up a share.
3. A tenant that holds more of the cache than its share, while another one is at work, leaves some
   room free for that (`is_over_its_share`), so that whoever asks for little need not queue.

Then two tenants that both have work waiting differ by at most what one batch can be charged (the
paper's bound is 2 x max(prompt weight x longest prompt, output weight x tokens in the cache)).

Bound: one counter for each tenant with requests, and for those that have none but had more than
the least busy one.
"""

from collections import Counter
from collections.abc import Mapping

PROMPT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
_MORE_THAN_ITS_SHARE = 1.1


class FairShares:
    """See the rules above. With `enabled` False every tenant has the same counter."""

    def __init__(self, weights: Mapping[str, float], *, enabled: bool = True) -> None:
        self._weights = weights
        self._enabled = enabled
        self._counters: dict[str, float] = {}
        self._requests: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._last_waited = 0.0  # counter of the tenant that waited last
        self._over: frozenset[str] = frozenset()

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

    def is_over_its_share(self, tenant: str) -> bool:
        """Whether a tenant held more than its share at the last `look_at`."""
        return tenant in self._over

    def who_yields_to(self, tenant: str) -> frozenset[str]:
        """Tenants over their share, for one that is not."""
        return frozenset() if tenant in self._over else self._over

    def look_at(self, held: Mapping[str, int]) -> None:
        """Take who holds how many tokens in the cache for requests that are under way."""
        self._over = frozenset()
        if not self.contended:
            return
        at_work = held.keys() | self._waiting.keys()
        weights = {tenant: self._weights.get(tenant, 1.0) for tenant in at_work}
        if len(at_work) > 1:
            one = _MORE_THAN_ITS_SHARE * sum(held.values()) / sum(weights.values())
            self._over = frozenset(t for t in held if held[t] > one * weights[t])

    def arrive(self, tenant: str) -> None:
        """Take notice of a request."""
        self._requests[tenant] += 1
        self._counters.setdefault(tenant, 0.0)

    def waits(self, tenant: str) -> None:
        """Take notice that a tenant's request waits."""
        if tenant not in self._waiting:
            least = min((self._counters.get(t, 0.0) for t in self._waiting), default=None)
            lifted = self._last_waited if least is None else least
            self._counters[tenant] = max(self._counters.get(tenant, 0.0), lifted)
        self._waiting[tenant] += 1

    def waits_no_more(self, tenant: str) -> None:
        """Take notice that one of them does not wait any more."""
        self._waiting[tenant] -= 1
        if self._waiting[tenant] == 0:
            del self._waiting[tenant]
            self._last_waited = self._counters.get(tenant, 0.0)

    def leave(self, tenant: str) -> None:
        """Take notice that a request has ended."""
        self._requests[tenant] -= 1
        if self._requests[tenant] == 0:
            del self._requests[tenant]
            least = min((self._counters[t] for t in self._requests), default=None)
            for idle in [t for t in self._counters if t not in self._requests]:
                if idle not in self._waiting and (least is None or self._counters[idle] <= least):
                    del self._counters[idle]

    def charge(self, tenant: str, prompt_tokens: int, output_tokens: int) -> None:
        """Charge a tenant that has a counter."""
        cost = PROMPT_WEIGHT * prompt_tokens + OUTPUT_WEIGHT * output_tokens
        if tenant in self._counters:
            self._counters[tenant] += cost / self._weights.get(tenant, 1.0)
