"""The bridge's log: console lines for people, JSON for machines, on standard error.

Never a prompt, an answer or a key. So of an exception there is its type and where it was raised,
never its message: what goes wrong with a request often quotes it.
"""

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def configure(form: Literal["console", "json"], level: str) -> None:
    """Send all of the process's log to standard error in one form, from `level` on.

    Others' loggers stay at "warning" or above: what libraries say besides may quote anything.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _make_printable,
        _without_words_json if form == "json" else _without_words_text,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*before, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(least, logging.WARNING), force=True)
    logging.getLogger("tokenstream").setLevel(least)


def unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught, for `set_exception_handler`; asyncio's own would quote it."""
    structlog.get_logger().error(
        "unexpected", what=context["message"], exc_info=context.get("exception")
    )


def _make_printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters: a caller's text must not steer the terminal that shows it."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode()
    return event


def _without_words_json(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (error := _error_of(event)) is not None:
        event["exception"] = [
            {
                "exc_type": type(one).__name__,
                "frames": [
                    {"filename": f.filename, "lineno": f.lineno, "name": f.name}
                    for f in traceback.extract_tb(one.__traceback__)
                ],
            }
            for one in _chain(error)
        ]
    return event


def _without_words_text(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (error := _error_of(event)) is not None:
        event["exception"] = "\nbecause of\n".join(
            "".join(traceback.format_tb(one.__traceback__)) + type(one).__name__
            for one in _chain(error)
        )
    return event


def _error_of(event: EventDict) -> BaseException | None:
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    if isinstance(found, tuple):
        found = found[1]
    return found if isinstance(found, BaseException) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came of."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
