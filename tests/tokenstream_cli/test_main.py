import sys
from collections.abc import Sequence

import pytest

from tokenstream_cli.main import _COMMANDS, main
from tokenstream_cli.settings import USAGE_ERROR


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> object:
    monkeypatch.setattr(sys, "argv", ["tokenstream", *argv])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run(monkeypatch, flag) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {command} " in page for command in _COMMANDS)


def test_no_command_is_answered_by_the_usage_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == USAGE_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: tokenstream")


@pytest.mark.parametrize(
    ("argv", "first"),
    [
        (["nonsense"], "unknown command: nonsense"),
        (["sreve", "--model", "demo"], "unknown command: sreve"),
        (["--model", "demo"], "unknown command: --model"),
        (["", "demo"], "unknown command: "),
    ],
)
def test_an_unknown_command_is_named_before_the_usage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    first: str,
) -> None:
    assert run(monkeypatch, *argv) == USAGE_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == first
    assert lines[1].startswith("usage: tokenstream")


def test_the_version_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("tokenstream ")


@pytest.mark.parametrize("command", list(_COMMANDS))
def test_every_command_has_its_own_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert f"usage: tokenstream {command}" in capsys.readouterr().out.replace("Usage", "usage")


def test_a_command_gets_what_follows_its_name_and_its_status_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []

    def serve(argv: Sequence[str]) -> int:
        seen.append(list(argv))
        return 7

    monkeypatch.setitem(_COMMANDS, "serve", serve)
    assert run(monkeypatch, "serve", "--model", "x") == 7
    assert seen == [["--model", "x"]]
