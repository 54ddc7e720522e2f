"""How unequally two tenants were served, seen from outside.

The service that a tenant has received is what VTC (Sheng et al., OSDI'24) charges: 1 for each token
of a prompt, counted at its first token, and 2 for each output token. Of any stretch of time in
which both have requests waiting, the difference that came about in it is what is bounded: by
2 x max(1 x the longest prompt, 2 x the tokens in the cache).
"""

from collections.abc import Sequence
from itertools import pairwise

from bench.scheduling.reader import Reading

PROMPT_WEIGHT = 1
OUTPUT_WEIGHT = 2


def bound(longest_prompt: int, cache_tokens: int) -> int:
    """VTC's bound on the gap."""
    return 2 * max(PROMPT_WEIGHT * longest_prompt, OUTPUT_WEIGHT * cache_tokens)


def largest_gap(readings: Sequence[Reading], one: str, other: str) -> float:
    """The largest difference that came about while requests of both waited for a first token."""
    happenings = sorted(
        [h for r in readings for h in _happenings(r, one, other)], key=lambda h: h[0]
    )
    waiting = {one: 0, other: 0}
    ahead = least = most = largest = 0
    both = False
    for _, tenant, waits, served in happenings:
        ahead += served if tenant == one else -served
        waiting[tenant] += waits
        if waiting[one] and waiting[other]:
            least, most = (min(least, ahead), max(most, ahead)) if both else (ahead, ahead)
            largest = max(largest, most - least)
            both = True
        else:
            both = False
    return largest


def _happenings(reading: Reading, one: str, other: str) -> list[tuple[float, str, int, int]]:
    """What happens to a request: the moment, its tenant, change of those waiting, service."""
    arrival = reading.arrival
    if arrival.tenant not in (one, other):
        return []
    found = [(arrival.at, arrival.tenant, 1, 0)]
    steps = [(0.0, 0), *reading.deliveries]
    for (_, before), (moment, upto) in pairwise(steps):
        served = OUTPUT_WEIGHT * (upto - before)
        if before:
            found.append((moment, arrival.tenant, 0, served))
        else:
            served += PROMPT_WEIGHT * arrival.prompt_tokens
            found.append((moment, arrival.tenant, -1, served))
    if not reading.deliveries and reading.left_at is not None:
        found.append((reading.left_at, arrival.tenant, -1, 0))
    return found
