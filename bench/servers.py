"""The servers that are compared: each is started over the same simulated engine and ended again.

Each is ready when it says so itself: gRPC servers by the standard health service, HTTP servers by
their own readiness path. Whoever asks waits between two questions, never instead of them.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import demo_model
from bench.dialects.dialect import MODEL_NAME
from bench.processes import ROOT, ProcessFailed, last_words, started
from bench.simulation import Simulation

BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
_READY_WITHIN_S = 300.0
_ASK_EVERY_S = 0.1

# Everybody logs errors only: log lines are not what is compared.
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What all servers share. `streams`: most at once; `stream_interval`: vLLM's merging.

    `event_loop`: of our service and of the floors; vLLM's servers always have uvloop.
    `batched_tokens`: most tokens that the engine computes in a step. `service_flags`: for ours.
    """

    simulation: Simulation
    streams: int
    log: Path
    stream_interval: int = 1
    event_loop: str = "uvloop"
    batched_tokens: int = 8192
    service_flags: tuple[str, ...] = ()

    def engine_args(self) -> dict[str, Any]:
        """vLLM's engine arguments, the same for all."""
        return self.simulation.engine_args() | {
            "served_model_name": MODEL_NAME,
            "load_format": "dummy",
            "enforce_eager": True,
            "max_model_len": 2048,
            "max_num_seqs": self.streams,
            "max_num_batched_tokens": self.batched_tokens,
        }

    def engine_flags(self) -> list[str]:
        """The same as flags of vLLM's own servers."""
        flags = ["--model", str(demo_model.path()), "--disable-log-stats"]
        arguments = self.engine_args() | {"stream_interval": self.stream_interval}
        for name, value in arguments.items():
            flags.append("--" + name.replace("_", "-"))
            if value is not True:
                flags.append(json.dumps(value) if isinstance(value, dict) else str(value))
        return flags


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, and the ids of its frontend processes by name."""

    address: str
    frontends: dict[str, int]
    behind: str = ""  # what a bridge is before


@contextmanager
def service(setup: Setup) -> Iterator[Server]:
    """Our service."""
    address = free_address()
    command = [
        *(sys.executable, "-m", "tokenstream_cli.main", "serve"),
        *("--model", str(demo_model.path())),
        *("--listen", address),
        *("--max-streams", str(setup.streams)),
        *("--engine-args", json.dumps(setup.engine_args())),
        *("--event-loop", setup.event_loop),
        *("--log-level", "error"),
        *setup.service_flags,
    ]
    with started(command, _ENVIRONMENT, setup.log) as process:
        _until_ready(process, setup.log, lambda: _grpc_serving(address))
        yield Server(address, {"service": process.pid})


@contextmanager
def bridge(setup: Setup, *flags: str) -> Iterator[Server]:
    """Our service, and the bridge in front of it. `flags`: for the bridge."""
    with service(setup) as behind:
        address = free_address()
        command = [
            *(sys.executable, "-m", "tokenstream_cli.main", "gateway"),
            *("--listen", address, "--upstream", behind.address),
            *("--log-level", "error"),
            *flags,
        ]
        with started(command, _ENVIRONMENT, setup.log) as process:
            _until_ready(process, setup.log, lambda: _http_ok(address, "/readyz?upstream=1"))
            frontends = {"bridge": process.pid} | behind.frontends
            yield Server(address, frontends, behind.address)


@contextmanager
def openai(setup: Setup) -> Iterator[Server]:
    """vLLM's OpenAI server in Python."""
    address = free_address()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *_host_and_port(address),
        "--disable-uvicorn-access-log",
        *setup.engine_flags(),
    ]
    with started(command, _ENVIRONMENT, setup.log) as process:
        _until_ready(process, setup.log, lambda: _http_ok(address, "/health"))
        yield Server(address, {"server": process.pid})


@contextmanager
def vllm_grpc(setup: Setup) -> Iterator[Server]:
    """vLLM's gRPC server in Python, of its extra [grpc]; runs in .venv-bench."""
    if not BENCH_PYTHON.exists():
        raise ProcessFailed("there is no .venv-bench; run bench/setup")
    address = free_address()
    command = [
        *(str(BENCH_PYTHON), "-m", "vllm.entrypoints.launchers.grpc_server"),
        *_host_and_port(address),
        *setup.engine_flags(),
    ]
    with started(command, _ENVIRONMENT, setup.log) as process:
        _until_ready(process, setup.log, lambda: _grpc_serving(address))
        yield Server(address, {"server": process.pid})


@contextmanager
def floor_writer(setup: Setup) -> Iterator[Server]:
    """The bare writer; it has no engine but keeps its step time."""
    address = free_address()
    step_ms = setup.simulation.step_us / 1000
    command = [
        *(sys.executable, "-m", "bench.floor_writer"),
        *(address, str(step_ms), setup.event_loop),
    ]
    with started(command, {}, setup.log) as process:
        _until_ready(process, setup.log, lambda: _grpc_serving(address))
        yield Server(address, {"writer": process.pid})


SERVERS: dict[str, Callable[[Setup], AbstractContextManager[Server]]] = {
    "service": service,
    "bridge": bridge,
    "openai": openai,
    "vllm-grpc": vllm_grpc,
    "floor-writer": floor_writer,
}


def free_address() -> str:
    """Return `host:port` of a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _host_and_port(address: str) -> tuple[str, ...]:
    host, _, port = address.rpartition(":")
    return ("--host", host, "--port", port)


def _until_ready(process: subprocess.Popen[str], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while not ready():
        if process.poll() is not None:
            raise ProcessFailed(f"a server ended with {process.returncode}:\n{last_words(log)}")
        if time.monotonic() > deadline:
            raise ProcessFailed(f"a server was not ready in time:\n{last_words(log)}")
        time.sleep(_ASK_EVERY_S)


def _grpc_serving(address: str) -> bool:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # published without types
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _http_ok(address: str, path: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, or an answer that says not yet
        return False
