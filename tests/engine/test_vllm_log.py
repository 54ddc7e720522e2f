import os
from pathlib import Path

import pytest

from service.engine.vllm_log import EngineLog

FAILED = """\
WorkerProc failed to start.
Traceback (most recent call last):
  File "worker.py", line 1, in <module>
    raise ValueError(
ValueError: Available memory is less than desired. To resolve: use less.
EngineCore failed to start.
Traceback (most recent call last):
Exception: WorkerProc initialization failed due to an exception in a background process.
"""


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH", raising=False)


def errors_file() -> Path:
    return Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).with_name("errors.log")


def test_the_first_exception_is_the_root_cause() -> None:
    log = EngineLog("error")
    log.install()
    errors_file().write_text(FAILED)

    assert log.root_cause() == "Available memory is less than desired. To resolve: use less."
    assert log.has_given_up()
    log.remove()


def test_without_an_exception_there_is_no_cause() -> None:
    log = EngineLog("error")
    assert log.root_cause() is None
    log.install()
    assert log.root_cause() is None
    errors_file().write_text("something went wrong\n")
    assert log.root_cause() is None
    assert not log.has_given_up()
    log.remove()


def test_its_files_and_its_setting_go_with_it() -> None:
    log = EngineLog("error")
    log.install()
    folder = errors_file().parent
    assert folder.is_dir()

    log.remove()

    assert not folder.exists()
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ


def test_an_operators_own_configuration_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "/theirs.json")
    log = EngineLog("error")
    log.install()
    log.remove()
    assert os.environ["VLLM_LOGGING_CONFIG_PATH"] == "/theirs.json"
