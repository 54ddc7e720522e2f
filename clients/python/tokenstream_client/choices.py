"""An answer with several choices: as `Answer`, with a position of each. No I/O.

Choices interleave, each without a gap or a repeat; the answer's end is the last one's Finished.
Credit is counted by the slowest: up to the least position that was read of a choice that has not
ended, and a window more. So of each choice at most a window of tokens waits here, and one that has
ended holds up none.
"""

from collections import deque

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client.answer import BROKEN_STREAM, Answer, Terms
from tokenstream_client.errors import Internal
from tokenstream_client.events import Delta, Finished, Started


class ChoicesAnswer(Answer):
    """See above. It is never read on: a lost connection ends it. `next_token_index` is the first
    choice's.
    """

    def __init__(self, opening: pb.GenerateRequest, terms: Terms | None = None) -> None:
        """`opening` asks for more than one choice, and becomes this object's own."""
        super().__init__(opening, terms)
        # Made with the start: any number can be asked for, few are granted.
        self._number = opening.sampling.n
        self._came = list[int]()
        self._read = list[int]()
        self._running = set[int]()
        # The choice of each delta that came, and its tokens, until they count as read: they are
        # read in that order.
        self._unread: deque[tuple[int, int]] = deque()

    def on_started(self, event: Started) -> None:
        """Take its start: the service has agreed to the number of choices."""
        if not self.ended and not self._came:
            self._came = [0] * self._number
            self._read = [0] * self._number
            self._running = set(range(self._number))
        super().on_started(event)

    def on_delta(self, delta: Delta) -> None:
        """Take some tokens and text; ends the answer if they are not the choice's next ones."""
        if self.ended:
            return
        self._progress()
        index, first, count = delta.choice_index, delta.first_token_index, len(delta.token_ids)
        if index not in self._running:
            self._break(f"tokens came of choice {index}, which does not run")
            return
        if first != self._came[index]:
            came = f"token {first} of choice {index} came instead of token {self._came[index]}"
            self._break(came)
            return
        self._came[index] += count
        self.next_token_index = self._came[0]
        if count:
            self._unread.append((index, count))
        self._put(delta)

    def on_finished(self, event: Finished, *, last: bool = True) -> None:
        """Take a choice's end, and with the last one's, if it is `last`, the answer's."""
        if self.ended:
            return
        if event.choice_index not in self._running:
            self._break(f"an end came of choice {event.choice_index}, which does not run")
            return
        self._running.discard(event.choice_index)
        self._count_by_the_slowest()
        super().on_finished(event, last=last and not self._running)

    @property
    def finished(self) -> bool:
        """Whether every choice has its Finished."""
        return bool(self._came) and not self._running

    def consume(self, tokens: int) -> int | None:
        """Note what was read, as `Answer.consume`."""
        unread = self._unread
        while tokens:
            index, count = unread.popleft()
            if count > tokens:
                unread.appendleft((index, count - tokens))
                count = tokens
            self._read[index] += count
            tokens -= count
        self._count_by_the_slowest()
        return super().consume(0)

    def _count_by_the_slowest(self) -> None:
        if self._running:
            self._consumed = min(self._read[index] for index in self._running)

    def _break(self, why: str) -> None:
        self.end(Internal(why, reason=BROKEN_STREAM))
