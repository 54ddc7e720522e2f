"""A session whose requests are moved by the test, and what came out of it."""

from dataclasses import dataclass, field

from service.domain import Finished
from service.errors import ServiceError
from service.generation import Generation
from service.session.frame import ActionKind, Frame
from service.session.session import Session
from tests.conftest import FakeClock
from tests.service.generations import Generations


@dataclass
class Received:
    """What a caller has of one request; checks the grammar while it takes."""

    started: bool = False
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    first: int = 0
    end: Finished | ServiceError | None = None

    @property
    def letters(self) -> str:
        return "".join(map(chr, self.tokens))


class Caller:
    """Takes a session's frames apart by request."""

    def __init__(self) -> None:
        self.requests: dict[int, Received] = {}
        self.rejected: list[tuple[int, ActionKind, type[ServiceError]]] = []

    def of(self, request_id: int) -> Received:
        return self.requests.setdefault(request_id, Received())

    def take(self, frame: Frame) -> None:
        """Take one frame, which must say something and be made as it has to be."""
        deltas = frame.deltas
        columns = (deltas.tags, deltas.first_token_indexes, deltas.token_counts, deltas.texts)
        assert len({len(column) for column in columns}) == 1
        assert len(set(deltas.tags)) == len(deltas.tags), "a request twice"
        assert sum(deltas.token_counts) == len(deltas.token_ids)
        assert not frame.is_empty
        for request_id, _ in frame.started:
            request = self.of(request_id)
            assert not request.started
            assert request.end is None
            request.started = True
        token_ids = iter(deltas.token_ids)
        for request_id, first, count, text in zip(*columns, strict=True):
            request = self.of(request_id)
            assert request.started
            assert request.end is None
            assert first == request.first + len(request.tokens)
            assert count or text
            request.tokens += [next(token_ids) for _ in range(count)]
            request.text += text
        for request_id, finished in frame.finished:
            self._end(request_id, finished, started=True)
        for request_id, failure in frame.failed:
            self._end(request_id, failure, started=False)
        for request_id, action, why in frame.rejected:
            self.rejected.append((request_id, action, type(why)))

    def _end(self, request_id: int, end: Finished | ServiceError, *, started: bool) -> None:
        request = self.of(request_id)
        assert request.end is None, "two ends"
        assert request.started or not started
        request.end = end


class Wakes:
    """Counts how often the writer was woken."""

    def __init__(self) -> None:
        self.now = 0
        self.soon = 0

    def wake(self) -> None:
        self.now += 1

    def wake_soon(self) -> None:
        self.soon += 1


class AtWork:
    """A session over requests that need no pipeline."""

    def __init__(self, clock: FakeClock) -> None:
        self.generations = Generations(clock)
        self.wakes = Wakes()
        self.session = Session(self.wakes.wake, self.wakes.wake_soon)
        self.caller = Caller()

    def start(
        self, request_id: int, *, credit: int | None = None, detach: bool = False
    ) -> Generation:
        """Open a request and read it."""
        self.session.open(request_id)
        return self.opened(request_id, credit=credit, detach=detach)

    def opened(
        self, request_id: int, *, credit: int | None = None, detach: bool = False
    ) -> Generation:
        """Have opened a request that is being opened."""
        generation = self.generations.begin(
            f"stream {request_id}", credit=credit, detach=detach, known=False
        )
        self.resumed(request_id, generation)
        return generation

    def resumed(self, request_id: int, generation: Generation, position: int = 0) -> None:
        """Read on what was opened before."""
        reader = self.generations.read(generation, self.session, position=position, tag=request_id)
        self.caller.of(request_id).first = position
        self.session.opened(request_id, generation, reader)

    def frames(self) -> list[Frame]:
        """Take all frames that there are, as after some time."""
        self.session.tell_starts()
        frames = []
        while (frame := self.session.next_frame()) is not None:
            self.caller.take(frame)
            frames.append(frame)
        return frames
