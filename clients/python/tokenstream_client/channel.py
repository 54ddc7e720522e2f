"""How a client's channel behaves."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Limits and timings of a client's connection. The defaults are meant to be kept."""

    max_message_bytes: int = 4 * 1024 * 1024
    """Largest message to send or take; a larger one fails its call with `TooLarge`."""

    keepalive_interval: float = 60.0
    """Seconds without traffic, while a call is open, before the connection is probed. A service
    may drop connections that probe more often than it allows."""

    keepalive_timeout: float = 20.0
    """Seconds to wait for the probe's answer; then the connection's calls fail as Unavailable."""

    max_reconnect_delay: float = 5.0
    """Longest pause in seconds between two tries to connect."""

    use_http_proxy: bool = False
    """Whether to connect through the proxy that the environment names (`https_proxy`). Off: a
    service on this machine or in this cluster is not to be reached through one."""


def channel_arguments(options: ClientOptions) -> list[tuple[str, int]]:
    """Turn options into what gRPC's channels take."""
    return [
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", round(options.keepalive_interval * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout * 1000)),
        ("grpc.enable_http_proxy", int(options.use_http_proxy)),
        # A stream can be silent for long: in the queue, or while its reader pauses. gRPC would
        # stop probing after two probes without data and miss that the other side is gone.
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC's own ceiling is two minutes, long after a restarted service is ready again.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", round(options.max_reconnect_delay * 1000)),
    ]
