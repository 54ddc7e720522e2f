"""What is told of an answer's end: it is counted, and noted for the log."""

from gateway_sse.bridge import Bridge
from gateway_sse.request_log import note_answer
from gateway_sse.streaming.outcomes import Outcome
from tokenstream_client import AsyncStream


def ended(bridge: Bridge, stream: AsyncStream, outcome: Outcome) -> None:
    """Count an answer's end, once for each."""
    bridge.metrics.ended(outcome, stream.tokens_read)
    note_answer(stream, outcome)
