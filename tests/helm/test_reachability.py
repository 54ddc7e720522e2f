"""Who gets through the network policies."""

from typing import Any

import pytest

from tests.helm.chart import EXAMPLES, OPEN, Values, of_kind, render, the, with_values
from tests.helm.chart import example as values_of

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
ROUTE = {"grpcRoute": {"enabled": True, "parentRefs": [{"name": "edge"}]}}


def policy(values: Values, component: str) -> Any:
    return the(render(values), "NetworkPolicy", component)["spec"]


@pytest.mark.parametrize("component", ["service", "bridge"])
def test_nobody_reaches_the_ports_for_operators_until_somebody_is_named(component: str) -> None:
    def callers(values: Values) -> list[Any]:
        rules = policy(values, component)["ingress"]
        return [rule["from"] for rule in rules if {"port": "metrics"} in rule["ports"]]

    assert not callers(OPEN)
    named = with_values(OPEN, {"networkPolicy": {"metricsFrom": [MONITORING]}})
    assert callers(named) == [[MONITORING]]


def test_whoever_is_scraped_by_an_example_lets_the_scraper_in() -> None:
    for path in EXAMPLES:
        manifests = render(values_of(path))
        if of_kind(manifests, "ServiceMonitor"):
            for found in of_kind(manifests, "NetworkPolicy"):
                ports = [port for rule in found["spec"]["ingress"] for port in rule["ports"]]
                assert {"port": "metrics"} in ports


@pytest.mark.parametrize(
    "service", [ROUTE, {"service": {"type": "LoadBalancer"}}], ids=["a route", "a balancer"]
)
def test_a_way_in_from_outside_renders_once_the_policy_names_who_comes(service: Values) -> None:
    gateway = {"namespaceSelector": {"matchLabels": {"team": "edge"}}}
    values = with_values(OPEN, {"service": service, "networkPolicy": {"serviceFrom": [gateway]}})
    assert gateway in policy(values, "service")["ingress"][0]["from"]
    render(with_values(OPEN, {"service": service, "networkPolicy": {"enabled": False}}))


def test_pods_of_dns_may_listen_on_other_ports() -> None:
    def ports(values: Values) -> list[tuple[int, str]]:
        return [(p["port"], p["protocol"]) for p in policy(values, "bridge")["egress"][0]["ports"]]

    assert ports(OPEN) == [(53, "UDP"), (53, "TCP")]
    openshift = with_values(OPEN, {"networkPolicy": {"dnsPorts": [53, 5353]}})
    assert ports(openshift) == [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")]
