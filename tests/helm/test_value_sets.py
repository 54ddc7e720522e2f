"""What holds for whatever values a user has."""

from typing import Any

from hypothesis import HealthCheck, given, settings

from tests.helm.chart import Manifest, Values, of_kind, pod_specs, render
from tests.helm.kubernetes import check
from tests.helm.value_sets import value_sets

MOST_OF_A_NAME = 63


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,  # the same 200 everywhere
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(value_sets())
def test_any_set_of_values_gives_objects_that_kubernetes_takes(values: Values) -> None:
    manifests = render(values)
    for manifest in manifests:
        check(manifest)
    names_are_short_and_single(manifests)
    pods_are_closed(manifests)
    mounts_and_volumes_belong_together(manifests)
    ports_exist(manifests)
    selectors_find_pods(manifests)
    scalers_find_their_targets(manifests)
    nothing_secret_is_written_down(manifests)


def names_are_short_and_single(manifests: list[Manifest]) -> None:
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(set(names)) == len(names)
    assert all(len(name) <= MOST_OF_A_NAME for _, name in names)
    assert {m["metadata"]["namespace"] for m in manifests} == {"prod"}


def pods_are_closed(manifests: list[Manifest]) -> None:
    """Non-root, read-only, without privileges and without a token for the cluster."""
    for account in of_kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for spec in pod_specs(manifests):
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def mounts_and_volumes_belong_together(manifests: list[Manifest]) -> None:
    for spec in pod_specs(manifests):
        containers = spec["containers"] + spec.get("initContainers", [])
        mounted = {mount["name"] for c in containers for mount in c.get("volumeMounts", [])}
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        assert sorted(mounted) == sorted(volumes)
        for c in containers:
            paths = [mount["mountPath"] for mount in c.get("volumeMounts", [])]
            assert len(set(paths)) == len(paths)


def ports_exist(manifests: list[Manifest]) -> None:
    """Whatever names a port names one that the pods have, under the same number."""
    for deployment in of_kind(manifests, "Deployment"):
        component = deployment["metadata"]["labels"]["app.kubernetes.io/component"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert _port_of(container[probe], ports) in ports.values()
        for service in of_kind(manifests, "Service", component):
            for port in service["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"]
        for policy in of_kind(manifests, "NetworkPolicy", component):
            for rule in policy["spec"]["ingress"]:
                assert {port["port"] for port in rule["ports"]} <= set(ports)
        for monitor in of_kind(manifests, "ServiceMonitor", component):
            assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= set(ports)


def _port_of(probe: dict[str, Any], ports: dict[str, int]) -> int:
    if "grpc" in probe:
        return int(probe["grpc"]["port"])
    return ports[probe["httpGet"]["port"]]


def selectors_find_pods(manifests: list[Manifest]) -> None:
    pods = [m["spec"]["template"]["metadata"]["labels"] for m in of_kind(manifests, "Deployment")]
    selectors = [
        *(m["spec"]["selector"]["matchLabels"] for m in of_kind(manifests, "Deployment")),
        *(m["spec"]["selector"]["matchLabels"] for m in of_kind(manifests, "PodDisruptionBudget")),
        *(m["spec"]["podSelector"]["matchLabels"] for m in of_kind(manifests, "NetworkPolicy")),
        *(m["spec"]["selector"] for m in of_kind(manifests, "Service")),
    ]
    for selector in selectors:
        assert sum(selector.items() <= labels.items() for labels in pods) == 1
    services = [m["metadata"]["labels"] for m in of_kind(manifests, "Service")]
    for monitor in of_kind(manifests, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        assert any(selector.items() <= labels.items() for labels in services)


def scalers_find_their_targets(manifests: list[Manifest]) -> None:
    deployments = {m["metadata"]["name"]: m for m in of_kind(manifests, "Deployment")}
    scalers = of_kind(manifests, "HorizontalPodAutoscaler") + of_kind(manifests, "ScaledObject")
    for scaler in scalers:
        scaled = deployments.pop(scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in scaled["spec"], "it would undo what the scaler does"
    assert all("replicas" in deployment["spec"] for deployment in deployments.values())


def nothing_secret_is_written_down(manifests: list[Manifest]) -> None:
    assert not of_kind(manifests, "Secret")
    for spec in pod_specs(manifests):
        for container in spec["containers"]:
            for variable in container["env"]:
                if variable["name"].endswith(("_KEY", "_TOKEN")):
                    assert "secretKeyRef" in variable["valueFrom"]
