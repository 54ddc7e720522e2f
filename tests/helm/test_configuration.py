"""That the chart and `tokenstream` mean the same by the same names."""

import importlib.util
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from gateway_sse.config import GatewaySettings
from service import app
from service.config import ServiceSettings
from service.engine import vllm_client
from tests.helm.chart import (
    CHART,
    EXAMPLES,
    OPEN,
    Manifest,
    Values,
    container,
    example,
    pod_specs,
    render,
    section,
    the,
    with_values,
)
from tests.helm.laid_out import Secrets, laid_out
from tokenstream_cli.environment import _unknown
from tokenstream_cli.generate import parse
from tokenstream_cli.main import _COMMANDS
from tokenstream_cli.settings import load

SETTINGS: dict[str, type[BaseSettings]] = {"service": ServiceSettings, "gateway": GatewaySettings}

# What other values decide, so that nobody can say it twice.
DECIDED_ELSEWHERE = {
    "service": {
        *("model", "listen", "metrics_listen", "api_keys_file", "allow_anonymous"),
        *("tls_certificate_file", "tls_private_key_file", "tls_client_ca_file"),
        "allow_plaintext",
    },
    "gateway": {
        *("listen", "metrics_listen", "upstream", "upstream_tls", "upstream_ca_file"),
        *("upstream_certificate_file", "upstream_private_key_file", "api_key"),
        *("tls_certificate_file", "tls_private_key_file", "tls_client_ca_file"),
        *("allow_plaintext", "allow_plaintext_keys"),
    },
}

# Where a cluster wants something else than a terminal.
OTHER_DEFAULTS = {
    "service": {"drain_wait_s": 5, "drain_grace_s": 120, "log_format": "json"},
    "gateway": {"drain_wait_s": 5, "drain_grace_s": 60, "log_format": "json"},
}

both = pytest.mark.parametrize("name", ["service", "gateway"])


@pytest.fixture(scope="module")
def defaults() -> Values:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text())["config"])


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    whole = json.loads((CHART / "values.schema.json").read_text())
    return dict(whole["properties"]["config"]["properties"])


@both
def test_every_setting_is_a_value_or_decided_by_others(
    name: str, defaults: Values, schema: dict[str, Any]
) -> None:
    settings = set(SETTINGS[name].model_fields)
    assert DECIDED_ELSEWHERE[name] < settings
    assert set(defaults[name]) == settings - DECIDED_ELSEWHERE[name]
    assert set(schema[name]["properties"]) == set(defaults[name])


@both
def test_the_values_are_the_programs_own_defaults_but_for_those_a_cluster_needs(
    name: str, defaults: Values
) -> None:
    fields = SETTINGS[name].model_fields
    own = {key: fields[key].get_default(call_default_factory=True) for key in defaults[name]}
    assert defaults[name] == own | OTHER_DEFAULTS[name]


@both
def test_the_schemas_bounds_are_those_of_the_settings(name: str, schema: dict[str, Any]) -> None:
    theirs = SETTINGS[name].model_json_schema()["properties"]
    for key, ours in schema[name]["properties"].items():
        bounds = theirs[key]
        for option in bounds.get("anyOf", ()):
            bounds = bounds | option if option.get("type") != "null" else bounds
        for bound in ("minimum", "exclusiveMinimum"):
            assert ours.get(bound) == bounds.get(bound), key
        assert ours.get("maximum", 0) <= bounds.get("maximum", float("inf")), key
        if "enum" in bounds:
            assert ours["enum"] == bounds["enum"]


MUTUAL: Values = {
    "auth": {"allowAnonymous": False, "apiKeysSecret": {"name": "keys"}},
    "service": {"tls": {"allowPlaintext": False, "secretName": "service", "clientCaKey": "ca.crt"}},
    "bridge": {
        "tls": {"allowPlaintext": False, "secretName": "bridge", "clientCaKey": "ca.crt"},
        "upstream": {
            "clientCertificateSecretName": "client",
            "apiKeySecret": {"name": "key"},
        },
    },
}
# Every Secret has every key that anybody asks for.
KEYS = ("tls.crt", "tls.key", "ca.crt", "keys.txt", "token", "api-key")
SECRETS: Secrets = defaultdict(lambda: dict.fromkeys(KEYS, b"-"))

SETS = {path.stem: example(path) for path in EXAMPLES} | {"mutual": with_values(OPEN, MUTUAL)}


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_the_programs_take_the_rendered_files(values: Values, tmp_path: Path) -> None:
    manifests = render(values)
    for component, name in (("service", "service"), ("bridge", "gateway")):
        pod = laid_out(manifests, component, tmp_path / component, SECRETS)
        config = pod.environment["TOKENSTREAM_CONFIG"]
        settings: Any = load(SETTINGS[name], command=name, section=name, argv=["--config", config])
        written = section(manifests, name)
        assert settings.listen == written["listen"]
        assert settings.drain_grace_s == written["drain_grace_s"]
        assert settings.model_fields_set == set(written), "whatever is written is read"


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_every_variable_is_one_that_somebody_reads(values: Values) -> None:
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None
    assert vllm.origin is not None
    read_by_vllm = (Path(vllm.origin).parent / "envs.py").read_text()
    from huggingface_hub import constants
    from huggingface_hub.utils import _auth

    read_by_the_hub = "".join(Path(str(m.__file__)).read_text() for m in (constants, _auth))
    for spec in pod_specs(render(values)):
        names = {variable["name"] for variable in spec["containers"][0]["env"]}
        ours = {name for name in names if name.startswith("TOKENSTREAM_")}
        assert not list(_unknown(ours))
        for name in names - ours - {"HOME"}:
            assert f'"{name}"' in (read_by_vllm if name.startswith("VLLM_") else read_by_the_hub)


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_every_command_is_one_of_the_program(values: Values) -> None:
    for spec in pod_specs(render(values)):
        assert spec["containers"][0]["args"][0] in _COMMANDS


def test_the_test_asks_the_way_that_the_command_line_takes() -> None:
    values = with_values(
        OPEN,
        {
            "auth": {"allowAnonymous": False, "apiKeysSecret": {"name": "keys"}},
            "service": {"tls": {"allowPlaintext": False, "secretName": "tls"}},
            "tests": {"apiKeySecret": {"name": "key"}},
        },
    )
    (_, *arguments) = the(render(values), "Pod")["spec"]["containers"][0]["args"]
    asked = parse(arguments)
    assert asked.prompt == "What is gRPC?"
    assert asked.tls
    assert asked.ca_file == Path("/etc/tokenstream/upstream-ca/ca.crt")
    assert asked.options["max_tokens"] == 16


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(
            with_values(
                SETS["mutual"] | {"tests": {"apiKeySecret": {"name": "key"}}},
                {
                    "bridge": {
                        "enabled": False,
                        "upstream": {"clientCertificateSecretName": ""},
                    }
                },
            ),
            id="mutual TLS, and no certificate to show",
        ),
        pytest.param(SETS["one-gpu"], id="keys, and none to call with"),
        pytest.param(with_values(OPEN, {"tests": {"enabled": False}}), id="switched off"),
    ],
)
def test_there_is_no_test_where_it_could_not_connect(values: Values) -> None:
    assert not [manifest for manifest in render(values) if manifest["kind"] == "Pod"]


@pytest.mark.parametrize(
    ("model", "written", "mounted"),
    [
        ({"source": "demo"}, "demo", {}),
        ({"source": "hub", "hub": {"id": "org/m"}}, "org/m", {}),
        (
            {"source": "pvc", "pvc": {"claimName": "c", "path": "/a/b/"}},
            "/models/a/b",
            {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
        ),
        (
            {"source": "image", "image": {"reference": "r/m:1", "path": "m"}},
            "/models/m",
            {"image": {"reference": "r/m:1", "pullPolicy": "IfNotPresent"}},
        ),
        (
            {"source": "image", "image": {"reference": "r/m:1", "path": "/m", "mount": "copy"}},
            "/models",
            {"emptyDir": {}},
        ),
    ],
)
def test_the_model_comes_from_where_it_is_said_to_be(
    model: Values, written: str, mounted: Values
) -> None:
    manifests = render(OPEN | {"model": model})
    assert section(manifests, "service")["model"] == written
    pod = the(manifests, "Deployment", "service")["spec"]["template"]["spec"]
    volumes = [volume for volume in pod["volumes"] if volume["name"] == "model"]
    assert volumes == ([{"name": "model"} | mounted] if mounted else [])
    copies = [c["command"] for c in pod.get("initContainers", [])]
    assert copies == ([["cp", "-R", "/m/.", "/models/"]] if "emptyDir" in mounted else [])


def test_the_copy_of_a_model_has_resources_of_its_own() -> None:
    """A namespace with a quota starts no container without."""
    image: Values = {"reference": "r/m:1", "path": "/m", "mount": "copy"}
    model: Values = {"source": "image", "image": image}

    def resources() -> Any:
        pod = the(render(OPEN | {"model": model}), "Deployment", "service")["spec"]["template"]
        (copy,) = pod["spec"]["initContainers"]
        return copy["resources"]

    assert set(resources()) == {"requests", "limits"}
    image["copyResources"] = {"requests": {"cpu": "2"}, "limits": {"memory": "2Gi"}}
    assert resources()["requests"]["cpu"] == "2"
    assert resources()["limits"] == {"memory": "2Gi"}


def test_a_public_certificate_is_checked_by_the_usual_roots_and_needs_no_ca_in_its_secret() -> None:
    values = with_values(
        OPEN,
        {
            "service": {"tls": {"allowPlaintext": False, "secretName": "tls"}},
            "bridge": {"upstream": {"systemRoots": True}},
        },
    )
    manifests = render(values)
    gateway = section(manifests, "gateway")
    assert gateway["upstream_tls"] is True
    assert "upstream_ca_file" not in gateway
    (_, *arguments) = the(manifests, "Pod")["spec"]["containers"][0]["args"]
    asked = parse(arguments)
    assert asked.tls
    assert asked.ca_file is None
    bridge = the(manifests, "Deployment", "bridge")["spec"]["template"]["spec"]
    for pod in (bridge, the(manifests, "Pod")["spec"]):
        assert not [v for v in pod.get("volumes", []) if v["name"] == "upstream-ca"]


def test_a_revision_and_the_hubs_token_are_passed_on() -> None:
    hub = {"id": "a/b", "revision": "v2", "tokenSecret": {"name": "hub"}}
    manifests = render(OPEN | {"model": {"source": "hub", "hub": hub}})
    assert section(manifests, "service")["engine_args"] == {"revision": "v2"}
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    assert token in container(manifests, "service")["env"]


def test_a_setting_that_is_null_is_left_to_the_program() -> None:
    config: Values = {"service": {"max_streams": None}, "gateway": {"log_level": None}}
    manifests = render(OPEN | {"config": config})
    assert "max_streams" not in section(manifests, "service")
    assert "log_level" not in section(manifests, "gateway")


def test_any_number_of_requests_is_said_with_null() -> None:
    manifests = render(OPEN | {"config": {"gateway": {"max_requests_per_client": None}}})
    assert section(manifests, "gateway")["max_requests_per_client"] is None


def _grace(manifests: list[Manifest], component: str) -> int:
    pod = the(manifests, "Deployment", component)["spec"]["template"]["spec"]
    return int(pod["terminationGracePeriodSeconds"])


def test_the_grace_is_what_a_drain_takes_at_most() -> None:
    drain = {"drain_wait_s": 7.5, "drain_grace_s": 30}
    values = with_values(
        OPEN,
        {
            "config": {"service": drain, "gateway": drain},
            "service": {"preStopSleepSeconds": 3, "shutdownMarginSeconds": 15},
            "bridge": {"preStopSleepSeconds": 0, "shutdownMarginSeconds": 1},
        },
    )
    manifests = render(values)
    assert _grace(manifests, "service") == 56  # 55.5, rounded up
    assert _grace(manifests, "bridge") == 39
    assert container(manifests, "service")["lifecycle"] == {"preStop": {"sleep": {"seconds": 3}}}
    assert "lifecycle" not in container(manifests, "bridge")


def test_the_margin_of_the_service_is_what_its_own_end_may_take() -> None:
    """Last words, last statuses, the engine's end, and the processes that it leaves."""
    bounds = (
        *(app._LAST_WORDS_S, app._LAST_STATUS_S),
        *(vllm_client._STOP_GRACE_S, vllm_client._LEFTOVER_GRACE_S),
    )
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert sum(bounds) < defaults["service"]["shutdownMarginSeconds"] <= sum(bounds) + 5


def test_a_longer_grace_is_taken_as_it_is() -> None:
    values = with_values(OPEN, {"service": {"terminationGracePeriodSeconds": 500}})
    assert _grace(render(values), "service") == 500


def test_the_model_has_the_time_to_load_that_is_said() -> None:
    startup = {"budgetSeconds": 95, "periodSeconds": 10}
    values = with_values(OPEN, {"service": {"probes": {"startup": startup}}})
    probe = container(render(values), "service")["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 100


def test_a_change_of_one_parts_configuration_rolls_only_that_part() -> None:
    def marks(values: Values) -> list[str]:
        return [
            the(render(values), "Deployment", component)["spec"]["template"]["metadata"][
                "annotations"
            ]["tokenstream/config"]
            for component in ("service", "bridge")
        ]

    before = marks(OPEN)
    after = marks(OPEN | {"config": {"gateway": {"linger_s": 2}}})
    assert before[0] == after[0]
    assert before[1] != after[1]
