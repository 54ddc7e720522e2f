"""Having a transport say at once that its client takes no more."""

import asyncio


def say_at_once_when_full(transport: asyncio.Transport) -> None:
    """Pause whoever drains as soon as something waits to be written, until nothing does.

    Over TCP that is a limit of 0. Over TLS, transports compare with "at least", so that 0 would
    pause them for nothing, and for good; there it is 1. What waits below TLS, at most 64 KiB of a
    connection (asyncio's and uvloop's own mark), counts as taken.
    """
    encrypted = transport.get_extra_info("sslcontext") is not None
    transport.set_write_buffer_limits(high=1 if encrypted else 0)
