"""The bridge's settings: from the environment, or from what the command line passes on."""

from typing import Annotated, Literal, Self
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

from gateway_sse.tls import TlsFiles
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
    upstream_certificate_file: FilePath | None = Field(
        default=None,
        description="PEM file of the bridge's own certificate and its chain, where the service asks"
        " for one (mutual TLS); implies upstream_tls",
    )
    upstream_private_key_file: FilePath | None = Field(
        default=None, description="PEM file of that certificate's private key"
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
    allow_plaintext: bool = Field(
        default=False,
        description="serve without TLS also on addresses other than loopback: where something else"
        " encrypts, such as an ingress, or nobody listens in",
    )
    tls_certificate_file: FilePath | None = Field(
        default=None, description="PEM file of the bridge's certificate and its chain, for HTTPS"
    )
    tls_private_key_file: FilePath | None = Field(
        default=None, description="PEM file of that certificate's private key, without a passphrase"
    )
    tls_client_ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of authorities; with it only clients whose certificate one of them"
        " signed can connect",
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
        default=None,
        description="host:port for Prometheus metrics, /healthz and /readyz in plain HTTP; none"
        " without it",
    )
    drain_wait_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds between saying not ready and refusing new answers when stopping, for"
        " those who send them here to notice; 0: at once",
    )
    drain_grace_s: float = Field(
        default=20.0,
        ge=0,
        description="seconds that running streams get to finish when stopping",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="form of log lines"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least important log lines to write"
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
        if self.api_key and not (
            self.upstream_encrypted or self.allow_plaintext_keys or is_local(self.upstream)
        ):
            raise ValueError(
                f"api_key would go to {self.upstream} unencrypted: set upstream_tls,"
                " or allow_plaintext_keys where something else encrypts"
            )
        return self

    @model_validator(mode="after")
    def _files_belong_together(self) -> Self:
        for side in ("tls", "upstream"):
            certificate, key = (
                getattr(self, f"{side}_{part}_file") for part in ("certificate", "private_key")
            )
            if (certificate is None) != (key is None):
                raise ValueError(f"{side}_certificate_file and {side}_private_key_file go together")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError(
                "tls_client_ca_file needs tls_certificate_file and tls_private_key_file"
            )
        return self

    @model_validator(mode="after")
    def _nothing_travels_in_clear_unasked(self) -> Self:
        if self.allow_plaintext and self.tls_certificate_file is not None:
            raise ValueError(
                "tls_certificate_file and allow_plaintext contradict each other: leave one out"
            )
        if self.tls is None and not self.allow_plaintext and not is_local(self.listen):
            raise ValueError(
                f"--listen {self.listen} can be reached from other machines, and without TLS"
                " whoever is in between can read along: give --tls-certificate-file and"
                " --tls-private-key-file, or --allow-plaintext where something else encrypts"
            )
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The files of HTTPS; None: plain HTTP."""
        if self.tls_certificate_file is None or self.tls_private_key_file is None:
            return None
        return TlsFiles(
            self.tls_certificate_file, self.tls_private_key_file, self.tls_client_ca_file
        )

    @property
    def upstream_encrypted(self) -> bool:
        """Whether the connection to the service has TLS."""
        return (
            self.upstream_tls
            or self.upstream_ca_file is not None
            or self.upstream_certificate_file is not None
        )

    @property
    def host(self) -> str:
        """The host part of `listen`, an IPv6 address without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return int(self.listen.rpartition(":")[2])
