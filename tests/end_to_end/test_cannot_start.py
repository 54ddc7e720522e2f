"""An engine that cannot start ends the process with one clear line and a status of its own."""

import os
import subprocess
import sys

import pytest

from service.app import ExitStatus

SERVE = (sys.executable, "-m", "tokenstream_cli.main", "serve")

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["--engine-args", '{"max_modl_len": 5}'], "did you mean 'max_model_len'?"),
        # Refused in this process, by vLLM's configuration.
        (["--engine-args", '{"max_model_len": 100000}'], "max_model_len"),
        # Fails in the engine process, after the weights are loaded.
        (["--engine-args", '{"kv_cache_memory_bytes": 4096}'], "cache blocks"),
    ],
    ids=["no model", "misspelt argument", "refused argument", "engine process fails"],
)
def test_the_last_line_says_why(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [*SERVE, "--listen", "127.0.0.1:0", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        # As a user's shell has it: an engine in this process may have set vLLM's variables.
        env={name: value for name, value in os.environ.items() if not name.startswith("VLLM_")},
    )

    assert done.returncode == ExitStatus.CANNOT_START
    last = done.stderr.rstrip().rpartition("\n")[2]
    assert last.startswith("tokenstream serve: ")
    assert words in last
