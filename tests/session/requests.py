"""A session whose requests are moved by the test, and what came out of it."""

from dataclasses import dataclass, field

from service.domain import Finished
from service.errors import ServiceError
from service.generation import Generation
from service.session.frame import ActionKind, Frame, choice_of, tag_of
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
    """Takes a session's frames apart by request or, if it has several, by its choices' tags."""

    def __init__(self) -> None:
        self.several: dict[int, int] = {}  # number of choices, where there are several
        self.requests: dict[int, Received] = {}
        self.rejected: list[tuple[int, ActionKind, type[ServiceError]]] = []

    def tags(self, request_id: int) -> list[int]:
        """What a request's events are kept under."""
        number = self.several.get(request_id)
        if number is None:
            return [request_id]
        return [tag_of(request_id, index) for index in range(number)]

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
            for request in map(self.of, self.tags(request_id)):
                assert not request.started
                assert request.end is None
                request.started = True
        assert frame.several or not any(choice_of(tag) for tag in deltas.tags)
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
            tag = self.tags(request_id)[finished.choice_index]
            self._end(tag, finished, started=True)
        for request_id, failure in frame.failed:
            running = [tag for tag in self.tags(request_id) if self.of(tag).end is None]
            assert running, "it had all its ends"
            for tag in running:
                self._end(tag, failure, started=False)
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

    def opened_several(
        self, request_id: int, number: int, *, credit: int | None = None
    ) -> Generation:
        """Have opened a request with several choices; returns the first."""
        first = self.generations.begin_several(f"stream {request_id}", number, credit=credit)
        self.caller.several[request_id] = number
        readers = [
            self.generations.read(choice, self.session, tag=tag_of(request_id, index))
            for index, choice in enumerate(first.choices)
        ]
        self.session.opened_several(request_id, readers, first)
        return first

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
