import io
import json
import sys
from pathlib import Path

import grpc
import pytest
import structlog

from service.engine.scripted import ScriptedEngine
from tests.clients.certificate import self_signed
from tests.clients.script import answer
from tests.clients.scripted import scripted_service
from tests.conftest import Serve
from tests.service.running import RunningService
from tokenstream_cli import generate
from tokenstream_cli.generate import GenerateSettings, parse
from tokenstream_cli.settings import USAGE_ERROR


def settings(*argv: str) -> GenerateSettings:
    return parse(argv)


def test_the_prompt_is_the_one_argument() -> None:
    assert settings("What is gRPC?").prompt == "What is gRPC?"
    assert settings("--max-tokens", "5", "x").prompt == "x"


def test_without_a_prompt_it_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        settings()
    assert end.value.code == USAGE_ERROR
    assert "prompt" in capsys.readouterr().err


def test_what_is_left_out_is_left_to_the_model() -> None:
    given = {name: value for name, value in settings("x").options.items() if value is not None}
    assert given == {"ignore_eos": False}


def test_every_option_has_its_flag() -> None:
    got = settings(
        "x", "--server=h:1", "--model=m", "--max-tokens=1", "--min-tokens=1", "--temperature=0",
        "--top-p=0.5", "--top-k=0", "--min-p=0.1", "--presence-penalty=-1",
        "--frequency-penalty=1", "--repetition-penalty=1.1", "--seed=0", "--ignore-eos",
        "--stop=a", "--max-delay-ms=10", "--reading-tokens-per-second=4.8", "--priority=low",
        "--timeout=1.5", "--json",
    )  # fmt: skip
    assert got.options == {
        "model": "m", "max_tokens": 1, "min_tokens": 1, "temperature": 0.0, "top_p": 0.5,
        "top_k": 0, "min_p": 0.1, "presence_penalty": -1.0, "frequency_penalty": 1.0,
        "repetition_penalty": 1.1, "seed": 0, "stop": ["a"], "ignore_eos": True,
        "reading_tokens_per_second": 4.8, "priority": "low",
        "max_delay_ms": 10,
    }  # fmt: skip
    assert (got.prompt, got.server, got.timeout, got.as_json) == ("x", "h:1", 1.5, True)


@pytest.mark.parametrize(
    "strings", [["END"], ["a", "b"], ["a, b"], ["[1]"], ['"'], [" x "], ["{", "}"]]
)
def test_stop_strings_are_taken_as_they_are(strings: list[str]) -> None:
    argv = [part for string in strings for part in ("--stop", string)]
    assert settings("x", *argv).options.get("stop") == strings


def test_a_variable_that_is_called_json_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSON", "maybe")
    assert not settings("x").as_json


async def run(running: RunningService, *argv: str) -> int:
    with structlog.testing.capture_logs():  # the service is in this process too
        return await generate._run(settings("--server", running.target, *argv))


async def test_the_answer_alone_goes_to_standard_output(
    running: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert await run(running, "h\u00e9llo") == 0
    assert capsys.readouterr().out == "h\u00e9llo\n"


async def test_a_dash_reads_the_prompt_from_standard_input(
    running: RunningService,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert await run(running, "-") == 0
    assert "from a pipe\n" in capsys.readouterr().out


async def test_as_json_every_event_is_a_line(
    running: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(running, "hi", "--json") == 0
    out = capsys.readouterr().out
    events = [json.loads(line) for line in out.splitlines() if line.startswith('{"event"')]
    assert events[0]["event"] == "started"
    assert "".join(e["text"] for e in events if e["event"] == "delta") == "hi"
    assert events[-1]["event"] == "finished"
    assert events[-1]["reason"] == "stop"


async def test_a_refusal_is_one_line_and_status_one(
    running: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(running, "hi", "--temperature", "3") == 1
    err = capsys.readouterr().err
    assert err.startswith("tokenstream generate: INVALID_ARGUMENT")
    assert "sampling.temperature" in err


async def test_a_timeout_is_told(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    running = await serve(ScriptedEngine(step_s=None))
    assert await run(running, "hi", "--timeout", "0.05") == 1
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().err


def test_a_key_comes_from_the_environment_or_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("x").api_key is None
    monkeypatch.setenv("TOKENSTREAM_API_KEY", "from-environment")
    assert settings("x").api_key == "from-environment"
    assert settings("x", "--api-key=from-flag").api_key == "from-flag"


def test_a_key_to_another_machine_needs_tls(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        generate.main(["x", "--server=service.invalid:1", "--api-key=k"])
    assert end.value.code == USAGE_ERROR
    err = capsys.readouterr().err
    assert "unencrypted" in err
    assert "--allow-plaintext-keys" in err
    assert "ClientOptions" not in err


async def test_a_key_goes_to_another_machine_unencrypted_only_when_that_is_asked_for() -> None:
    asked = settings("x", "--server=service.invalid:1", "--api-key=k", "--allow-plaintext-keys")
    await generate._connect(asked).close()


def test_an_authoritys_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "ca.pem"
    assert generate.main(["x", f"--ca-file={missing}"]) == 1
    assert f"{missing}: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["ca", "certificate", "private-key"])
def test_a_file_of_tls_that_cannot_be_used_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    pair = self_signed()
    contents = {"ca": pair.certificate, "certificate": pair.certificate, "private-key": pair.key}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(b"garbage" if name == option else content)
    with pytest.raises(SystemExit) as end:
        generate.main(["x", *(f"--{name}-file={tmp_path / name}" for name in contents)])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tokenstream generate: --{option}-file: {tmp_path / option} has no ")


async def test_an_encrypted_service_is_asked_with_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair, file = self_signed(), tmp_path / "ca.pem"
    file.write_bytes(pair.certificate)
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    async with scripted_service(credentials) as service:
        service.script = answer("Hel", "lo")
        argv = ["x", "--server", service.target, f"--ca-file={file}", "--api-key=k"]
        assert await generate._run(settings(*argv)) == 0
    assert capsys.readouterr().out == "Hello\n"
    assert service.session_keys == ["k"]
