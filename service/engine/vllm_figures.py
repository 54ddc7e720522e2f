"""What vLLM's engine tells of itself with its steps: kept, and added up. A few sums a step."""

from typing import TYPE_CHECKING

from service.domain import EngineRank

if TYPE_CHECKING:
    from vllm.v1.metrics.stats import SchedulerStats


class VllmFigures:
    """One entry for each engine of data parallelism; empty if the engine tells nothing."""

    def __init__(self) -> None:
        self._ranks: dict[int, _Rank] = {}

    def take(self, index: int, stats: "SchedulerStats") -> None:
        """Take what came with a step."""
        rank = self._ranks.get(index)
        if rank is None:
            rank = self._ranks[index] = _Rank()
        rank.newest = stats
        prefix = stats.prefix_cache_stats
        if prefix.requests:
            rank.queries += prefix.queries
            rank.hits += prefix.hits
        drafting = stats.spec_decoding_stats
        if drafting is not None:
            rank.drafts += drafting.num_drafts
            rank.draft_tokens += drafting.num_draft_tokens
            rank.accepted_tokens += drafting.num_accepted_tokens

    def ranks(self) -> tuple[EngineRank, ...]:
        """How it stands, in the order of the engines' indexes."""
        return tuple(self._ranks[index].figures() for index in sorted(self._ranks))


class _Rank:
    __slots__ = ("accepted_tokens", "draft_tokens", "drafts", "hits", "newest", "queries")

    newest: "SchedulerStats"

    def __init__(self) -> None:
        self.queries = self.hits = 0
        self.drafts = self.draft_tokens = self.accepted_tokens = 0

    def figures(self) -> EngineRank:
        newest = self.newest
        return EngineRank(
            running=newest.num_running_reqs,
            waiting=newest.num_waiting_reqs,
            deferred=newest.num_skipped_waiting_reqs,
            kv_cache_usage=newest.kv_cache_usage,
            prefix_cache_queries=self.queries,
            prefix_cache_hits=self.hits,
            drafts=self.drafts,
            draft_tokens=self.draft_tokens,
            accepted_tokens=self.accepted_tokens,
        )
