"""What both kinds of stream know about the answer that they read. No I/O."""

from tokenstream_client.events import Delta, Event, Finished, Started


class Reading:
    """One stream's progress, as far as its reader has read."""

    def __init__(self, next_token_index: int = 0) -> None:
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._next_token_index = next_token_index
        self._tokens_read = 0

    @property
    def started(self) -> Started | None:
        """The stream's beginning; None until it was read."""
        return self._started

    @property
    def finished(self) -> Finished | None:
        """The answer's end, with its usage and timings; None until it was read. Of several choices
        the one that was read last: each one's is an event.
        """
        return self._finished

    @property
    def next_token_index(self) -> int:
        """Index of the first token that was not read yet, of choice 0: what `resume` takes."""
        return self._next_token_index

    @property
    def tokens_read(self) -> int:
        """How many tokens were read here, of all choices."""
        return self._tokens_read

    def _note(self, event: Event) -> None:
        if type(event) is Delta:
            self._tokens_read += len(event.token_ids)
            if not event.choice_index:
                self._next_token_index = event.first_token_index + len(event.token_ids)
        elif isinstance(event, Started):
            self._started = event
        elif isinstance(event, Finished):
            self._finished = event
