"""Several choices for one request: what holds between the generations that they are.

Rules:

1. They begin together: all have a place or none has, and the prompt is rendered once. Choice 0 has
   the request's id; the others have ids that only the engine and this service know.
2. Each ends by itself, with its own Finished; the request is over with the last of them.
3. When one fails, all that still run fail with it, at once, and so does the request: once, after
   what was decoded before was taken. One whose reader is broken off takes the others along.
4. A choice that waits for credit while another has not got as far does not stall: a caller counts
   its credit by the slowest.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from service.domain import GenerationRequest
from service.errors import ServiceError
from service.generation import Generation


def add_choices(
    first: Generation, request: GenerationRequest, places: Sequence[ExitStack]
) -> Sequence[Generation]:
    """Make a request's other choices, one for each place, which becomes its own."""
    others = [first.another(index, request, place) for index, place in enumerate(places, 1)]
    choices = (first, *others)
    for choice in choices:
        choice.choices = choices
    return choices


def fail_others(choice: Generation, fail: Callable[[str, ServiceError], None]) -> None:
    """Let all others `fail` if this one, whose stream has just ended, has failed."""
    failure = None if choice.stream is None else choice.stream.failure
    if failure is not None:
        for other in choice.choices:
            fail(other.stream_id, failure)


def all_settled(choice: Generation) -> bool:
    """Whether its request is over."""
    return all(c.outcome is not None for c in choice.choices)


def all_failures_told(choice: Generation) -> bool:
    """Whether of no choice that failed anything is left to be taken."""
    return not any(
        c.reader is not None
        and c.stream is not None
        and c.stream.failure
        and not c.reader.exhausted
        for c in choice.choices
    )


def leave_together(choice: Generation, because: ServiceError | None) -> None:
    """Leave what is still read of its request: the caller has gone, or all are broken off."""
    for other in choice.choices:
        reader = other.reader
        if reader is not None:
            if because is not None:
                reader.break_off(because)
            other.leave(reader)


def waits_for_another(choice: Generation) -> bool:
    """Whether it has no credit left because another choice has not come as far."""
    return (
        choice.reader is not None
        and choice.reader.credit == 0
        and any(c.reader is not None and c.reader.credit for c in choice.choices)
    )
