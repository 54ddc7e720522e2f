import os

import pytest


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the chart sets counts."""
    for name in os.environ:
        if name.upper().startswith("TOKENSTREAM_"):
            monkeypatch.delenv(name)
