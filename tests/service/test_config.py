from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.config import ServiceSettings, is_loopback


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
        ("scheduler_args", "[]"),
        ("high_mark", 1),
        ("low_mark", -1),
        ("no_such_setting", 1),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(**{name: value})  # type: ignore[arg-type]
    assert refused.value.errors()[0]["loc"] == (name,)


def test_the_low_mark_must_be_below_the_high_one() -> None:
    with pytest.raises(ValidationError, match="--low-mark 64 must be below --high-mark 64"):
        ServiceSettings(high_mark=64, low_mark=64)


@pytest.mark.parametrize("weight", [0, -1, "nan", "inf"])
def test_a_tenants_weight_must_be_above_0(weight: object) -> None:
    with pytest.raises(ValidationError):
        ServiceSettings(tenant_weights={"a": weight})


def test_the_scheduler_is_told_the_marks_the_weights_and_whatever_else_is_set() -> None:
    settings = ServiceSettings(
        high_mark=100, low_mark=20, tenant_weights={"a": 2}, scheduler_args={"pacing": False}
    )
    assert settings.scheduler_settings == {
        "pacing": False,
        "high_mark": 100,
        "low_mark": 20,
        "first_mark": 64,
        "weights": {"a": 2.0},
    }
    assert (settings.tell_every, settings.tell_first) == (20, 32)


@pytest.mark.parametrize("address", ["localhost:0", "0.0.0.0:50051", "[::1]:65535"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    settings = ServiceSettings(listen=address, allow_anonymous=True, allow_plaintext=True)
    assert settings.listen == address


LOOPBACK = ["127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "localhost:1", "LocalHost:1"]
REACHED = ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "localhost.example.org:1", "128:1"]


@pytest.mark.parametrize("address", LOOPBACK)
def test_on_loopback_no_keys_are_needed(address: str) -> None:
    assert is_loopback(address)
    assert ServiceSettings(listen=address).api_keys_file is None


@pytest.mark.parametrize("address", REACHED)
def test_elsewhere_there_are_keys_or_everybody_is_let_in_on_purpose(address: str) -> None:
    assert not is_loopback(address)
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(listen=address)
    (error,) = refused.value.errors()
    assert error["loc"] == ()
    for word in (f"--listen {address}", "--api-keys-file", "--allow-anonymous"):
        assert word in error["msg"]
    ways: list[dict[str, Any]] = [{"allow_anonymous": True}, {"api_keys_file": Path("keys")}]
    for known in ways:
        assert ServiceSettings(listen=address, allow_plaintext=True, **known).listen == address


@pytest.mark.parametrize("address", REACHED)
def test_elsewhere_there_is_tls_or_plain_text_on_purpose(address: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(listen=address, allow_anonymous=True)
    (error,) = refused.value.errors()
    for word in (f"--listen {address}", "--tls-certificate-file", "--allow-plaintext"):
        assert word in error["msg"]
    files: dict[str, Any] = {
        "tls_certificate_file": Path("c"),
        "tls_private_key_file": Path("k"),
    }
    assert ServiceSettings(listen=address, allow_anonymous=True, **files).listen == address


@pytest.mark.parametrize("address", LOOPBACK)
def test_on_loopback_plain_text_needs_no_leave(address: str) -> None:
    assert ServiceSettings(listen=address).allow_plaintext is False


def test_plain_text_and_a_certificate_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="contradict"):
        ServiceSettings(
            allow_plaintext=True, tls_certificate_file=Path("c"), tls_private_key_file=Path("k")
        )


def test_client_certificates_alone_do_not_let_anybody_in() -> None:
    with pytest.raises(ValidationError, match="--api-keys-file"):
        ServiceSettings(
            listen="0.0.0.0:1",
            tls_certificate_file=Path("c"),
            tls_private_key_file=Path("k"),
            tls_client_ca_file=Path("ca"),
        )


def test_keys_and_no_keys_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="contradict"):
        ServiceSettings(api_keys_file=Path("keys"), allow_anonymous=True)


@pytest.mark.parametrize(
    "given",
    [
        {"tls_certificate_file": Path("c")},
        {"tls_private_key_file": Path("k")},
        {"tls_client_ca_file": Path("ca")},
        {"tls_certificate_file": Path("c"), "tls_client_ca_file": Path("ca")},
    ],
)
def test_tls_needs_certificate_and_key(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="--tls-private-key-file"):
        ServiceSettings(**given)


@pytest.mark.parametrize(
    ("listen", "keys", "tls", "in_clear"),
    [
        ("0.0.0.0:1", True, False, True),
        ("0.0.0.0:1", True, True, False),
        ("127.0.0.1:1", True, False, False),
        ("0.0.0.0:1", False, False, False),
    ],
)
def test_keys_travel_in_clear_where_there_is_a_network_and_no_tls(
    listen: str, keys: bool, tls: bool, in_clear: bool
) -> None:
    settings = ServiceSettings(
        listen=listen,
        api_keys_file=Path("keys") if keys else None,
        allow_anonymous=not keys,
        allow_plaintext=not tls,
        tls_certificate_file=Path("c") if tls else None,
        tls_private_key_file=Path("k") if tls else None,
    )
    assert settings.keys_travel_in_clear is in_clear


def test_every_setting_is_described() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())
