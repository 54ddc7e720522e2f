import pytest
from pydantic import ValidationError

from service.config import ServiceSettings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ServiceSettings.model_fields:
        monkeypatch.delenv(f"TOKENSTREAM_{name.upper()}", raising=False)


def test_the_defaults_are_valid_and_listen_on_this_machine_only() -> None:
    settings = ServiceSettings()
    assert settings.listen.startswith("127.0.0.1:")
    assert settings.metrics_listen is None


def test_the_environment_sets_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSTREAM_MAX_STREAMS", "7")
    monkeypatch.setenv("TOKENSTREAM_ENGINE_ARGS", '{"max_num_seqs": 3}')
    monkeypatch.setenv("TOKENSTREAM_MODEL", "")
    settings = ServiceSettings()
    assert settings.max_streams == 7
    assert settings.engine_args == {"max_num_seqs": 3}
    assert settings.model == "demo"
    assert ServiceSettings(max_streams=9).max_streams == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "50051"),
        ("listen", ":50051"),
        ("listen", "localhost:"),
        ("listen", "localhost:65536"),
        ("listen", "localhost:-1"),
        ("listen", "localhost:http"),
        ("metrics_listen", "localhost"),
        ("max_streams", 0),
        ("max_request_bytes", 1023),
        ("drain_grace_s", -1),
        ("drain_grace_s", "nan"),
        ("stall_limit_s", 0),
        ("stall_limit_s", "inf"),
        ("detached_ttl_s", 0),
        ("detached_ttl_s", "inf"),
        ("max_detached_ttl_s", 0),
        ("max_detached_ttl_s", "inf"),
        ("max_retained_streams", -1),
        ("event_loop", "trio"),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("engine_args", "[]"),
        ("no_such_setting", 1),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(**{name: value})  # type: ignore[arg-type]
    assert refused.value.errors()[0]["loc"] == (name,)


@pytest.mark.parametrize("address", ["localhost:0", "0.0.0.0:50051", "[::1]:65535"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert ServiceSettings(listen=address).listen == address


def test_every_setting_is_described() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())
