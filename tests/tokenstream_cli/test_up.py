import asyncio
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tokenstream_cli import up
from tokenstream_cli.settings import USAGE_ERROR


class Child:
    """A process that ends when it is told to, or by itself with `ends_with`."""

    def __init__(self, arguments: Sequence[str], ends_with: int | None = None) -> None:
        self.arguments = list(arguments)
        self.returncode: int | None = None
        self.ended_at = 0
        self._over = asyncio.Event()
        if ends_with is not None:
            self._end(ends_with)

    def _end(self, returncode: int) -> None:
        self.returncode = returncode
        self._over.set()

    def terminate(self) -> None:
        _ended.append(self.arguments[0])
        self._end(-signal.SIGTERM)

    async def wait(self) -> int:
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode


_ended: list[str] = []


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The processes that are started; the first two, and none of them real."""
    children: list[Child] = []
    _ended.clear()

    async def start(*arguments: str) -> Child:
        ends_with = 3 if "broken" in arguments and arguments[0] == "serve" else None
        children.append(Child(arguments, ends_with))
        return children[-1]

    async def announce(parts: up.Parts) -> None:
        if not any("broken" in child.arguments for child in children):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(up, "_check_free", lambda addresses: None)  # they are only names here
    monkeypatch.setattr(up, "_start", start)
    monkeypatch.setattr(up, "_announce", announce)
    return children


def option(child: Child, name: str) -> str | None:
    if name not in child.arguments:
        return None
    return child.arguments[child.arguments.index(name) + 1]


def test_both_are_started_and_know_each_other(children: list[Child]) -> None:
    assert up.main(["--listen", "127.0.0.1:7", "--model", "m"]) == 0
    service, gateway = children
    assert service.arguments[0] == "serve"
    assert option(service, "--listen") == "127.0.0.1:7"
    assert option(service, "--model") == "m"
    assert gateway.arguments[0] == "gateway"
    assert option(gateway, "--upstream") == "127.0.0.1:7"
    assert option(gateway, "--listen") is None, "its own default"


def test_a_signal_ends_the_bridge_first_and_then_the_service(children: list[Child]) -> None:
    assert up.main([]) == 0
    assert _ended == ["gateway", "serve"]


def test_if_the_service_ends_by_itself_so_does_the_bridge_and_its_status_is_told(
    children: list[Child],
) -> None:
    assert up.main(["--model", "broken"]) == 3
    assert _ended == ["gateway"]


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_both_read_the_file_that_was_named(
    children: list[Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("service:\n  max_streams: 5\n")
    if how == "environment":
        monkeypatch.setenv("TOKENSTREAM_CONFIG", str(path))
        up.main([])
    else:
        up.main(["--config", str(path)])
    assert [option(child, "--config") for child in children] == [str(path)] * 2


def test_addresses_that_the_file_sets_are_kept(children: list[Child], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("service:\n  listen: 127.0.0.1:7\ngateway:\n  listen: 127.0.0.1:8\n")
    up.main(["--config", str(path)])
    service, gateway = children
    assert option(service, "--listen") in (None, "127.0.0.1:7")
    assert option(gateway, "--listen") in (None, "127.0.0.1:8")
    assert option(gateway, "--upstream") == "127.0.0.1:7"


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*arguments: str) -> Child:
        raise AssertionError(f"started: {arguments}")

    monkeypatch.setattr(up, "_start", start)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        up.main(argv)
    assert end.value.code == USAGE_ERROR
    return capsys.readouterr().err


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("option", ["--listen", "--gateway-listen"])
def test_a_taken_address_is_told_with_its_option_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], taken: str, free: str, option: str
) -> None:
    other = {"--listen": "--gateway-listen", "--gateway-listen": "--listen"}[option]
    assert refused(capsys, option, taken, other, free) == (
        f"tokenstream up: cannot listen on {taken}: Address already in use; {option} sets another\n"
    )


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("section", "variable"),
    [("service", "TOKENSTREAM_METRICS_LISTEN"), ("gateway", "TOKENSTREAM_GATEWAY_METRICS_LISTEN")],
)
def test_a_taken_address_of_metrics_is_told_with_its_variable(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    taken: str,
    free: str,
    section: str,
    variable: str,
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{section}:\n  metrics_listen: {taken}\n")
    gateway = ("--gateway-listen", "127.0.0.1:0")
    said = refused(capsys, "--listen", free, *gateway, "--config", str(path))
    assert said.startswith(f"tokenstream up: cannot listen on {taken}: ")
    assert f"{variable} sets another" in said


@pytest.mark.usefixtures("nothing_starts")
def test_one_port_for_two_is_told_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], free: str
) -> None:
    said = refused(capsys, "--listen", free, "--gateway-listen", free)
    assert "cannot listen on " + free in said
    assert "--gateway-listen sets another" in said


@pytest.mark.usefixtures("nothing_starts")
def test_an_address_that_nobody_has_is_told_like_a_taken_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSTREAM_GATEWAY_ALLOW_PLAINTEXT", "true")
    said = refused(capsys, "--gateway-listen", "nowhere.invalid:7")
    assert said.startswith("tokenstream up: cannot listen on nowhere.invalid:7: ")
    assert "--gateway-listen sets another" in said
