"""Sets of values that a user could have, drawn by hypothesis; all of them must render."""

from typing import Any

from hypothesis import strategies as st

from tests.helm.chart import Values

_NAMES = st.sampled_from(["a", "my-secret", "x" * 60, "team.tls"])
_KEYS = st.sampled_from(["tls.crt", "KEY", "some_file.pem"])
_PORTS = st.integers(1024, 65000)
_TEXTS = st.dictionaries(
    st.sampled_from(["team", "example.com/owner", "cost-centre"]),
    st.sampled_from(["a", "42", "true", "null", "1e3"]),
    max_size=2,
)
_SHARES = st.sampled_from([0, 1, 3, "25%", "0%"])
_SECONDS = st.one_of(st.integers(0, 900), st.sampled_from([0.5, 2.25, 59.9]))
_PEERS = st.lists(
    st.sampled_from(
        [
            {"podSelector": {}},
            {"namespaceSelector": {"matchLabels": {"team": "web"}}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
        ]
    ),
    max_size=2,
)
_PARENTS = st.lists(
    st.sampled_from(
        [
            {"name": "edge"},
            {"name": "edge", "namespace": "gateways", "sectionName": "https", "port": 443},
        ]
    ),
    min_size=1,
    max_size=2,
)
_HOSTS = st.lists(st.sampled_from(["a.example.com", "*.example.com"]), max_size=2, unique=True)
SHARED_CACHE = {"claimName": "cache", "accessMode": "ReadWriteMany"}
# The one way in that is refused together with a route or a port of nodes, as nobody came through.
_OUTSIDE = {"ipBlock": {"cidr": "192.0.2.0/24"}}
_QUANTITIES = st.sampled_from(["500m", "2", 4, "1.5", "16Gi"])
_RESOURCES = st.fixed_dictionaries(
    {"requests": st.fixed_dictionaries({"cpu": _QUANTITIES, "memory": st.just("1Gi")})},
    optional={
        "limits": st.fixed_dictionaries(
            {},
            optional={
                "cpu": _QUANTITIES,
                "memory": st.sampled_from(["1Gi", "1.5G", 17179869184, "2000000000000m"]),
            },
        )
    },
)


def _image() -> st.SearchStrategy[Values]:
    return st.fixed_dictionaries(
        {},
        optional={
            "registry": st.sampled_from(["", "registry.example.com", "registry.example.com:5000/"]),
            "repository": st.sampled_from(["tokenstream", "team/tokenstream"]),
            "tag": st.sampled_from(["", "1.2.3", "main"]),
            "digest": st.sampled_from(["", "sha256:" + "0a" * 32]),
            "pullPolicy": st.sampled_from(["Always", "IfNotPresent"]),
        },
    )


@st.composite
def _way_in(draw: st.DrawFn) -> Values:
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "annotations": _TEXTS,
        "sessionAffinity": st.sampled_from(["None", "ClientIP"]),
        "sessionAffinityTimeoutSeconds": st.integers(1, 86400),
    }
    if kind != "ClusterIP":
        optional["externalTrafficPolicy"] = st.sampled_from(["", "Cluster", "Local"])
    if kind == "LoadBalancer":
        optional["loadBalancerSourceRanges"] = st.just(["203.0.113.0/24", "2001:db8::/32"])
        optional["loadBalancerClass"] = st.sampled_from(["", "example.com/internal"])
    return {"type": kind} | draw(st.fixed_dictionaries({}, optional=optional))


def _placed() -> dict[str, st.SearchStrategy[Any]]:
    """What both parts have alike."""
    return {
        "image": _image(),
        "resources": _RESOURCES,
        "preStopSleepSeconds": st.integers(0, 30),
        "shutdownMarginSeconds": st.integers(0, 60),
        "terminationGracePeriodSeconds": st.sampled_from([None, 20_000]),
        "strategy": st.sampled_from(
            [
                {"maxSurge": 1, "maxUnavailable": 0},
                {"maxSurge": 0, "maxUnavailable": 1},
                {"maxSurge": "25%", "maxUnavailable": "50%"},
            ]
        ),
        "podDisruptionBudget": st.one_of(
            st.builds(lambda n: {"enabled": True, "maxUnavailable": n}, _SHARES),
            st.builds(
                lambda n: {"enabled": True, "minAvailable": n, "maxUnavailable": None}, _SHARES
            ),
            st.just({"enabled": False}),
        ),
        "service": _way_in(),
        "serviceAccount": st.fixed_dictionaries(
            {},
            optional={"create": st.booleans(), "name": st.sampled_from(["", "robot"])},
        ),
        "podLabels": _TEXTS,
        "podAnnotations": _TEXTS,
        "nodeSelector": _TEXTS,
        "tolerations": st.lists(
            st.sampled_from(
                [
                    {"operator": "Exists"},
                    {"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoSchedule"},
                ]
            ),
            max_size=2,
        ),
        "affinity": st.sampled_from(
            [
                {},
                {
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [
                            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}
                        ]
                    }
                },
            ]
        ),
        "topologySpread": st.lists(
            st.fixed_dictionaries(
                {"topologyKey": st.just("topology.kubernetes.io/zone")},
                optional={
                    "maxSkew": st.integers(1, 3),
                    "whenUnsatisfiable": st.just("DoNotSchedule"),
                },
            ),
            max_size=1,
        ),
        "priorityClassName": st.sampled_from(["", "high"]),
        "extraEnv": st.lists(
            st.sampled_from(
                [
                    {"name": "NCCL_DEBUG", "value": "1"},
                    {"name": "A_KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
                    {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ]
            ),
            max_size=1,
        ),
    }


def _tls(draw: st.DrawFn, *, secret: bool) -> Values:
    if not secret:
        return {"allowPlaintext": True}
    return {
        "secretName": draw(_NAMES),
        "certificateKey": draw(_KEYS),
        "clientCaKey": draw(st.sampled_from(["", "ca.crt"])),
    }


def _model(draw: st.DrawFn) -> Values:
    source = draw(st.sampled_from(["demo", "hub", "pvc", "image"]))
    given: Values = {}
    match source:
        case "hub":
            given["id"] = "org/Model-8B"
            given["revision"] = draw(st.sampled_from(["", "v1.0", "1e10"]))
            given["tokenSecret"] = {"name": draw(st.sampled_from(["", "hub"]))}
        case "pvc":
            given["claimName"] = "models"
            given["path"] = draw(st.sampled_from(["", "a/b", "/a/"]))
        case "image":
            given["mount"] = draw(st.sampled_from(["volume", "copy"]))
            given["reference"] = "registry.example.com/model@sha256:" + "1b" * 32
            given["path"] = (
                "/model" if given["mount"] == "copy" else draw(st.sampled_from(["", "m"]))
            )
            given["copySizeLimit"] = draw(st.sampled_from(["", "100Gi"]))
    return {"source": source} if source == "demo" else {"source": source, source: given}


@st.composite
def value_sets(draw: st.DrawFn) -> Values:
    """Values without contradictions."""
    parts = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    with_service, with_bridge = parts
    keys, encrypted = draw(st.booleans()), draw(st.booleans())
    gpus = draw(st.sampled_from([0, 1, 4]))
    scraped = draw(st.booleans())
    ports = draw(st.lists(_PORTS, min_size=4, max_size=4, unique=True))

    service: Values = draw(st.fixed_dictionaries({}, optional=_placed()))
    service |= {
        "enabled": with_service,
        "replicas": draw(st.integers(0, 4)),
        "ports": {"grpc": ports[0], "metrics": ports[1]},
        "gpu": {"count": gpus, "resource": draw(st.sampled_from(["nvidia.com/gpu", "gpu.io/a"]))},
        "tls": _tls(draw, secret=encrypted),
        "cache": draw(st.sampled_from([{}, SHARED_CACHE, {"sizeLimit": "20Gi"}])),
        "sharedMemory": {"sizeLimit": draw(st.sampled_from(["64Mi", "1Gi"]))},
        "grpcRoute": {
            "enabled": draw(st.booleans()),
            "parentRefs": draw(_PARENTS),
            "hostnames": draw(_HOSTS),
            "annotations": draw(_TEXTS),
        },
    }
    own = "sum(up{a='b', c=\"d\"})"
    queries = st.sampled_from(["", own] if scraped else [own])
    service["autoscaling"] = {
        "enabled": draw(st.booleans()),
        "kind": draw(st.sampled_from(["keda", "hpa"])),
        "maxReplicas": draw(st.integers(1, 8)),
        "keda": {
            "serverAddress": "http://prometheus.monitoring:9090",
            "query": draw(queries),
            "runningQuery": draw(queries),
            "authenticationRef": draw(st.sampled_from(["", "prometheus"])),
        },
    }

    upstream: Values = {}
    if not with_service:
        upstream["address"] = "tokenstream.elsewhere.svc:50051"
        upstream["tls"] = encrypted
    if encrypted:
        upstream["systemRoots"] = draw(st.booleans())
        if not upstream["systemRoots"]:
            upstream["caSecretName"] = draw(st.sampled_from(["", "authorities"]))
        needed = bool(with_service and service["tls"]["clientCaKey"])
        if needed or draw(st.booleans()):
            upstream["clientCertificateSecretName"] = draw(_NAMES)
    elif keys:
        upstream["allowPlaintextKeys"] = True
    if keys:
        upstream["apiKeySecret"] = {"name": draw(st.sampled_from(["", "bridge-key"]))}

    bridge: Values = draw(st.fixed_dictionaries({}, optional=_placed()))
    for part in (service, bridge):
        if draw(st.booleans()):
            part["extraVolumes"] = [{"name": "more", "configMap": {"name": "more"}}]
            part["extraVolumeMounts"] = [{"name": "more", "mountPath": "/etc/more"}]
    bridge |= {
        "enabled": with_bridge,
        "replicas": draw(st.integers(0, 4)),
        "ports": {"http": ports[2], "metrics": ports[3]},
        "upstream": upstream,
        "tls": _tls(draw, secret=draw(st.booleans())),
        "ingress": {
            "enabled": draw(st.booleans()),
            "className": draw(st.sampled_from(["", "nginx"])),
            "annotations": draw(_TEXTS),
            "hosts": [{"host": "chat.example.com"}, {"host": "*.example.com", "path": "/v1"}],
            "tls": draw(st.sampled_from([[], [{"secretName": "t", "hosts": ["a.example.com"]}]])),
        },
        "httpRoute": {
            "enabled": draw(st.booleans()),
            "parentRefs": draw(_PARENTS),
            "hostnames": draw(_HOSTS),
            "requestTimeout": draw(st.sampled_from(["0s", "10m", "1h30m"])),
        },
        "autoscaling": {
            "enabled": draw(st.booleans()),
            "minReplicas": draw(st.integers(1, 2)),
            "maxReplicas": draw(st.integers(2, 9)),
        },
    }
    if service.get("serviceAccount", {}).get("name"):  # both may use it, one may make it
        bridge["serviceAccount"] = {"create": False, "name": "robot"}
    engine_args: Values = {"max_model_len": draw(st.integers(1, 10_000_000))}
    if gpus > 1:
        engine_args |= draw(
            st.sampled_from(
                [
                    {"tensor_parallel_size": gpus},
                    {"tensor_parallel_size": gpus // 2, "pipeline_parallel_size": 2},
                ]
            )
        )
    return {
        "fullnameOverride": draw(st.sampled_from(["", "ts", "long-" * 12 + "end"])),
        "commonLabels": draw(_TEXTS),
        "commonAnnotations": draw(_TEXTS),
        "imagePullSecrets": draw(st.lists(_NAMES, max_size=1)),
        "bindAddress": draw(st.sampled_from(["0.0.0.0", "[::]"])),
        "auth": {"apiKeysSecret": {"name": "keys"}} if keys else {"allowAnonymous": True},
        "model": _model(draw),
        "config": {
            "service": {
                "engine_args": engine_args,
                "max_streams": draw(st.sampled_from([1, 1024, 1_000_000])),
                "max_request_bytes": draw(st.sampled_from([1024, 123_456_789, None])),
                "drain_wait_s": draw(_SECONDS),
                "drain_grace_s": draw(_SECONDS),
                "log_level": draw(st.sampled_from(["debug", None])),
                "tenant_weights": draw(st.sampled_from([{}, {"team-a": 2.5, "b": 1}])),
            },
            "gateway": {
                "drain_wait_s": draw(_SECONDS),
                "drain_grace_s": draw(_SECONDS),
                "max_requests_per_client": draw(st.sampled_from([None, 8])),
                "cors_origins": draw(st.sampled_from([[], ["*"], ["https://a.example.com"]])),
            },
        },
        "service": service,
        "bridge": bridge,
        "metrics": {
            "serviceMonitor": {"enabled": scraped, "labels": draw(_TEXTS)},
            "dashboards": {"enabled": draw(st.booleans()), "annotations": draw(_TEXTS)},
        },
        "networkPolicy": {
            "enabled": draw(st.booleans()),
            "serviceFrom": [*draw(_PEERS), _OUTSIDE],
            "bridgeFrom": draw(_PEERS),
            "metricsFrom": [*draw(_PEERS), *([_OUTSIDE] if scraped else [])],
            "dnsPorts": draw(st.sampled_from([[53], [53, 5353]])),
            "egressTo": draw(_PEERS),
        },
        "tests": {
            "enabled": draw(st.booleans()),
            "prompt": draw(st.sampled_from(["hello", 'with "quotes" and: colon', "{{ x }}"])),
            "apiKeySecret": {"name": draw(st.sampled_from(["", "test-key"]))},
        },
    }
