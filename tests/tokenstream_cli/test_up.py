import asyncio
import signal
import socket
from collections.abc import Sequence
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

    monkeypatch.setattr(up, "_check_free", lambda address: None)  # they are only names here
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


def test_a_taken_address_is_told_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SystemExit) as end:
            up.main(["--listen", address])
    assert end.value.code == USAGE_ERROR
    assert f"cannot listen on {address}" in capsys.readouterr().err
