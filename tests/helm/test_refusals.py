"""What a user who has something wrong is told: the value's name, and what is wrong with it."""

import re
from typing import Any

import helm_python as helm
import pytest

from tests.helm.chart import CHART, OPEN, Values, render, with_values


def at(path: str, value: Any) -> Values:
    """One value, by its path with dots."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


# The path of a value, the value, and what the message has to say about it.
SCHEMA: list[tuple[str, Any, tuple[str, ...]]] = [
    ("replicaCount", 3, ("replicaCount", "not allowed")),
    ("service.replica", 3, ("/service", "replica", "not allowed")),
    ("service.replicas", "three", ("/service/replicas", "got string, want integer")),
    ("service.replicas", -1, ("/service/replicas", "minimum")),
    ("service.ports.grpc", 70000, ("/service/ports/grpc", "maximum")),
    ("service.gpu.count", 0.5, ("/service/gpu/count", "integer")),
    ("service.resources.limits", {"memory": "16 Gi"}, ("/resources/limits/memory", "16 Gi")),
    ("service.sharedMemory.sizeLimit", "", ("/service/sharedMemory/sizeLimit",)),
    ("service.image.digest", "0a0b", ("/service/image/digest", "sha256")),
    ("service.image.repository", "a:1", ("/service/image/repository", "a:1")),
    ("service.service.type", "Cluster", ("/service/service/type", "LoadBalancer")),
    ("service.tls.secretName", "My Secret", ("/service/tls/secretName", "My Secret")),
    ("service.extraEnv", [{"name": "A"}], ("/extraEnv/0", "minProperties")),
    (
        "service.extraEnv",
        [{"name": "A", "value": "a", "valueFrom": {"fieldRef": {"fieldPath": "a"}}}],
        ("/extraEnv/0", "maxProperties"),
    ),
    (
        "bridge.extraEnv",
        [{"name": "A", "valueFrom": {"resourceFieldRef": {}}}],
        ("/extraEnv/0/valueFrom", "resourceFieldRef"),
    ),
    ("service.extraVolumes", [{"emptyDir": {}}], ("/extraVolumes/0", "name")),
    ("service.extraVolumes", [{"name": "a", "empty": {}}], ("/extraVolumes/0", "empty")),
    ("bridge.extraVolumes", [{"name": "a"}], ("/extraVolumes/0", "minProperties")),
    ("bridge.extraVolumeMounts", [{"mountPath": "/a"}], ("/extraVolumeMounts/0", "name")),
    (
        "bridge.extraVolumeMounts",
        [{"name": "a", "mountPath": "a"}],
        ("/extraVolumeMounts/0/mountPath",),
    ),
    ("service.service.externalTrafficPolicy", "local", ("/externalTrafficPolicy", "Local")),
    ("bridge.service.loadBalancerSourceRanges", ["10.0.0.1"], ("/loadBalancerSourceRanges/0",)),
    ("bridge.service.loadBalancerClass", "a b", ("/loadBalancerClass", "a b")),
    ("fullnameOverride", "v1.2", ("/fullnameOverride", "v1.2")),
    ("nameOverride", "v1.2", ("/nameOverride", "v1.2")),
    ("service.extraEnv", [{"name": "A", "value": 1}], ("/extraEnv/0/value", "want string")),
    ("service.tolerations", [{"keys": "a"}], ("/service/tolerations/0", "keys")),
    ("service.podLabels", {"app.kubernetes.io/name": "a"}, ("/podLabels/app.kubernetes.io",)),
    ("service.strategy.maxSurge", "a lot", ("/service/strategy/maxSurge",)),
    ("service.autoscaling.kind", "vpa", ("/service/autoscaling/kind", "keda", "hpa")),
    ("service.probes.liveness.periodSeconds", 0, ("/liveness/periodSeconds", "minimum")),
    ("service.terminationGracePeriodSeconds", "2m", ("/terminationGracePeriodSeconds",)),
    ("config.service.listen", "0.0.0.0:1", ("/config/service", "listen", "not allowed")),
    ("config.service.max_stream", 1, ("/config/service", "max_stream", "not allowed")),
    ("config.service.max_streams", 0, ("/config/service/max_streams", "minimum")),
    ("config.service.log_level", "loud", ("/config/service/log_level", "warning")),
    ("config.service.drain_grace_s", None, ("/config/service", "drain_grace_s", "missing")),
    ("config.service.tenant_weights", {"a": 0}, ("/config/service/tenant_weights/a",)),
    ("config.gateway.linger_s", 61, ("/config/gateway/linger_s", "maximum")),
    ("config.gateway.cors_origins", ["a.com"], ("/config/gateway/cors_origins/0", "a.com")),
    ("bridge.upstream.address", "service", ("/bridge/upstream/address", "service")),
    ("bridge.ingress.hosts", [{"name": "a"}], ("/bridge/ingress/hosts/0", "host")),
    ("model.source", "s3", ("/model/source", "demo", "hub", "pvc", "image")),
    ("securityContext.runAsUser", 0, ("/securityContext/runAsUser", "minimum")),
    ("bindAddress", "localhost", ("/bindAddress", "localhost")),
    ("metrics.serviceMonitor.interval", "often", ("/metrics/serviceMonitor/interval", "often")),
    ("networkPolicy.serviceFrom", [{}], ("/networkPolicy/serviceFrom/0", "minProperties")),
    ("networkPolicy.dnsPorts", [], ("/networkPolicy/dnsPorts", "minItems")),
    ("service.autoscaling.keda.cooldownPeriodSeconds", 5, ("cooldownPeriodSeconds", "not allowed")),
    ("tests.maxTokens", 0, ("/tests/maxTokens", "minimum")),
    ("auth.allowAnonymous", "yes", ("/auth/allowAnonymous", "want boolean")),
]


@pytest.mark.parametrize(("path", "value", "said"), SCHEMA, ids=[case[0] for case in SCHEMA])
def test_a_wrong_value_is_refused_by_its_name(path: str, value: Any, said: tuple[str, ...]) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render(with_values(OPEN, at(path, value)))
    message = str(refused.value)
    assert all(words in message for words in said), message
    assert len(message) < 600, "too long to be read"


KEYS = {"auth": {"allowAnonymous": False, "apiKeysSecret": {"name": "keys"}}}
TLS = {"service": {"tls": {"allowPlaintext": False, "secretName": "tls"}}}
KEDA = at("service.autoscaling", {"enabled": True, "keda": {"serverAddress": "http://p:9090"}})
ROUTE = {"enabled": True, "parentRefs": [{"name": "edge"}]}
LATE = {"maxSurge": 0, "maxUnavailable": 1}


def mounted(*paths: str) -> Values:
    """A volume of the user's in the service, at these paths."""
    return {
        "service": {
            "extraVolumes": [{"name": "a", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "a", "mountPath": path} for path in paths],
        }
    }


CONTRADICTIONS: list[tuple[Values, str]] = [
    (at("service.enabled", False) | at("bridge.enabled", False), "nothing would be installed"),
    (at("auth.allowAnonymous", False), "auth: who may call"),
    (at("auth.apiKeysSecret.name", "keys"), "auth.allowAnonymous contradict"),
    (at("service.tls.secretName", "tls"), "service.tls.allowPlaintext contradict"),
    (at("bridge.tls.allowPlaintext", False), "bridge.tls: may the network"),
    (at("service.tls.clientCaKey", "ca.crt"), "service.tls.secretName, which is empty"),
    (KEYS, "bridge.upstream.allowPlaintextKeys=true"),
    (with_values(TLS, at("service.tls.clientCaKey", "ca.crt")), "the bridge needs one too"),
    (at("service.enabled", False), "bridge.upstream.address: where is the service"),
    (at("bridge.upstream.address", "a:1"), "with service.enabled the bridge goes to"),
    (at("bridge.upstream.tls", True), "service.tls.secretName is empty"),
    (at("bridge.upstream.clientCertificateSecretName", "a"), "only with TLS to the service"),
    (at("service.ports.metrics", 50051), "service.ports.metrics are both 50051"),
    (at("bridge.ports.metrics", 8080), "bridge.ports.metrics are both 8080"),
    (at("model.source", "hub"), "model.hub.id is needed"),
    (at("model.source", "pvc"), "model.pvc.claimName is needed"),
    (at("model.source", "image"), "model.image.reference is needed"),
    (at("model.hub.id", "org/model"), "model.hub.id is set: which one"),
    (
        {"model": {"source": "image", "image": {"reference": "a", "mount": "copy", "path": "m"}}},
        "must be an absolute path",
    ),
    (
        with_values(
            {"model": {"source": "hub", "hub": {"id": "a/b", "revision": "1"}}},
            at("config.service.engine_args.revision", "2"),
        ),
        "contradict each other",
    ),
    (at("service.gpu.count", 8), "tensor x pipeline x data parallel size = 1"),
    (at("config.service.engine_args.tensor_parallel_size", 2), "service.gpu.count is 1"),
    (at("service.resources.limits", {"nvidia.com/gpu": 1}), "say how many in service.gpu.count"),
    (at("service.cache", {"claimName": "a", "sizeLimit": "1Gi"}), "the claim has the size"),
    (at("config.service.low_mark", 256), "low_mark (256) must be below"),
    (at("service.terminationGracePeriodSeconds", 156), "less than its drain takes: 157"),
    (at("bridge.terminationGracePeriodSeconds", 30), "less than its drain takes: 77"),
    (at("bridge.podDisruptionBudget.minAvailable", 1), "one of minAvailable and maxUnavailable"),
    (at("service.strategy.maxSurge", 0), "no rollout could begin"),
    (at("bridge.autoscaling", {"enabled": True, "minReplicas": 11}), "(11) is above maxReplicas"),
    (
        with_values(
            at("bridge.autoscaling.enabled", True), at("bridge.resources.requests.cpu", None)
        ),
        "it needs bridge.resources.requests.cpu",
    ),
    (at("service.autoscaling.enabled", True), "serverAddress: where is Prometheus"),
    (KEDA, "needs metrics.serviceMonitor.enabled"),
    (with_values(KEDA, at("service.autoscaling.keda.query", "sum(a)")), "keda.runningQuery"),
    (
        at("service.grpcRoute", ROUTE),
        "networkPolicy.serviceFrom lets in only pods of the namespace",
    ),
    (at("service.service.type", "LoadBalancer"), "networkPolicy.serviceFrom lets in only"),
    (at("service.service.type", "NodePort"), "service.service.type=NodePort"),
    (
        with_values(at("service.service.type", "NodePort"), at("networkPolicy.serviceFrom", [])),
        "networkPolicy.serviceFrom lets in only",
    ),
    (at("metrics.serviceMonitor.enabled", True), "networkPolicy.metricsFrom: who is Prometheus"),
    (at("service.cache.claimName", "a"), "service.strategy.maxSurge=0"),
    (
        {"service": {"cache": {"claimName": "a"}, "replicas": 2, "strategy": LATE}},
        "service.cache.accessMode=ReadWriteMany",
    ),
    (at("service.cache.accessMode", "ReadWriteMany"), "accessMode is that of a claim"),
    (
        {part: {"serviceAccount": {"name": "robot"}} for part in ("service", "bridge")},
        "serviceAccount.create=false for one",
    ),
    (at("bridge.upstream.systemRoots", True), "systemRoots is of use only with TLS"),
    (
        with_values(TLS, at("bridge.upstream", {"systemRoots": True, "caSecretName": "a"})),
        "bridge.upstream.caSecretName contradict",
    ),
    (at("service.grpcRoute.enabled", True), "which gateway"),
    (at("bridge.httpRoute.enabled", True), "which gateway"),
    (at("bridge.ingress.enabled", True), "needs bridge.ingress.hosts"),
    (at("fullnameOverride", "7b"), "begin with a letter and have no dots"),
    (
        with_values(
            at(
                "metrics.serviceMonitor",
                {"enabled": True, "interval": "1m", "scrapeTimeout": "1m500ms"},
            ),
            at("networkPolicy.metricsFrom", [{"podSelector": {}}]),
        ),
        "scrapeTimeout (1m500ms) is above metrics.serviceMonitor.interval (1m)",
    ),
    (
        at("bridge.service.externalTrafficPolicy", "Local"),
        "bridge.service.externalTrafficPolicy is for the types NodePort and LoadBalancer",
    ),
    (
        at("bridge.service", {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
        "loadBalancerSourceRanges is for the type LoadBalancer",
    ),
    (at("service.service.loadBalancerClass", "a/b"), "but service.service.type is ClusterIP"),
    (
        at("service.extraEnv", [{"name": "TOKENSTREAM_MODEL", "value": "a"}]),
        "service.extraEnv cannot set TOKENSTREAM_MODEL",
    ),
    (at("bridge.extraEnv", [{"name": "HOME", "value": "/"}]), "bridge.extraEnv cannot set HOME"),
    (
        at("service.extraVolumes", [{"name": "shm", "emptyDir": {}}]),
        "shm is the name of a volume of the chart's own",
    ),
    (
        at("bridge.extraVolumes", [{"name": "a", "emptyDir": {}}] * 2),
        "bridge.extraVolumes has a more than once",
    ),
    (
        at("bridge.extraVolumeMounts", [{"name": "a", "mountPath": "/a"}]),
        "a is none of bridge.extraVolumes",
    ),
    (mounted("/a", "/a/"), "has the path /a more than once"),
    (mounted("/etc/tokenstream/more"), "is below /etc/tokenstream"),
    (mounted("/etc"), "/etc would cover /etc/tokenstream"),
    (mounted("/"), "/ would cover /etc/tokenstream"),
    (mounted("/cache/"), "/cache would cover /cache"),
    (
        at("service", {"resources": {"limits": {"memory": "1.5G"}}}),
        "sharedMemory.sizeLimit (2Gi) is above service.resources.limits.memory (1.5G)",
    ),
    (at("bridge.podAnnotations", {"tokenstream/config": "a"}), "the chart sets it itself"),
    (at("commonAnnotations", {"tokenstream/config": "a"}), "the chart sets it itself"),
]


def refusal(values: Values) -> str:
    everything = OPEN
    for key, value in values.items():
        everything = with_values(everything, {key: value})
    with pytest.raises(helm.HelmRenderError) as refused:
        render(everything)
    return str(refused.value)


@pytest.mark.parametrize(
    ("values", "said"), CONTRADICTIONS, ids=[case[1] for case in CONTRADICTIONS]
)
def test_values_that_contradict_each_other_are_refused_with_what_to_change(
    values: Values, said: str
) -> None:
    assert said in refusal(values)


@pytest.mark.parametrize("name", ["v1.2", "7b"])
def test_a_name_of_a_release_that_no_service_can_have_is_refused(name: str) -> None:
    with pytest.raises(helm.HelmRenderError, match="begin with a letter and have no dots"):
        render(OPEN, name=name)
    render(OPEN | {"fullnameOverride": "chat"}, name=name)


def test_every_contradiction_that_the_chart_knows_is_in_the_table() -> None:
    messages = [refusal(values) for values, _ in CONTRADICTIONS]
    checks = (CHART / "templates" / "_checks.tpl").read_text()
    known = re.findall(r'{{- fail (?:\(printf )?"(.+?)"', checks)
    assert len(known) > 25
    for text in known:
        pieces = [piece for piece in re.split("%[a-z]", text) if len(piece) > 8]
        assert any(all(piece in message for piece in pieces) for message in messages), text
