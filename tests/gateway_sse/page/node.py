"""Runs modules of the page, and clients' ones, in Node."""

import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "gateway_sse/page"
CLIENTS = ROOT / "tests/clients_node"
"""Has the clients' packages; scripts/node-clients installs them."""


def run_module(script: str, given: Any = None) -> Any:
    """Run a module that calls `tell(value)`, and has `given`; return what it told.

    It can import the page's modules as "page/…", and clients' packages by their names.
    """
    program = (
        f"const given = {json.dumps(given)};\n"
        "const tell = (value) => process.stdout.write(JSON.stringify(value));\n"
        + script.replace('"page/', f'"{PAGE.as_uri()}/')
    )
    done = subprocess.run(
        ["node", "--input-type=module", "--experimental-default-type=module", "-"],
        input=program,
        cwd=CLIENTS,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
