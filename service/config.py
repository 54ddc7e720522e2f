"""The service's settings: one typed model, read from flags, environment and a YAML file.

Precedence: flags, then `TOKENSTREAM_*` environment variables, then the file's `service:` section,
then the defaults here. Names are the same everywhere (`--max-streams`, `TOKENSTREAM_MAX_STREAMS`,
`max_streams:`).
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _host_and_port(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{address!r} is not host:port")
    return address


def is_loopback(address: str) -> bool:
    """Whether a host:port is reached from this machine only: 127.0.0.0/8, ::1, localhost."""
    host = address.rpartition(":")[0].strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Address = Annotated[str, AfterValidator(_host_and_port)]


class ServiceSettings(BaseSettings):
    """Serve a model with vLLM over gRPC.

    Each option is also an environment variable (TOKENSTREAM_MAX_STREAMS) and a key of the section
    `service` in the YAML file that --config FILE or TOKENSTREAM_CONFIG names.
    """

    model_config = SettingsConfigDict(
        env_prefix="TOKENSTREAM_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
    )

    model: str = Field(
        default="demo",
        description="what to serve: a folder, a hub id, or 'demo' for the embedded model",
    )
    listen: Address = Field(default="127.0.0.1:50051", description="host:port of the gRPC server")
    api_keys_file: Path | None = Field(
        default=None,
        description="file of API keys and their tenants, as `tokenstream keys add` makes it; every"
        " call needs one of them then, and a key that is removed opens nothing new after a second",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="serve without keys also on addresses other than loopback",
    )
    allow_plaintext: bool = Field(
        default=False,
        description="serve without TLS also on addresses other than loopback: where something else"
        " encrypts, or nobody listens in",
    )
    tls_certificate_file: Path | None = Field(
        default=None, description="PEM file of the server's certificate and its chain, for TLS"
    )
    tls_private_key_file: Path | None = Field(
        default=None, description="PEM file of that certificate's private key, without a passphrase"
    )
    tls_client_ca_file: Path | None = Field(
        default=None,
        description="PEM file of authorities; with it only clients whose certificate one of them"
        " signed can connect",
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict,
        description="any fields of vLLM's AsyncEngineArgs, as a JSON object",
    )
    high_mark: int = Field(
        default=256,
        ge=2,
        description="tokens that a request may be ahead of its reader before it gets no more steps",
    )
    low_mark: int = Field(
        default=64,
        ge=0,
        description="tokens ahead of its reader at which such a request goes on",
    )
    first_mark: int = Field(
        default=64,
        ge=2,
        description="the same as high-mark for a reader that has taken nothing yet; it grows by"
        " one with each token that it takes",
    )
    tenant_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="shares of the engine by tenant while requests compete, as a JSON object; 1"
        " where a tenant is not named",
    )
    scheduler_args: dict[str, Any] = Field(
        default_factory=dict,
        description="further settings of the stream scheduler, as a JSON object; docs/scheduler.md"
        " has them",
    )
    max_streams: int = Field(
        default=1024,
        ge=1,
        description="most requests at once, queued ones included; more are refused",
    )
    max_sessions: int = Field(
        default=1024, ge=1, description="most Session calls at once; more are refused"
    )
    max_request_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="largest request message in bytes"
    )
    drain_wait_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds between saying NOT_SERVING and refusing new streams when stopping, for"
        " those who send them here to notice; 0: at once",
    )
    drain_grace_s: float = Field(
        default=30.0, ge=0, description="seconds that running streams get to finish when stopping"
    )
    stall_limit_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds after which a reader that takes nothing is ended",
    )
    detached_ttl_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that a detached stream waits for its reader, and stays readable after"
        " its end, unless the request says otherwise; never more than max_detached_ttl_s",
    )
    max_detached_ttl_s: float = Field(
        default=600.0,
        gt=0,
        allow_inf_nan=False,
        description="most seconds of that kind that a request can ask for; more is cut to this",
    )
    max_retained_streams: int = Field(
        default=4096,
        ge=0,
        description="most finished streams kept to be read again; the oldest go first",
    )
    metrics_listen: Address | None = Field(
        default=None,
        description="host:port for Prometheus metrics, /healthz and /readyz over HTTP; none by"
        " default",
    )
    event_loop: Literal["uvloop", "asyncio"] = Field(
        default="uvloop", description="what the service's event loop is made by"
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="form of log lines"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least important log lines to write"
    )
    engine_log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="error", description="the same for vLLM's own log"
    )

    @property
    def tell_every(self) -> int:
        """Tokens between two reports of a reader's progress.

        No more than a parked request may be ahead when it is to go on, or none of them might say
        that it may: the scheduler lets it run at the low mark, or at half of what it may be ahead.
        """
        return max(1, min(self.low_mark, self.high_mark // 2))

    @property
    def tell_first(self) -> int:
        """Tokens before the first report: half of what a reader is given before it has read any."""
        return max(1, self.first_mark // 2)

    @property
    def scheduler_settings(self) -> dict[str, Any]:
        """All that the stream scheduler is told when it starts."""
        return self.scheduler_args | {
            "high_mark": self.high_mark,
            "low_mark": self.low_mark,
            "first_mark": self.first_mark,
            "weights": self.tenant_weights,
        }

    @property
    def keys_travel_in_clear(self) -> bool:
        """Whether API keys cross a network that may read them; fine where a mesh ends TLS."""
        return (
            self.api_keys_file is not None
            and self.tls_certificate_file is None
            and not is_loopback(self.listen)
        )

    @model_validator(mode="after")
    def _marks_leave_room(self) -> Self:
        if self.low_mark >= self.high_mark:
            raise ValueError(
                f"--low-mark {self.low_mark} must be below --high-mark {self.high_mark}"
            )
        return self

    @model_validator(mode="after")
    def _files_of_tls_belong_together(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_private_key_file is None):
            raise ValueError("--tls-certificate-file and --tls-private-key-file come together")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError(
                "--tls-client-ca-file needs --tls-certificate-file and --tls-private-key-file"
            )
        return self

    @model_validator(mode="after")
    def _strangers_are_let_in_only_on_purpose(self) -> Self:
        if self.api_keys_file is not None and self.allow_anonymous:
            raise ValueError(
                "--api-keys-file and --allow-anonymous contradict each other: leave one out"
            )
        if self.api_keys_file is None and not self.allow_anonymous and not is_loopback(self.listen):
            raise ValueError(
                f"--listen {self.listen} can be reached from other machines, and without keys"
                " whoever reaches it is served: give --api-keys-file FILE (`tokenstream keys add`"
                " makes one), or --allow-anonymous if that is what you want"
            )
        return self

    @model_validator(mode="after")
    def _nothing_travels_in_clear_unasked(self) -> Self:
        if self.allow_plaintext and self.tls_certificate_file is not None:
            raise ValueError(
                "--tls-certificate-file and --allow-plaintext contradict each other: leave one out"
            )
        if (
            self.tls_certificate_file is None
            and not self.allow_plaintext
            and not is_loopback(self.listen)
        ):
            raise ValueError(
                f"--listen {self.listen} can be reached from other machines, and without TLS"
                " whoever is in between can read along: give --tls-certificate-file and"
                " --tls-private-key-file, or --allow-plaintext where something else encrypts"
            )
        return self
