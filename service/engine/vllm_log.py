"""vLLM's log, in all of its processes: where it goes, and why a start failed.

vLLM reports a failed start to us as "see above". So its processes also write their errors to a
file, by the logging configuration that vLLM reads from `VLLM_LOGGING_CONFIG_PATH`; the first
exception in there is the root cause. An operator's own such configuration is left alone.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

_EXCEPTION_LINE = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.+)$", re.M)
_FILE_BYTES = 1_000_000


class EngineLog:
    """One engine's log. The file is bounded: past `_FILE_BYTES` it starts anew, once kept."""

    def __init__(self, level: str) -> None:
        self._level = level.upper()
        self._folder: Path | None = None

    def install(self) -> None:
        """Set the environment that vLLM's processes are started with; before vLLM's import."""
        if "VLLM_LOGGING_CONFIG_PATH" not in os.environ:
            self._folder = Path(tempfile.mkdtemp(prefix="tokenstream-"))
            config = self._folder / "logging.json"
            config.write_text(json.dumps(_logging_config(self._level, str(self._errors))))
            os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(config)

    def remove(self) -> None:
        """Take the files away, once vLLM's processes have ended."""
        if self._folder is not None:
            os.environ.pop("VLLM_LOGGING_CONFIG_PATH", None)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @property
    def _errors(self) -> Path:
        assert self._folder is not None
        return self._folder / "errors.log"

    def has_given_up(self) -> bool:
        """Whether vLLM said that its engine process failed to start."""
        return "EngineCore failed to start" in self._read()

    def root_cause(self) -> str | None:
        """The first exception that was logged, in one line; None if there was none."""
        found = _EXCEPTION_LINE.search(self._read())
        return None if found is None else found[2].strip()

    def _read(self) -> str:
        if self._folder is None or not self._errors.is_file():
            return ""
        return self._errors.read_text(errors="replace")


def _logging_config(level: str, error_file: str) -> dict[str, object]:
    """A `logging.config.dictConfig`: everything to standard error, errors to the file as well."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "vllm": {
                "()": "vllm.logging_utils.NewLineFormatter",
                "datefmt": "%m-%d %H:%M:%S",
                "format": "%(asctime)s %(levelname)s (%(vllm_process_name)s) %(message)s",
                "log_level": level,
            },
            "bare": {"format": "%(message)s"},
        },
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "formatter": "vllm",
                "level": level,
                "stream": "ext://sys.stderr",
            },
            "errors": {
                "class": "logging.handlers.RotatingFileHandler",
                "maxBytes": _FILE_BYTES,
                "backupCount": 1,
                "formatter": "bare",
                "level": "ERROR",
                "filename": error_file,
            },
        },
        "loggers": {
            "vllm": {"handlers": ["console", "errors"], "level": level, "propagate": False}
        },
    }
