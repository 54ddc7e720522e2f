"""One request's stream as our contract has it: Started, deltas without a gap, Finished."""

from dataclasses import dataclass, field

from bench.dialects.answers import wrong_text, wrong_tokens
from bench.dialects.dialect import Reading


@dataclass(slots=True)
class Stream:
    """What came of one request. `wrong`: the first thing that broke the grammar."""

    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    started: bool = False
    finished: bool = False
    wrong: str | None = None

    def must(self, holds: bool, else_wrong: str) -> None:
        """Note what is wrong unless a rule holds; the first one stays."""
        if not holds and self.wrong is None:
            self.wrong = else_wrong

    def start(self) -> None:
        """Take the start."""
        self.must(not self.started, "started twice")
        self.started = True

    def go_on(self, at: float, first: int, tokens: list[int], text: str) -> None:
        """Take a delta."""
        self.must(self.started, "a delta before its start")
        self.must(not self.finished, "a delta after its end")
        self.must(first == len(self.tokens), f"a gap at token {len(self.tokens)}")
        self.times.append(at)
        self.tokens.extend(tokens)
        self.texts.append(text)

    def finish(self, completion_tokens: int) -> None:
        """Take the end, with the tokens that it says there were."""
        self.must(self.started, "finished before its start")
        self.must(not self.finished, "finished twice")
        self.must(
            completion_tokens == len(self.tokens),
            f"a usage of {completion_tokens} tokens after {len(self.tokens)}",
        )
        self.finished = True

    def read(self, answer: list[int]) -> Reading:
        """Hold a whole stream against the tokens that should have come."""
        wrong = (
            self.wrong
            or wrong_tokens(self.tokens, answer)
            or wrong_text("".join(self.texts), answer)
            or (None if self.finished else "no finished event")
        )
        return Reading(self.times, wrong)

    def wrong_while_running(self, answer: list[int]) -> str | None:
        """Tell what is wrong with a stream that began and should be going on."""
        return (
            self.wrong
            or (None if self.started else "never started")
            or ("finished" if self.finished else None)
            or wrong_tokens(self.tokens, answer[: len(self.tokens)])
        )
