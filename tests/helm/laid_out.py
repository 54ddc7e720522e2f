"""A pod's container laid out on this machine: its files below a folder, its variables as they are.

Secrets are not part of the chart; whoever lays a pod out says what they hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.helm.chart import Manifest, the

Secrets = Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True)
class LaidOut:
    """What a container's process gets."""

    arguments: list[str]
    environment: dict[str, str]
    container: Manifest

    def edit(self, old: str, new: str) -> None:
        """Put something else into its configuration, such as a name that resolves here."""
        path = Path(self.environment["TOKENSTREAM_CONFIG"])
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def laid_out(manifests: list[Manifest], component: str, root: Path, secrets: Secrets) -> LaidOut:
    """Lay a part's pod out below a folder."""
    deployed = the(manifests, "Deployment", component)
    return _laid_out(deployed["spec"]["template"]["spec"], manifests, root, secrets)


def laid_out_test(manifests: list[Manifest], root: Path, secrets: Secrets) -> LaidOut:
    """Lay the pod of `helm test` out."""
    return _laid_out(the(manifests, "Pod")["spec"], manifests, root, secrets)


def _laid_out(pod: Manifest, manifests: list[Manifest], root: Path, secrets: Secrets) -> LaidOut:
    (container,) = pod["containers"]
    mounts = {m["name"]: m["mountPath"] for m in container.get("volumeMounts", [])}
    environment: dict[str, str] = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        held = secrets[source["name"]][source["key"]].decode() if source else variable["value"]
        environment[variable["name"]] = str(held)
    configured = environment.get("TOKENSTREAM_CONFIG")
    for volume in pod.get("volumes", []):
        folder = root / mounts[volume["name"]].lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            data = the(manifests, "ConfigMap", "config")["data"]
            for item in volume["configMap"]["items"]:
                (folder / item["path"]).write_text(data[item["key"]])
        elif "secret" in volume:
            secret = secrets[volume["secret"]["secretName"]]
            every = [{"key": key, "path": key} for key in secret]
            for item in volume["secret"].get("items", every):
                (folder / item["path"]).write_bytes(secret[item["key"]])
    arguments = [argument.replace("=/etc/", f"={root}/etc/") for argument in container["args"]]
    if configured is not None:
        path = root / configured.lstrip("/")
        path.write_text(path.read_text().replace(": /etc/", f": {root}/etc/"))
        environment["TOKENSTREAM_CONFIG"] = str(path)
    return LaidOut(arguments, environment, container)
