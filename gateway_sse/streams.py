"""The streams that are open now, so that draining can end them."""

from tokenstream_client import AsyncStream, Cancelled, TokenstreamError, Unavailable


class OpenStreams:
    """The upstream streams in progress, at most one for each open request."""

    def __init__(self) -> None:
        self._open: set[AsyncStream] = set()
        self._cut = False

    def add(self, stream: AsyncStream) -> None:
        """Take a stream in, from its beginning."""
        self._open.add(stream)
        if self._cut:
            stream.cancel()

    def close(self, stream: AsyncStream) -> None:
        """Close a stream, which ends its decoding if it is not over, and forget it."""
        self._open.discard(stream)
        stream.cancel()

    def cut(self) -> None:
        """End all streams, now and from now on: the time to finish has passed."""
        self._cut = True
        for stream in self._open:
            stream.cancel()

    def explain(self, error: TokenstreamError) -> TokenstreamError:
        """Return the error as the caller should see it: not as a cancellation if it was a cut."""
        if self._cut and isinstance(error, Cancelled):
            return Unavailable("the gateway is stopping", reason="GATEWAY_STOPPING")
        return error

    def __len__(self) -> int:
        return len(self._open)
