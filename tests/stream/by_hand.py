"""A stream, its readers and where they deliver, all moved by the test itself."""

from collections.abc import Iterable, Sequence

from service.domain import DeliveryOptions, Delta, EngineFinish, FinishReason
from service.errors import ServiceError
from service.stream.pacing import DelayGrid
from service.stream.reader import StreamReader
from service.stream.stop_strings import StopMatch, StopWatch
from service.stream.text import StopRules
from service.stream.token_stream import TokenStream
from tests.conftest import FakeClock
from tests.stream.taken import taken

STOP = EngineFinish(FinishReason.STOP)
LENGTH = EngineFinish(FinishReason.LENGTH)
CANCELLED = EngineFinish(FinishReason.CANCELLED)


class LetterDecoder:
    """A token is a code point."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def decode_token(self, token_id: int) -> str:
        return chr(token_id)


class PieceDecoder:
    """Token i of a fixed list of pieces; several characters at once, or none, come out."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join([self._pieces[i] for i in token_ids])

    def decode_token(self, token_id: int) -> str:
        return self._pieces[token_id]


def naive_stop(pieces: Sequence[str], rules: StopRules) -> tuple[str, StopMatch | None]:
    """Join all of it token by token; after each, look for a stop string in all of the text."""
    text = ""
    for position, piece in enumerate(pieces):
        before, text = len(text), text + piece
        if not piece or position < rules.min_tokens:
            continue
        # Every way in which a stop string ends inside this piece, by where it ends.
        ends = [
            (end, order, string)
            for end in range(before + 1, len(text) + 1)
            for order, string in enumerate(rules.strings)
            if text[:end].endswith(string)
        ]
        if ends:
            end, _, string = min(ends)  # at the same end, the first in the list
            kept = end if rules.include_stop else end - len(string)
            return text[:kept], StopMatch(string, position + 1, kept)
    return text, None


class NotedSink:
    """Keeps what it was told and takes nothing by itself."""

    def __init__(self) -> None:
        self.told: list[StreamReader] = []
        self.broken: list[tuple[StreamReader, ServiceError | None]] = []

    def ready(self, reader: StreamReader) -> None:
        assert reader not in self.told, "told twice"
        self.told.append(reader)

    def broken_off(self, reader: StreamReader) -> None:
        self.broken.append((reader, reader.broken))


class ByHand:
    """A stream and a reader of it. Nothing is taken before `take`, no time passes by itself."""

    def __init__(
        self,
        clock: FakeClock,
        rules: StopRules | None = None,
        *,
        keep_all: bool = False,
        reading: bool = True,
        **delivery: float,
    ) -> None:
        self.clock = clock
        self.rules = rules or StopRules()
        self.grid = DelayGrid(clock)
        self.sink = NotedSink()
        watch = StopWatch(LetterDecoder(), self.rules) if self.rules.strings else None
        self.stream = TokenStream(clock, stop_watch=watch, keep_all=keep_all)
        if reading:
            self.reader = self.read(0, **delivery)

    def read(self, position: int = 0, **delivery: float) -> StreamReader:
        """Let a reader begin, and be the one that the methods here mean."""
        options = DeliveryOptions(**delivery)  # type: ignore[arg-type]
        self.reader = StreamReader(
            self.stream, position, LetterDecoder(), self.rules, options, self.grid, self.sink
        )
        return self.reader

    def push(self, letters: str | Iterable[int], finish: EngineFinish | None = None) -> bool:
        return self.stream.push([ord(c) if isinstance(c, str) else c for c in letters], finish)

    def pass_ms(self, milliseconds: float) -> None:
        self.clock.now += milliseconds / 1000
        self.grid.fire()

    @property
    def told(self) -> bool:
        """Whether something is due."""
        return self.reader in self.sink.told

    def take(self) -> tuple[str, str] | None:
        """Take what has to be due: its tokens as letters, and its text."""
        assert self.told, "nothing is due"
        self.sink.told.remove(self.reader)
        position = self.reader.position
        delta = taken(self.reader)
        if delta is None:
            return None
        assert delta.first_token_index == position
        assert self.reader.position == position + len(delta.token_ids)
        return letters_of(delta), delta.text

    def rest(self) -> list[tuple[str, str]]:
        """Take as long as something is due."""
        taken = []
        while self.told:
            if (delta := self.take()) is not None:
                taken.append(delta)
        return taken


def letters_of(delta: Delta) -> str:
    return "".join(map(chr, delta.token_ids))
