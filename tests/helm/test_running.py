"""The processes with the files and variables that the chart gives them: what the cluster would ask
them, they answer. Names of the cluster's DNS are this machine here, and vLLM is scripted."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.admission.callers import key_line, new_key
from tests.certificates import Authority
from tests.helm.chart import CHART, OPEN, ROOT, Manifest, Values, read, render, the, with_values
from tests.helm.laid_out import LaidOut, Secrets, laid_out, laid_out_test
from tests.helm.secrets import secret_of

PATIENCE_S = 30.0
SERVICE_HOST = "demo-tokenstream-service.prod.svc"


@dataclass
class Process:
    """A container that runs as a process of this machine."""

    pod: LaidOut
    running: subprocess.Popen[str]

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.pod.container["ports"]}


@dataclass
class Release:
    """An installed chart."""

    manifests: list[Manifest]
    secrets: Secrets
    root: Path
    service: Process
    bridge: Process


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start(pod: LaidOut, program: list[str]) -> Process:
    """Start a container's process, with its own variables and no others of ours."""
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return Process(
        pod,
        subprocess.Popen(
            [sys.executable, "-m", *program, *pod.arguments],
            env=inherited | pod.environment | {"HOME": str(ROOT)},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ),
    )


def install(root: Path, values: Values, secrets: Secrets, stack: ExitStack) -> Release:
    grpc_port, metrics, http, bridge_metrics = free_ports(4)
    values = with_values(
        values,
        {
            "bindAddress": "127.0.0.1",
            "service": {"ports": {"grpc": grpc_port, "metrics": metrics}},
            "bridge": {"ports": {"http": http, "metrics": bridge_metrics}},
            "config": {
                "service": {"drain_wait_s": 0, "drain_grace_s": 2},
                "gateway": {"drain_wait_s": 0, "drain_grace_s": 2},
            },
        },
    )
    manifests = render(values)
    pods = {part: laid_out(manifests, part, root / part, secrets) for part in ("service", "bridge")}
    pods["bridge"].edit(SERVICE_HOST, "127.0.0.1")
    service = start(pods["service"], ["tests.scripted_service"])
    stack.callback(stop, service)
    bridge = start(pods["bridge"], ["tokenstream_cli.main"])
    stack.callback(stop, bridge)
    release = Release(manifests, secrets, root, service, bridge)
    for process in (service, bridge):
        until_it_passes(process, "startupProbe")
        until_it_passes(process, "readinessProbe")
    return release


def stop(process: Process) -> None:
    process.running.send_signal(signal.SIGTERM)
    said, _ = process.running.communicate(timeout=PATIENCE_S)
    assert process.running.returncode == 0, said
    assert "warning: nothing reads" not in said


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with ExitStack() as stack:
        yield install(tmp_path_factory.mktemp("plain"), OPEN, {}, stack)


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Keys, and certificates of both sides on both ways."""
    authority = Authority()
    key = new_key()
    secrets = {
        "keys": {"keys.txt": key_line("team", key, "made for this").encode() + b"\n"},
        "key": {"api-key": key.encode()},
        "service": secret_of(authority, SERVICE_HOST),
        "bridge": secret_of(authority, "chat.example.com"),
        "client": secret_of(authority, "bridge"),
    }
    values: Values = {
        "auth": {"apiKeysSecret": {"name": "keys"}},
        "service": {"tls": {"secretName": "service", "clientCaKey": "ca.crt"}},
        "bridge": {
            "tls": {"secretName": "bridge", "clientCaKey": "ca.crt"},
            "upstream": {
                "clientCertificateSecretName": "client",
                "apiKeySecret": {"name": "key"},
            },
        },
        "tests": {"apiKeySecret": {"name": "key"}},
    }
    with ExitStack() as stack:
        yield install(tmp_path_factory.mktemp("mutual"), values, secrets, stack)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Keys, and certificates of the servers alone."""
    authority = Authority()
    key = new_key()
    secrets = {
        "keys": {"keys.txt": key_line("team", key, "made for this").encode() + b"\n"},
        "key": {"api-key": key.encode()},
        "service": secret_of(authority, SERVICE_HOST),
        "bridge": secret_of(authority, "chat.example.com"),
    }
    values: Values = {
        "auth": {"apiKeysSecret": {"name": "keys"}},
        "service": {"tls": {"secretName": "service"}},
        "bridge": {"tls": {"secretName": "bridge"}},
        "tests": {"apiKeySecret": {"name": "key"}},
    }
    with ExitStack() as stack:
        yield install(tmp_path_factory.mktemp("encrypted"), values, secrets, stack)


@pytest.fixture(params=["plain", "encrypted", "mutual"])
def release(request: pytest.FixtureRequest) -> Release:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Release)
    return found


def passes(process: Process, name: str) -> bool:
    """Ask as the kubelet asks: without a certificate, and believing any."""
    probe = process.pod.container[name]
    if "grpc" in probe:
        return _grpc_passes(probe["grpc"])
    asked = probe["httpGet"]
    url = f"{asked.get('scheme', 'HTTP').lower()}://127.0.0.1:{process.ports[asked['port']]}"
    try:
        answer = httpx.get(url + asked["path"], verify=_believing(), trust_env=False)
    except httpx.TransportError:
        return False
    return 200 <= answer.status_code < 400


def _believing() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _grpc_passes(asked: dict[str, Any]) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{asked['port']}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=asked["service"])
        try:
            response = stub.Check(request, timeout=2)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def until_it_passes(process: Process, name: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not passes(process, name):
        if process.running.poll() is not None or time.monotonic() > deadline:
            process.running.kill()
            raise AssertionError(process.running.communicate()[0])
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
@pytest.mark.parametrize("part", ["service", "bridge"])
def test_every_probe_is_answered(release: Release, part: str, name: str) -> None:
    assert passes(getattr(release, part), name)


def test_a_probe_that_asks_for_something_else_would_not_pass(plain: Release) -> None:
    port = plain.service.ports["grpc"]
    assert not _grpc_passes({"port": port, "service": "tokenstream.v1.Generation"})
    assert not _grpc_passes({"port": plain.service.ports["metrics"], "service": ""})


@pytest.mark.parametrize("part", ["service", "bridge"])
def test_every_port_is_listened_on(release: Release, part: str) -> None:
    process: Process = getattr(release, part)
    assert set(process.ports) == {"grpc" if part == "service" else "http", "metrics"}
    for port in process.ports.values():
        socket.create_connection(("127.0.0.1", port), 2).close()


@pytest.mark.parametrize("part", ["service", "bridge"])
def test_metrics_are_where_the_monitor_looks(release: Release, part: str) -> None:
    port = getattr(release, part).ports["metrics"]
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
    assert answer.status_code == 200
    assert "tokenstream_" in answer.text


def test_what_the_service_is_scaled_on_is_a_metric_of_its_own(plain: Release) -> None:
    scaling = read((CHART / "values.yaml").read_text())[0]["service"]["autoscaling"]
    port = plain.service.ports["metrics"]
    said = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    for kind in ("keda", "hpa"):
        for metric in (scaling[kind]["metric"], scaling[kind]["runningMetric"]):
            assert f"# TYPE {metric} gauge" in said


def test_the_images_health_check_is_answered(release: Release) -> None:
    for process, command in ((release.service, "serve"), (release.bridge, "gateway")):
        asked = subprocess.run(
            [sys.executable, "-m", "tokenstream_cli.main", "health", command],
            env=dict(os.environ) | process.pod.environment | {"HOME": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert asked.returncode == 0, asked.stderr


def test_helm_test_streams_a_generation(release: Release, tmp_path: Path) -> None:
    pod = laid_out_test(release.manifests, tmp_path, release.secrets)
    pod.environment["TOKENSTREAM_SERVER"] = pod.environment["TOKENSTREAM_SERVER"].replace(
        SERVICE_HOST, "127.0.0.1"
    )
    process = start(pod, ["tokenstream_cli.main"])
    said, _ = process.running.communicate(timeout=PATIENCE_S)
    assert process.running.returncode == 0, said
    assert said == "What is gRPC?\n"  # the scripted engine says it back


def test_a_stream_comes_through_the_bridge(release: Release, tmp_path: Path) -> None:
    secret = release.secrets.get("bridge")
    context: ssl.SSLContext | None = None
    if secret is not None:
        context = _believing()
        if (client := release.secrets.get("client")) is not None:
            for name, content in client.items():
                (tmp_path / name).write_bytes(content)
            context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    scheme = "https" if secret else "http"
    url = f"{scheme}://127.0.0.1:{release.bridge.ports['http']}/v1/completions/stream"
    key = release.secrets.get("key", {}).get("api-key", b"").decode()
    with httpx.stream(
        "POST",
        url,
        json={"prompt": "hello", "max_tokens": 5},
        headers={"authorization": f"Bearer {key}"} if key else {},
        verify=context or True,
        trust_env=False,
    ) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if "token" in line]
    assert "".join(json.loads(line).get("token", "") for line in lines if line[0] == "{") == "hello"


def test_the_bridges_upstream_is_the_services_own_address(plain: Release) -> None:
    service = next(
        manifest
        for manifest in plain.manifests
        if manifest["kind"] == "Service"
        and manifest["metadata"]["name"] == SERVICE_HOST.partition(".")[0]
    )
    (port,) = service["spec"]["ports"]
    assert port["port"] == plain.service.ports["grpc"]
    assert the(plain.manifests, "Deployment", "service")["metadata"]["namespace"] == "prod"
