"""What is no HTTP: aiohttp refuses it (400) before anything of ours sees it.

It would log each with a traceback that quotes what was sent: a prompt in a query, a header's key.
"""

import logging

from aiohttp.http_exceptions import HttpProcessingError


def keep_out_of_the_log() -> None:
    """Have such requests refused without a word in the log."""
    logging.getLogger("aiohttp.server").addFilter(_is_no_clients_fault)


def _is_no_clients_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)
