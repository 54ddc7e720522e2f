from pathlib import Path

import pytest

from gateway_sse.config import GatewaySettings
from service.config import ServiceSettings
from tokenstream_cli.settings import USAGE_ERROR, load

DEFAULTS = {
    name: field.get_default(call_default_factory=True)
    for name, field in ServiceSettings.model_fields.items()
}


def serve(*argv: str) -> ServiceSettings:
    return load(ServiceSettings, command="serve", section="service", argv=argv)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The readable end of a command; never a traceback, always the status of wrong usage."""
    with pytest.raises(SystemExit) as end:
        serve(*argv)
    assert end.value.code == USAGE_ERROR
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tokenstream.yaml"
    path.write_text(
        "service:\n  model: from-file\n  max_streams: 5\n  engine_args: {max_num_seqs: 3}\n"
        "gateway:\n  upstream: there:1\n"
    )
    return path


def test_without_anything_there_are_the_defaults() -> None:
    assert serve().model_dump() == DEFAULTS


def test_flags_come_before_the_environment_before_the_file_before_the_defaults(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSTREAM_MAX_STREAMS", "6")
    monkeypatch.setenv("TOKENSTREAM_LISTEN", "127.0.0.1:6")
    settings = serve("--config", str(config), "--listen", "127.0.0.1:7")
    assert settings.listen == "127.0.0.1:7"
    assert settings.max_streams == 6
    assert settings.model == "from-file"
    assert settings.drain_grace_s == ServiceSettings().drain_grace_s


def test_the_environment_can_name_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSTREAM_CONFIG", str(config))
    assert serve().max_streams == 5


def test_each_command_reads_its_own_section(config: Path) -> None:
    argv = ["--config", str(config)]
    gateway = load(GatewaySettings, command="gateway", section="gateway", argv=argv)
    assert gateway.upstream == "there:1"


def test_a_file_without_the_commands_section_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("gateway:\n  upstream: there:1\n")
    assert serve("--config", str(path)).model_dump() == DEFAULTS
    path.write_text("")
    assert serve("--config", str(path)).model_dump() == DEFAULTS


def test_engine_arguments_are_a_json_object() -> None:
    settings = serve("--engine-args", '{"max_num_seqs": 3, "dtype": "half"}')
    assert settings.engine_args == {"max_num_seqs": 3, "dtype": "half"}


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no file /nowhere.yaml" in refused(capsys, "--config", "/nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("service: [", "not YAML"),
        ("servise:\n  model: x\n", "servise"),
        ("service:\n  max_stream: 5\n", "max_streams"),
        ("service:\n  max_streams: many\n", "max_streams"),
        ("service: 3\n", "service"),
        ("just a text\n", "c.yaml"),
        ("- a list\n", "c.yaml"),
        ("3\n", "c.yaml"),
    ],
)
def test_a_bad_file_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert words in refused(capsys, "--config", str(path))


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("service:\n")
    assert serve("--config", str(path)).model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--max-streams", "0"], "max_streams"),
        (["--max-streams", "many"], "max_streams"),
        (["--listen", "here"], "host:port"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--engine-args", "{"], "engine_args"),
        (["--config"], "--config"),
        (["--listen", "0.0.0.0:1"], "tokenstream serve: --listen 0.0.0.0:1 can be reached"),
        (["--listen", "0.0.0.0:1", "--allow-anonymous"], "or --allow-plaintext where"),
        (["--tls-certificate-file", "c"], "tokenstream serve: --tls-certificate-file and"),
    ],
)
def test_a_bad_flag_is_explained(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert words in refused(capsys, *argv)


def test_a_bad_variable_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKENSTREAM_MAX_STREAMS", "many")
    assert "max_streams" in refused(capsys)


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        serve("--help")
    assert end.value.code == 0
    page = capsys.readouterr().out
    for name in ServiceSettings.model_fields:
        assert "--" + name.replace("_", "-") in page
