"""What a user adds to the pods and to the Services."""

import pytest

from tests.helm.chart import OPEN, Values, container, of_kind, render, the, with_values
from tests.helm.kubernetes import check

both = pytest.mark.parametrize("part", ["service", "bridge"])
PASSED_ON: Values = {"networkPolicy": {"serviceFrom": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}}


@both
def test_variables_come_from_elsewhere_as_in_a_pods_specification(part: str) -> None:
    variables = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a", "optional": True}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "b"}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "D", "value": ""},
    ]
    manifests = render(with_values(OPEN, {part: {"extraEnv": variables}}))
    assert container(manifests, part)["env"][-4:] == variables
    check(the(manifests, "Deployment", part))


@both
def test_volumes_of_the_users_are_mounted_beside_the_charts(part: str) -> None:
    volume = {"name": "roots", "secret": {"secretName": "roots", "defaultMode": 288}}
    mount = {"name": "roots", "mountPath": "/etc/ssl/more", "readOnly": True}
    extra = {"extraVolumes": [volume], "extraVolumeMounts": [mount]}
    manifests = render(with_values(OPEN, {part: extra}))
    deployment = the(manifests, "Deployment", part)
    assert volume in deployment["spec"]["template"]["spec"]["volumes"]
    assert mount in container(manifests, part)["volumeMounts"]
    check(deployment)


def test_a_volume_may_be_mounted_below_a_folder_that_is_written_to() -> None:
    extra: Values = {
        "extraVolumes": [{"name": "a", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "a", "mountPath": "/cache/adapters"}],
    }
    assert container(render(with_values(OPEN, {"service": extra})), "service")


@both
def test_a_load_balancer_is_told_whom_to_let_in_and_to_keep_their_addresses(part: str) -> None:
    given = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "loadBalancerClass": "example.com/internal",
    }
    manifests = render(with_values(OPEN | PASSED_ON, {part: {"service": given}}))
    own, headless = of_kind(manifests, "Service", part)
    assert given.items() <= own["spec"].items()
    assert not (given.keys() - {"type"}) & headless["spec"].keys()
    check(own)


def test_a_timeout_as_long_as_the_interval_is_taken_however_it_is_written() -> None:
    monitor = {"enabled": True, "interval": "1m30s", "scrapeTimeout": "90000ms"}
    values = {
        "metrics": {"serviceMonitor": monitor},
        "networkPolicy": {"metricsFrom": [{"podSelector": {}}]},
    }
    (endpoint,) = the(render(with_values(OPEN, values)), "ServiceMonitor", "bridge")["spec"][
        "endpoints"
    ]
    assert endpoint["scrapeTimeout"] == "90000ms"
