"""The bridge's settings: from the environment, or from what the command line passes on."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    FilePath,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tokenstream_client.channel import is_local


def _host_and_port(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not (separator and host and port.isdecimal() and int(port) < 65536):
        raise ValueError("must be host:port, such as 127.0.0.1:8080 or [::1]:8080")
    return value


def _origin(value: str) -> str:
    parts = urlsplit(value)
    whole = f"{parts.scheme}://{parts.netloc}"
    if value != "*" and not (parts.scheme in ("http", "https") and parts.netloc and whole == value):
        raise ValueError("must be scheme and host, such as https://app.example.com, or *")
    return value


class GatewaySettings(BaseSettings):
    """Serve a gRPC service's streams to browsers, as server-sent events.

    Each option is also an environment variable (TOKENSTREAM_GATEWAY_LISTEN) and a key of the
    section `gateway` in the YAML file that --config FILE or TOKENSTREAM_CONFIG names.
    """

    model_config = SettingsConfigDict(
        env_prefix="TOKENSTREAM_GATEWAY_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    upstream: str = Field(
        default="127.0.0.1:50051",
        min_length=1,
        description="the service: host:port, or another gRPC name",
    )
    upstream_tls: bool = Field(
        default=False, description="whether the connection to the service is encrypted"
    )
    upstream_ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of the authorities that vouch for the service; implies upstream_tls",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="API key for callers that send none; theirs (Authorization: Bearer) go first."
        " Better in the environment than on the command line",
    )
    allow_plaintext_keys: bool = Field(
        default=False,
        description="whether API keys may go to a service on another machine without TLS",
    )
    listen: Annotated[str, AfterValidator(_host_and_port)] = Field(
        default="127.0.0.1:8080",
        description="host:port of the HTTP server; port 0 takes a free one",
    )
    max_body_bytes: int = Field(
        default=1024 * 1024,
        ge=1,
        le=3 * 1024 * 1024,  # so that the request fits gRPC's usual 4 MiB
        description="largest request body in bytes, at most 3 MiB; a larger one is answered 413",
    )
    default_max_delay_ms: int = Field(
        default=50,
        ge=0,
        le=1000,
        description="milliseconds that a token after the first may wait for others to share its"
        " event, where the request does not say; 0 to 1000",
    )
    request_timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="most seconds for one answer, the service's queue included",
    )
    keepalive_interval_s: float = Field(
        default=15.0,
        gt=0,
        description="seconds between comments that keep a silent stream's connection open",
    )
    stall_limit_s: float = Field(
        default=30.0,
        gt=0,
        description="seconds after which a client that takes nothing is dropped",
    )
    linger_s: float = Field(
        default=0.8,
        ge=0,
        le=60,
        description="seconds for which a stream whose client closed its connection waits"
        " for being resumed, where the request does not say; then it is ended",
    )
    body_timeout_s: float = Field(
        default=20.0, gt=0, description="most seconds for a request's head, and for its body"
    )
    max_requests_per_client: int | None = Field(
        default=1024,
        ge=1,
        description="requests that one client (API key, else address) may have open; more are"
        " answered 429. Empty: any number",
    )
    max_streams_per_socket: int = Field(
        default=64, ge=1, le=4096, description="streams at once on one WebSocket"
    )
    cors_origins: Annotated[list[Annotated[str, AfterValidator(_origin)]], NoDecode] = Field(
        default=[],
        description="origins whose web pages may call, such as https://app.example.com, separated"
        " by commas; default: only pages of the gateway's own origin",
    )
    metrics_listen: Annotated[str, AfterValidator(_host_and_port)] | None = Field(
        default=None, description="host:port of Prometheus metrics; none without it"
    )
    drain_grace_s: float = Field(
        default=20.0,
        ge=0,
        description="seconds that running streams get to finish when stopping",
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        """Take text with commas, from the environment or YAML, as the list that it is."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @model_validator(mode="after")
    def _key_is_safe(self) -> Self:
        encrypted = self.upstream_tls or self.upstream_ca_file is not None
        if self.api_key and not (encrypted or self.allow_plaintext_keys or is_local(self.upstream)):
            raise ValueError(
                f"api_key would go to {self.upstream} unencrypted: set upstream_tls,"
                " or allow_plaintext_keys where something else encrypts"
            )
        return self

    @property
    def host(self) -> str:
        """The host part of `listen`, an IPv6 address without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return int(self.listen.rpartition(":")[2])
