"""The standard health check, in two functions.

The messages of `grpc.health.v1` have one field each, and on the wire they are the same bytes as
protobuf's own wrappers: `HealthCheckRequest{string service = 1}` and
`HealthCheckResponse{ServingStatus status = 1}`. So the library needs no package for them.
"""

from typing import Final

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

CHECK: Final = "/grpc.health.v1.Health/Check"
_SERVICE: Final = "tokenstream.v1.GenerationService"
_SERVING: Final = 1


def check_request() -> bytes:
    """Build the question whether generation is being served."""
    return StringValue(value=_SERVICE).SerializeToString()


def is_serving(response: bytes) -> bool:
    """Read the answer."""
    return Int32Value.FromString(response).value == _SERVING
