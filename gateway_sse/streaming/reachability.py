"""Whether the service can be reached, as the answers find out: for the log, once a change."""

from typing import Final

import structlog

from tokenstream_client import TokenstreamError

_log = structlog.get_logger("tokenstream.gateway")

_LONGEST: Final = 500  # characters of gRPC's details


class Reachability:
    """Logs when the service goes out of reach, with gRPC's details, and when it is back.

    Callers are told that it cannot be reached and no more: the details name addresses.
    """

    def __init__(self) -> None:
        self._reachable = True

    def failed(self, error: TokenstreamError) -> None:
        """Take notice of what a call ended with."""
        # With a reason it is the service that speaks.
        if self._reachable and error.code == "UNAVAILABLE" and not error.reason:
            self._reachable = False
            _log.warning("upstream_unreachable", why=error.message[:_LONGEST])

    def answered(self) -> None:
        """Take notice that the service took a request."""
        if not self._reachable:
            self._reachable = True
            _log.info("upstream_reached_again")
