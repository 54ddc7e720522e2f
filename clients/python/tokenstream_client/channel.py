"""How a client connects: its channel, TLS, and what goes along with each call."""

import ipaddress
from dataclasses import dataclass, field
from typing import Final

import grpc

from tokenstream_client.pem import check_pem

_MOST_OF_A_TRACE: Final = 512  # characters of each header


@dataclass(frozen=True, slots=True)
class Tls:
    """What an encrypted connection is made with; all of it PEM. The default trusts what gRPC
    does: the roots that it comes with, or those that the environment names
    (``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH``).

    Raises ValueError that names the part that cannot be used.
    """

    root_certificates: bytes | None = None
    """The authorities that may vouch for the service."""

    private_key: bytes | None = field(default=None, repr=False)
    """This side's key, where the service asks for a certificate (mutual TLS)."""

    certificate_chain: bytes | None = None
    """This side's certificate; goes with `private_key`."""

    server_name_override: str | None = None
    """The name that the service's certificate has, where it is not the target's."""

    def __post_init__(self) -> None:
        check_pem(self.root_certificates, self.private_key, self.certificate_chain)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Limits and timings of a client. The defaults are meant to be kept; times are in seconds."""

    max_message_bytes: int = 4 * 1024 * 1024
    """Largest message to send or take; a larger one fails its call with `TooLarge`."""

    keepalive_interval: float = 60.0
    """Silence, while a call is open, after which the connection is probed. A service may drop
    connections that probe more often than it allows."""

    keepalive_timeout: float = 20.0
    """How long to wait for the probe's answer; then the connection counts as lost."""

    max_reconnect_delay: float = 5.0
    """Longest pause between two tries to connect."""

    use_http_proxy: bool = False
    """Whether to connect through the proxy that the environment names (`https_proxy`). Off: a
    service on this machine or in this cluster is not to be reached through one."""

    use_sessions: bool = True
    """Whether all requests share one call. Off, or with a service that does not know sessions:
    one call for each request, and no credit."""

    window_tokens: int | None = 256
    """How many tokens of one answer the service may send ahead of the reader, at least 1: the
    bound of what waits here for a reader that has paused. None: no limit, and a whole answer can
    wait here. Without sessions, gRPC's flow control (64 KiB and more) takes its place."""

    max_attempts: int = 4
    """How often a request is sent before its first event, while the service is `Busy`,
    `Unavailable` or not reachable; 1: once, no retries."""

    resume: bool = True
    """Whether to read on by itself after a lost connection. For that, requests ask the service to
    keep them for `time_to_live` without a reader, unless they say ``on_disconnect="end"``."""

    time_to_live: float = 30.0
    """How long to try to read on after a lost connection, and how long the service keeps a
    request for that, where the request does not say."""

    allow_plaintext_keys: bool = False
    """Whether API keys may go unencrypted to another machine: inside a mesh that encrypts."""

    def __post_init__(self) -> None:
        if self.window_tokens is not None and self.window_tokens < 1:
            raise ValueError("window_tokens must be at least 1, or None")
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        if not self.time_to_live > 0:
            raise ValueError("time_to_live must be above 0 seconds")


def channel_arguments(options: ClientOptions) -> list[tuple[str, int]]:
    """Turn options into what gRPC's channels take."""
    return [
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", round(options.keepalive_interval * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout * 1000)),
        # gRPC would share one connection among all of a process's channels to a target. Each is to
        # have its own: a new one can lead to another replica.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", int(options.use_http_proxy)),
        # A stream can be silent for long: in the queue, or while its reader pauses. gRPC would
        # stop probing after two probes without data and miss that the other side is gone.
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC's own ceiling is two minutes, long after a restarted service is ready again.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", round(options.max_reconnect_delay * 1000)),
    ]


def open_channel(target: str, tls: Tls | None, options: ClientOptions) -> grpc.aio.Channel:
    """Make a channel; it connects with its first call. Needs a running event loop."""
    arguments: list[tuple[str, int | str]] = [*channel_arguments(options)]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=arguments)
    credentials = grpc.ssl_channel_credentials(
        tls.root_certificates, tls.private_key, tls.certificate_chain
    )
    if tls.server_name_override is not None:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name_override))
    return grpc.aio.secure_channel(target, credentials, options=arguments)


def check_key(api_key: str | None, target: str, tls: Tls | None, options: ClientOptions) -> None:
    """Raise ValueError if an API key cannot be sent, or would cross the network in the clear."""
    if not api_key:
        return
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ValueError("an API key must be printable ASCII without spaces")
    local = is_local(target) and not options.use_http_proxy  # a proxy may be anywhere
    if tls is None and not options.allow_plaintext_keys and not local:
        raise ValueError(
            f"an API key would go to {target} unencrypted: use tls=True, or"
            " ClientOptions(allow_plaintext_keys=True) where something else encrypts"
        )


def is_local(target: str) -> bool:
    """Tell whether a gRPC target is certainly on this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    if "://" in target and scheme != "dns":
        return False
    if scheme in ("ipv4", "ipv6"):
        addresses = rest.split(",")
    elif scheme == "dns":
        # dns:host:port, dns:///host:port; in dns://resolver/host:port the resolver says who it is
        if rest.startswith("//"):
            resolver, _, rest = rest[2:].partition("/")
            if resolver:
                return False
        addresses = [rest.removeprefix("/")]
    else:
        addresses = [target]  # host:port
    return all(_is_loopback(_host(address)) for address in addresses)


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trace_metadata(traceparent: str, tracestate: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a trace context, without what no header can carry."""
    headers = (("traceparent", traceparent), ("tracestate", tracestate))
    return tuple((name, value) for name, value in headers if value and _is_header(value))


def _is_header(value: str) -> bool:
    return value.isascii() and value.isprintable() and len(value) <= _MOST_OF_A_TRACE


def key_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a key; none for none."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()
