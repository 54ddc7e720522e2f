"""What every request that carries JSON has to say. No I/O."""

from gateway_sse.problems import Refused


def require_json(content_type: str) -> None:
    """Raises Refused, with 415, unless the header is JSON's, whatever its parameters."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(
            "UNSUPPORTED_MEDIA_TYPE", "the content type must be application/json", status=415
        )
