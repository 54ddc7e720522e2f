"""The Python client of tokenstream: streams of tokens from a service that drives vLLM.

`AsyncClient` for asyncio, `Client` for threads. What they yield is in `events`, what they raise
in `errors`.
"""

from tokenstream_client.aio import AsyncClient
from tokenstream_client.channel import ClientOptions, Tls
from tokenstream_client.errors import (
    Aborted,
    Busy,
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    TokenstreamError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from tokenstream_client.events import (
    Delta,
    EngineAccount,
    Event,
    Finished,
    FinishReason,
    LikelyToken,
    Started,
    Timings,
    TokenLogprobs,
    Usage,
)
from tokenstream_client.models import Capability, Model
from tokenstream_client.prompts import Chat, ChatMessage, Prompt
from tokenstream_client.requests import GenerateOptions, Priority
from tokenstream_client.stream import AsyncStream
from tokenstream_client.sync import Client, Stream

__all__ = [
    "Aborted",
    "AsyncClient",
    "AsyncStream",
    "Busy",
    "Cancelled",
    "Capability",
    "Chat",
    "ChatMessage",
    "Client",
    "ClientOptions",
    "DeadlineExceeded",
    "Delta",
    "EngineAccount",
    "Event",
    "FieldViolation",
    "FinishReason",
    "Finished",
    "GenerateOptions",
    "Internal",
    "InvalidRequest",
    "LikelyToken",
    "Model",
    "NotFound",
    "PermissionDenied",
    "Priority",
    "Prompt",
    "Started",
    "Stream",
    "Timings",
    "Tls",
    "TokenLogprobs",
    "TokenstreamError",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Usage",
]
