import pytest

from gateway_sse.config import GatewaySettings
from service.config import ServiceSettings
from tokenstream_cli.environment import Command, warn_of_unknown_variables


def warnings(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Command,
    *names: str,
) -> list[str]:
    for name in names:
        monkeypatch.setenv(name, "secret")
    warn_of_unknown_variables(command)
    out, err = capsys.readouterr()
    assert out == ""
    assert "secret" not in err
    return err.splitlines()


@pytest.mark.parametrize("command", ["serve", "gateway"])
def test_known_variables_and_those_of_others_are_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    known = [
        *(f"TOKENSTREAM_{name.upper()}" for name in ServiceSettings.model_fields),
        *(f"TOKENSTREAM_GATEWAY_{name.upper()}" for name in GatewaySettings.model_fields),
        "TOKENSTREAM_CONFIG", "TOKENSTREAM_SERVER", "TOKENSTREAM_BUILD",
        "tokenstream_max_streams", "TOKENSTREAMS_LISTEN", "LISTEN",
    ]  # fmt: skip
    assert warnings(monkeypatch, capsys, command, *known) == []


@pytest.mark.parametrize(
    ("name", "owner", "meant"),
    [
        ("TOKENSTREAM_MAX_STREAM", "serve", "TOKENSTREAM_MAX_STREAMS"),
        ("TOKENSTREAM_LISTEM", "serve", "TOKENSTREAM_LISTEN"),
        ("tokenstream_max_stream", "serve", "TOKENSTREAM_MAX_STREAMS"),
        ("TOKENSTREAM_CONFIGS", "serve", "TOKENSTREAM_CONFIG"),
        ("TOKENSTREAM_XYZZY", "serve", ""),
        ("TOKENSTREAM_GATEWAY_UPSTREAMS", "gateway", "TOKENSTREAM_GATEWAY_UPSTREAM"),
        ("TOKENSTREAM_GATEWY_LISTEN", "gateway", "TOKENSTREAM_GATEWAY_LISTEN"),
        ("TOKENSTREAM_GATEWAY_XYZZY", "gateway", ""),
    ],
)
def test_an_unknown_variable_is_told_once_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    owner: Command,
    meant: str,
) -> None:
    (line,) = warnings(monkeypatch, capsys, owner, name)
    assert line.startswith(f"tokenstream {owner}: warning: nothing reads the variable {name}")
    assert line.endswith(f"; did you mean {meant}?" if meant else name)
    other: Command = "gateway" if owner == "serve" else "serve"
    assert warnings(monkeypatch, capsys, other) == []


@pytest.mark.parametrize("command", ["serve", "gateway"])
def test_what_kubernetes_sets_for_a_service_of_our_name_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    names = [
        f"TOKENSTREAM_{service}{name}"
        for service in ("", "GATEWAY_")
        for name in (
            "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP",
            "PORT_50051_TCP_PROTO", "PORT_50051_TCP_PORT", "PORT_50051_TCP_ADDR",
        )
    ]  # fmt: skip
    assert warnings(monkeypatch, capsys, command, *names) == []
