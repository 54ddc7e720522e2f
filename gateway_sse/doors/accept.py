"""What a client wants its answer as: the header Accept (RFC 9110, section 12.5.1). No I/O."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

_T = TypeVar("_T")

_QUALITY: Final = re.compile(r";\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)


def preferred(header: str, offered: Mapping[str, _T]) -> _T | None:
    """Return what is offered and liked best; the first named of equals. None: nothing is.

    `offered` is by media type or range, such as ``text/*``. No header at all takes anything.
    """
    likings = sorted(_likings(header), key=lambda liking: -liking[0])
    if not likings:
        return offered.get("*/*")
    for quality, media_type in likings:
        if quality > 0 and media_type in offered:
            return offered[media_type]
    return None


def _likings(header: str) -> Iterator[tuple[float, str]]:
    for part in header.split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type:
            quality = _QUALITY.search(part)
            yield float(quality[1]) if quality is not None else 1.0, media_type
