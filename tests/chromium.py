"""The Chromium that tests drive: Debian's."""

import os
from pathlib import Path
from typing import Final

import pytest

ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
)


def chromium() -> str:
    """Return its path."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        for folder in os.environ["PATH"].split(os.pathsep):
            if (path := Path(folder) / name).is_file():
                return str(path)
    pytest.fail("no Chromium found; scripts/test-tools installs it")
