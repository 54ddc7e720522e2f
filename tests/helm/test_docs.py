import re

from tests.helm.chart import OPEN, ROOT, read, render, section, the, with_values
from tests.helm.test_values_file import VALUES, _paths

PAGE = (ROOT / "docs" / "deploy.md").read_text()


def test_values_that_the_page_names_are_there() -> None:
    known = {path.lstrip("/").replace("/", ".") for path in _paths(read(VALUES.read_text())[0], "")}
    parts = tuple({path.partition(".")[0] for path in known})
    named = {
        name
        for name in re.findall(r"`([a-z][A-Za-z]+(?:\.[A-Za-z_]+)+)(?::[^`]*)?`", PAGE)
        if name.startswith(parts)
    }
    assert len(named) > 12
    assert named <= known | {"bridge.ingress", "values.yaml"}


def test_the_table_of_a_drain_adds_up_to_what_is_render() -> None:
    manifests = render(OPEN)
    rows = re.findall(r"^\|.*\| (\d+) \| (\d+) \|$", PAGE, re.M)
    *steps, total = [(int(service), int(bridge)) for service, bridge in rows]
    assert tuple(map(sum, zip(*steps, strict=True))) == total
    for grace, component in zip(total, ("service", "bridge"), strict=True):
        pod = the(manifests, "Deployment", component)["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == grace
    assert section(manifests, "service")["drain_grace_s"] == steps[2][0]


def test_examples_of_values_on_the_page_are_values() -> None:
    blocks = re.findall(r"```yaml\n((?:bridge|networkPolicy):.*?)```", PAGE, re.S)
    assert len(blocks) > 1
    for block in blocks:
        render(with_values(OPEN, read(block)[0]))
