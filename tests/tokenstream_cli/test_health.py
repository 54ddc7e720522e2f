import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from service.engine.scripted import ScriptedEngine
from tests.clients.certificate import self_signed
from tests.conftest import Serve
from tokenstream_cli.health import main
from tokenstream_cli.settings import USAGE_ERROR


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - theirs
        pass


@pytest.fixture
def well() -> Iterator[str]:
    """An address whose /readyz and /healthz answer 200, and everything else 503."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        good = environ["PATH_INFO"] in ("/readyz", "/healthz")
        start("200 OK" if good else "503 Service Unavailable", [])
        return [b""]

    server: WSGIServer = make_server("127.0.0.1", 0, answer, handler_class=_Quiet)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    made = self_signed()
    (tmp_path / "cert.pem").write_bytes(made.certificate)
    (tmp_path / "key.pem").write_bytes(made.key)
    return (
        f"--tls-certificate-file={tmp_path / 'cert.pem'}",
        f"--tls-private-key-file={tmp_path / 'key.pem'}",
    )


async def test_a_service_that_takes_requests_is_well(serve: Serve) -> None:
    running = await serve()
    asked = asyncio.to_thread(main, ["serve", f"--listen={running.target}"])
    assert await asked == 0


async def test_a_service_that_still_loads_is_not_well(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    loading = asyncio.Event()
    running = await serve(ScriptedEngine(loading=loading), wait=False)
    asked = asyncio.to_thread(main, ["serve", f"--listen={running.target}"])
    assert await asked == 1
    assert f"the service on {running.target} takes no requests" in capsys.readouterr().err
    loading.set()


def test_where_nobody_listens_nobody_is_well(
    nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", f"--listen={nobody}"]) == 1
    assert main(["serve", f"--metrics-listen={nobody}"]) == 1
    assert main(["gateway", f"--listen={nobody}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(nobody in line for line in lines)


@pytest.mark.parametrize("which", ["serve", "gateway"])
def test_the_port_for_operators_is_asked_where_there_is_one(
    which: str, well: str, nobody: str, pair: tuple[str, str]
) -> None:
    assert main([which, f"--listen={nobody}", f"--metrics-listen={well}", *pair]) == 0


def test_a_bridge_is_asked_on_its_own_port_without_one(well: str) -> None:
    assert main(["gateway", f"--listen={well}"]) == 0


def test_what_listens_everywhere_is_asked_on_loopback(well: str) -> None:
    port = well.rpartition(":")[2]
    assert main(["gateway", f"--listen=0.0.0.0:{port}", "--allow-plaintext"]) == 0


@pytest.mark.parametrize("which", ["serve", "gateway"])
def test_under_tls_the_port_for_operators_is_needed(
    which: str, pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([which, *pair]) == 1
    assert "under TLS this needs metrics_listen" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["up"], ["--listen=a:1"]])
def test_any_other_process_is_wrong_usage(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == USAGE_ERROR
    assert capsys.readouterr().err.startswith("usage: tokenstream health")


def test_settings_that_are_wrong_for_the_process_are_wrong_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--listen=nowhere"])
    assert ended.value.code == USAGE_ERROR
    assert "tokenstream health serve: listen:" in capsys.readouterr().err
