"""The chart as tests see it: rendered in this process by Helm's own code, and read strictly."""

from collections.abc import Hashable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "tokenstream"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

Values = dict[str, Any]
Manifest = dict[str, Any]

# The least that anybody has to decide.
OPEN: Values = {
    "auth": {"allowAnonymous": True},
    "service": {"tls": {"allowPlaintext": True}},
    "bridge": {"tls": {"allowPlaintext": True}},
}


class _Loader(yaml.CSafeLoader):
    """YAML in which a key that comes twice is an error, as it is for Kubernetes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{twice} twice, {node.start_mark}"
        return super().construct_mapping(node, deep)


@cache
def chart() -> helm.Chart:
    """The chart, loaded once."""
    return helm.Chart.load(CHART)


def with_values(base: Values, more: Values) -> Values:
    """Both, as Helm merges files of values."""
    merged = dict(base)
    for key, value in more.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = with_values(old or {}, value) if both else value
    return merged


def example(path: Path) -> Values:
    """A ready file of values."""
    (values,) = read(path.read_text())
    return dict(values)


def read(text: str) -> list[Any]:
    """Every document that is not empty."""
    return [document for document in yaml.load_all(text, Loader=_Loader) if document]


def render(values: Values, name: str = "demo", namespace: str = "prod") -> list[Manifest]:
    """Every manifest. Raises `HelmError`, with what Helm would tell a user."""
    rendered = chart().render(values, name=name, namespace=namespace)
    return [
        manifest
        for path, text in rendered.items()
        if not path.endswith("NOTES.txt")
        for manifest in read(text)
    ]


def notes(values: Values) -> str:
    """What Helm says in the end."""
    rendered = chart().render(values, name="demo", namespace="prod")
    return rendered["tokenstream/templates/NOTES.txt"]


def of_kind(manifests: list[Manifest], kind: str, component: str = "") -> list[Manifest]:
    """Those of a kind, and of a part if one is named."""
    label = "app.kubernetes.io/component"
    return [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind
        and (not component or manifest["metadata"]["labels"][label] == component)
    ]


def the(manifests: list[Manifest], kind: str, component: str = "") -> Manifest:
    """The only one."""
    (found,) = of_kind(manifests, kind, component)
    return found


def pod_specs(manifests: list[Manifest]) -> Iterator[Manifest]:
    """The specification of each pod, the test's included."""
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            yield manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "Pod":
            yield manifest["spec"]


def container(manifests: list[Manifest], component: str) -> Manifest:
    """The one container of a part."""
    (found,) = the(manifests, "Deployment", component)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def section(manifests: list[Manifest], name: str) -> dict[str, Any]:
    """A section of the configuration, `service` or `gateway`, as its process reads it."""
    (document,) = read(the(manifests, "ConfigMap", "config")["data"][f"{name}.yaml"])
    assert list(document) == [name]
    return dict(document[name])
