"""Requests whose every token is known, and the tally of how each has to be counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

from bench.dialects.answers import token_text
from bench.known_tokens import KnownTokens
from service.telemetry.outcomes import Outcome
from tests.service.running import Answer
from tokenstream.v1 import generation_pb2 as pb

KNOWN = KnownTokens()
_numbers = count(1)


@dataclass
class Asked:
    """One request, and what its answer is."""

    prompt: list[int]
    tokens: int

    @classmethod
    def new(cls, tokens: int) -> "Asked":
        """Another prompt each time."""
        return cls(KNOWN.prompt(next(_numbers), 12), tokens)

    def message(self, **stream: Any) -> pb.GenerateRequest:
        """As the contract has it; `stream`: its StreamOptions."""
        return pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=self.prompt),
            sampling=pb.SamplingOptions(max_tokens=self.tokens, ignore_eos=True),
            stream=pb.StreamOptions(**stream),
        )

    def check(self, got: Answer) -> None:
        """Whether the tokens that came are the right ones, and the text is theirs."""
        first, upto = got.first, got.first + got.count
        assert upto <= self.tokens
        right = KNOWN.answer(self.prompt, upto)[first:]
        assert got.token_ids == right, f"wrong tokens between {first} and {upto}"
        assert got.text == "".join(map(text_of, right))

    def check_whole(self, got: Answer) -> None:
        """The same, and that all of them came."""
        self.check(got)
        assert got.first + got.count == self.tokens
        assert got.end.reason == pb.FINISH_REASON_LENGTH
        assert got.end.usage.completion_tokens == self.tokens


@cache
def text_of(token: int) -> str:
    return token_text(token)


@dataclass
class Tally:
    """What the service's counts have to be: ends that are certain, and those that are one of two.

    `open_`: of requests whose caller cannot know whether its leaving or the answer's end was first.
    """

    certain: Counter[Outcome] = field(default_factory=Counter)
    open_: Counter[frozenset[Outcome]] = field(default_factory=Counter)
    tokens: int = 0
    late: int = 0  # readers that came back when the time to live had passed

    def end(self, *outcomes: Outcome) -> None:
        """Note one request's end, which is one of these."""
        if len(outcomes) == 1:
            self.certain[outcomes[0]] += 1
        else:
            self.open_[frozenset(outcomes)] += 1

    def end_of(self, got: Answer) -> None:
        """Note the end that the caller was told."""
        cancelled = got.end.reason == pb.FINISH_REASON_CANCELLED
        self.end(Outcome.CANCELLED if cancelled else Outcome.LENGTH)

    def check(self, ended: dict[Outcome, int]) -> None:
        """Hold it against what the service has counted."""
        assert sum(ended.values()) == self.requests, (ended, self)
        for outcome in Outcome:
            least = self.certain[outcome]
            most = least + sum(n for among, n in self.open_.items() if outcome in among)
            assert least <= ended.get(outcome, 0) <= most, (outcome, ended, self)

    @property
    def requests(self) -> int:
        return self.certain.total() + self.open_.total()


def merged(tallies: Iterable[Tally]) -> Tally:
    """One tally of all."""
    all_ = Tally()
    for tally in tallies:
        all_.certain.update(tally.certain)
        all_.open_.update(tally.open_)
        all_.tokens += tally.tokens
        all_.late += tally.late
    return all_
