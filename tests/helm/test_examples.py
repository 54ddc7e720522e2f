import json
from pathlib import Path

import helm_python as helm
import pytest

from tests.helm.chart import (
    CHART,
    EXAMPLES,
    OPEN,
    Values,
    container,
    example,
    notes,
    read,
    render,
    section,
    the,
    with_values,
)
from tests.helm.kubernetes import VERSIONS, check

LONGEST_NOTES = 10  # lines
by_name = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def test_there_are_the_three_that_people_begin_with() -> None:
    assert [path.stem for path in EXAMPLES] == ["cpu-demo", "eight-gpus", "one-gpu"]


@by_name
def test_lint_has_nothing_to_say_about_an_example(path: Path) -> None:
    report = helm.lint(CHART, example(path), strict=True, namespace="prod")
    assert report["total_charts_linted"] == 1
    assert not report["errors"]
    # An icon is for pages that list charts.
    said = [m for m in report["messages"] if m["error"] != "icon is recommended"]
    assert not said


@by_name
def test_kubernetes_takes_every_object_of_an_example(path: Path) -> None:
    manifests = render(example(path))
    assert len(manifests) > 10
    for manifest in manifests:
        check(manifest)
    assert len(VERSIONS) == 3


def test_the_oldest_kubernetes_that_the_chart_claims_is_one_that_objects_are_checked_with() -> None:
    (claimed,) = read((CHART / "Chart.yaml").read_text())
    assert claimed["kubeVersion"] == f">={VERSIONS[0]}.0-0"


@by_name
def test_the_notes_are_short_and_have_a_call_to_try(path: Path) -> None:
    said = notes(example(path)).strip().splitlines()
    assert len(said) <= LONGEST_NOTES
    assert any(line.strip().startswith("curl ") for line in said)


def test_the_notes_of_a_bridge_that_asks_for_certificates_show_one() -> None:
    tls = {"allowPlaintext": False, "secretName": "tls", "clientCaKey": "ca.crt"}
    said = notes(with_values(OPEN, {"bridge": {"tls": tls}}))
    assert "curl -Nk --cert client.crt --key client.key https://" in said
    assert "--cert" not in notes(with_values(OPEN, {"bridge": {"tls": tls | {"clientCaKey": ""}}}))


@pytest.mark.parametrize(
    ("upstream", "key"),
    [
        ({"tls": True}, True),
        ({"allowPlaintextKeys": True}, True),
        ({}, False),
        ({"tls": True, "apiKeySecret": {"name": "key"}}, False),
    ],
    ids=["encrypted", "keys in plain text", "no way for keys", "a key of its own"],
)
def test_the_notes_of_bridges_alone_name_their_service_and_the_key_that_it_may_ask_for(
    upstream: Values, key: bool
) -> None:
    alone = {"service": {"enabled": False}, "bridge": {"upstream": {"address": "a:1"} | upstream}}
    said = notes(with_values(OPEN, alone))
    assert "go to the service at a:1" in said
    assert "model is" not in said
    assert ('-H "authorization: Bearer $TOKENSTREAM_API_KEY"' in said) is key
    assert ("where that service asks for no keys" in said) is key


def test_without_any_values_the_user_is_told_what_to_decide() -> None:
    with pytest.raises(helm.HelmRenderError, match="may the network read along"):
        render({})
    with pytest.raises(helm.HelmRenderError, match="who may call"):
        render({key: OPEN[key] for key in ("service", "bridge")})


def test_eight_gpus_are_one_tensor_parallel_service_with_shared_memory() -> None:
    manifests = render(example(CHART / "examples" / "eight-gpus.yaml"))
    service = container(manifests, "service")
    assert service["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert section(manifests, "service")["engine_args"]["tensor_parallel_size"] == 8
    assert section(manifests, "service")["model"] == "/models/Llama-3.3-70B-Instruct"
    volumes = the(manifests, "Deployment", "service")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}} in volumes
    assert service["image"] == "tokenstream-service:0.1.0-cuda"


def test_the_cpu_demo_asks_for_no_gpu_and_has_the_cpu_image() -> None:
    service = container(render(example(CHART / "examples" / "cpu-demo.yaml")), "service")
    assert set(service["resources"]["limits"]) == {"memory"}
    assert service["image"] == "tokenstream-service:0.1.0-cpu"


def test_the_cpu_demo_takes_clients_that_always_send_a_key() -> None:
    """As OpenAI's do; the bridge refuses keys that it would pass on in plain text."""
    manifests = render(example(CHART / "examples" / "cpu-demo.yaml"))
    assert section(manifests, "gateway")["allow_plaintext_keys"] is True
    assert section(manifests, "service")["allow_anonymous"] is True


def test_the_pod_of_the_test_stays_for_its_log_to_be_read() -> None:
    """`helm test --logs` reads it after the test, when `hook-succeeded` has deleted it."""
    annotations = the(render(OPEN), "Pod")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "test"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_a_digest_goes_before_a_tag() -> None:
    image = {"registry": "r.example.com/", "tag": "1.0", "digest": "sha256:" + "ab" * 32}
    values = OPEN | {"bridge": OPEN["bridge"] | {"image": image}}
    found = container(render(values), "bridge")["image"]
    assert found == "r.example.com/tokenstream-bridge@sha256:" + "ab" * 32


def test_the_dashboard_is_shipped_for_grafanas_sidecar_to_find() -> None:
    manifests = render(example(CHART / "examples" / "eight-gpus.yaml"))
    shipped = the(manifests, "ConfigMap", "dashboards")
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    ((name, text),) = shipped["data"].items()
    assert name == "prod-demo-tokenstream.json"
    original = json.loads((CHART / "dashboards" / "tokenstream.json").read_text())
    sent = json.loads(text)
    own = {"uid": sent["uid"], "title": "tokenstream (prod/demo-tokenstream)"}
    assert sent == original | own
    assert len(sent["uid"]) <= 40, "Grafana takes no longer one"


def test_dashboards_of_several_releases_live_side_by_side_in_one_grafana() -> None:
    values = with_values(OPEN, {"metrics": {"dashboards": {"enabled": True}}})
    files, uids = set(), set()
    for release, namespace in (("a", "prod"), ("b", "prod"), ("a", "staging")):
        shipped = the(render(values, release, namespace), "ConfigMap", "dashboards")
        ((name, text),) = shipped["data"].items()
        files.add(name)
        uids.add(json.loads(text)["uid"])
    assert len(files) == len(uids) == 3
