"""Which streams there are, whose they are, and when their time is over.

Rules:

1. A stream is found by its id and its tenant together; a wrong tenant is as good as a wrong id.
2. A stream that cannot be resumed is in it from its submission until it has settled, one that can
   until its time to live has passed.
3. Of a request with several choices all are in it. Its id finds it until the last has settled;
   theirs find nothing.
4. `sweep` is called again and again; it breaks stalled readers off and lets streams expire. Times
   are met to the sweep's interval.

Bound: the gate's limit of streams that run, and `most_retained` that have settled; of those the
oldest of the tenant that has most goes first, so that nobody pushes others' streams out. One that
is being read then is read to its end, but not found again.
"""

from collections import defaultdict
from itertools import chain

from service.choices import all_settled, waits_for_another
from service.errors import StreamNotFound, StreamStalled
from service.generation import Generation
from service.telemetry.outcomes import Outcome


class Directory:
    """See the rules above. `stall_limit_s`: seconds that a reader may take nothing."""

    def __init__(self, stall_limit_s: float, most_retained: int) -> None:
        self._stall_limit_s = stall_limit_s
        self._most_retained = most_retained
        self._running: dict[str, Generation] = {}
        self._several: dict[str, Generation] = {}  # the first choice, until all have settled
        self._retained: defaultdict[str, dict[str, Generation]] = defaultdict(dict)  # by tenant
        self._retained_count = 0
        self._outgoing: list[Generation] = []
        self._looked_at: float | None = None
        self.readers_stalled = 0  # since the start

    def __len__(self) -> int:
        """Streams in it, settled ones included."""
        return len(self._running) + self._retained_count

    @property
    def tokens_ahead(self) -> int:
        """Decoded tokens of running streams that their readers have not taken."""
        return sum(
            g.stream.count - (g.delivered if g.reader is None else g.reader.position)
            for g in self._running.values()
            if g.stream is not None
        )

    @property
    def with_tokens(self) -> int:
        """Running streams that have had a token."""
        streams = (g.stream for g in self._running.values())
        return sum(1 for s in streams if s is not None and s.first_token_at is not None)

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the tokens that streams keep; their log-probabilities are not in it."""
        retained = (g for of_one in self._retained.values() for g in of_one.values())
        streams = (g.stream for g in chain(self._running.values(), retained))
        return sum(s.tokens.itemsize * len(s.tokens) for s in streams if s is not None)

    @property
    def credit_in_flight(self) -> int:
        """Tokens that readers with credit may still be given, over all running streams."""
        readers = (g.reader for g in self._running.values())
        return sum(r.credit or 0 for r in readers if r is not None)

    @property
    def detached(self) -> int:
        """Streams that run without a reader."""
        return sum(1 for g in self._running.values() if g.reader is None and g.resumable)

    @property
    def being_read_again(self) -> int:
        """Streams that have settled and have a reader."""
        settled = [g for of_one in self._retained.values() for g in of_one.values()]
        return sum(1 for g in settled + self._outgoing if g.reader is not None)

    @property
    def retained(self) -> int:
        """Streams that have settled and can be read again."""
        return self._retained_count

    def add(self, generation: Generation) -> None:
        """Enter a stream that begins."""
        self._running[generation.stream_id] = generation
        if generation.choices and generation.choice_index == 0:
            self._several[generation.stream_id] = generation

    def settled(self, generation: Generation) -> None:
        """Take notice that a stream has settled."""
        if generation.choices and all_settled(generation):
            self._several.pop(generation.choices[0].stream_id, None)
        if self._running.pop(generation.stream_id, None) is None:
            return  # it never began
        if not (generation.began and generation.known and generation.resumable):
            return  # nobody can come back for it
        if generation.outcome is not Outcome.EXPIRED:
            self._retained[generation.tenant][generation.stream_id] = generation
            self._retained_count += 1
            if self._retained_count > self._most_retained:
                most = max(self._retained.values(), key=len)
                oldest = next(iter(most.values()))
                self._forget(oldest)
                if oldest.reader is not None:
                    self._outgoing.append(oldest)

    def find(self, stream_id: str, tenant: str) -> Generation:
        """Return a tenant's stream that can be read on. Raises `StreamNotFound`."""
        retained = self._retained.get(tenant, {})
        generation = self._running.get(stream_id) or retained.get(stream_id)
        if generation is None or generation.tenant != tenant or not generation.resumable:
            raise StreamNotFound
        return generation

    def find_running(self, stream_id: str, tenant: str) -> Generation:
        """Return a tenant's stream of which not all has settled. Raises `StreamNotFound`."""
        generation = self._running.get(stream_id) or self._several.get(stream_id)
        if generation is None or generation.tenant != tenant or generation.choice_index:
            raise StreamNotFound
        return generation

    def sweep(self, now: float, forgiven_s: float = 0.0) -> None:
        """Break off readers that have stalled, and forget what has expired.

        `forgiven_s`: see `StreamReader.stalled`.
        """
        since_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        for generation in list(self._running.values()):
            waits = generation.choices and waits_for_another(generation)
            if self._look_at(generation, now, since_s if waits else forgiven_s):
                generation.settle(Outcome.EXPIRED)
        for generation in [g for of_one in self._retained.values() for g in of_one.values()]:
            if self._look_at(generation, now, forgiven_s):
                self._forget(generation)
        for generation in self._outgoing:
            self._look_at(generation, now, forgiven_s)
        self._outgoing = [g for g in self._outgoing if g.reader is not None]

    def _forget(self, generation: Generation) -> None:
        of_one = self._retained[generation.tenant]
        del of_one[generation.stream_id]
        self._retained_count -= 1
        if not of_one:
            del self._retained[generation.tenant]

    def _look_at(self, generation: Generation, now: float, forgiven_s: float) -> bool:
        """Break a stalled reader off; if there is none, tell whether none came back in time."""
        reader = generation.reader
        if reader is None:
            return generation.expires_at is not None and now >= generation.expires_at
        if reader.stalled(now, self._stall_limit_s, forgiven_s):
            self.readers_stalled += 1
            reader.break_off(StreamStalled(self._stall_limit_s))
        return False
