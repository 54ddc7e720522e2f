import json
from collections.abc import Iterator

import pytest
import structlog

from service.telemetry import logging


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_json_lines_have_an_event_a_level_and_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("json", "info")
    structlog.get_logger().info("request_ended", outcome="stop")
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert out == ""
    assert (line["event"], line["level"], line["outcome"]) == ("request_ended", "info", "stop")
    assert line["timestamp"].endswith("Z")


def test_a_json_line_of_a_failure_holds_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("json", "info")
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("request_failed")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["exception"][0]["exc_type"] == "ValueError"


@pytest.mark.parametrize("form", ["console", "json"])
def test_lines_below_the_level_are_not_written(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.configure("json" if form == "json" else "console", "warning")
    log = structlog.get_logger()
    log.info("not_this")
    log.warning("but_this")
    err = capsys.readouterr().err
    assert "not_this" not in err
    assert "but_this" in err


@pytest.mark.parametrize("form", ["console", "json"])
def test_what_a_caller_wrote_cannot_steer_the_terminal_or_forge_a_line(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.configure("json" if form == "json" else "console", "info")
    structlog.get_logger().info("request_ended", client_request_id="\x1b[2J\x07mine\nforged")
    err = capsys.readouterr().err
    assert "mine" in err
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err
    assert "\x07" not in err


def test_a_terminal_sequence_without_a_space_is_shown_too_not_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.configure("console", "info")
    structlog.get_logger().info("request_ended", client_request_id="\x1b[2Jmine")
    assert "\x1b" not in capsys.readouterr().err
