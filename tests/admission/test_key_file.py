import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.admission.callers import (
    LARGEST_KEY_FILE,
    Caller,
    KeyFileError,
    KeyRing,
    key_line,
    new_key,
)
from service.admission.key_file import LOOK_EVERY_S, KeyFile, read_key_file
from tests.conftest import FakeClock

OLD, NEW = new_key(), new_key()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(key_line("acme", OLD) + "\n")
    path.chmod(0o600)
    return path


def replace(path: Path, text: str) -> None:
    """Write a file as tools do that never leave half of one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


def overwrite(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("change", [replace, overwrite])
def test_a_changed_file_counts_after_a_second(
    path: Path, clock: FakeClock, change: Callable[[Path, str], None]
) -> None:
    keys = KeyFile(path, clock)
    change(path, "\n" + key_line("acme", NEW) + "\n")
    clock.now += LOOK_EVERY_S / 2
    assert keys.identify(OLD) == Caller("acme")
    assert keys.identify(NEW) is None
    clock.now += LOOK_EVERY_S / 2
    assert keys.identify(NEW) == Caller("acme")
    assert keys.identify(OLD) is None


def test_a_file_is_looked_at_once_a_second_at_most_and_read_only_when_it_changed(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyFile(path, clock)
    looks: list[Path] = []
    reads: list[Path] = []
    stat = Path.stat

    def counting_looks(path: Path) -> os.stat_result:
        looks.append(path)
        return stat(path)

    def counting_reads(path: Path) -> KeyRing:
        reads.append(path)
        return read_key_file(path)

    monkeypatch.setattr(Path, "stat", counting_looks)
    monkeypatch.setattr("service.admission.key_file.read_key_file", counting_reads)
    for _ in range(10):
        clock.now += LOOK_EVERY_S / 4
        keys.identify(OLD)
    assert len(looks) == 2
    assert reads == []


def test_a_broken_version_is_logged_once_and_the_one_before_stays(
    path: Path, clock: FakeClock
) -> None:
    keys = KeyFile(path, clock)
    replace(path, "acme\n")
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += LOOK_EVERY_S
            assert keys.identify(OLD) == Caller("acme")
    (line,) = logs
    assert line["log_level"] == "error"
    assert f"{path}, line 1" in line["why"]
    replace(path, key_line("acme", NEW))
    clock.now += LOOK_EVERY_S
    assert keys.identify(NEW) == Caller("acme")


def test_a_file_that_goes_away_is_logged_once_and_its_keys_stay_until_it_is_back(
    path: Path, clock: FakeClock
) -> None:
    keys = KeyFile(path, clock)
    path.unlink()
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += LOOK_EVERY_S
            assert keys.identify(OLD) == Caller("acme")
    assert [line["log_level"] for line in logs] == ["error"]
    overwrite(path, key_line("acme", NEW))
    clock.now += LOOK_EVERY_S
    assert keys.identify(OLD) is None


def test_taking_the_last_key_away_takes_it_away(path: Path, clock: FakeClock) -> None:
    keys = KeyFile(path, clock)
    replace(path, "")
    clock.now += LOOK_EVERY_S
    with capture_logs() as logs:
        assert keys.identify(OLD) is None
    assert "api_keys_file_has_no_key" in [line["event"] for line in logs]


def test_a_file_that_others_can_write_is_warned_of_and_one_they_can_read_is_not(
    path: Path,
) -> None:
    def warnings(mode: int) -> list[str]:
        path.chmod(mode)
        with capture_logs() as logs:
            KeyFile(path)
        return [line["event"] for line in logs if line["log_level"] == "warning"]

    assert warnings(0o600) == warnings(0o644) == []
    assert warnings(0o620) == warnings(0o602) == ["api_keys_file_writable_by_others"]


def test_the_log_has_no_hash_and_no_key(path: Path, clock: FakeClock) -> None:
    with capture_logs() as logs:
        keys = KeyFile(path, clock)
        keys.identify(NEW)
        overwrite(path, f"acme {NEW}\n")
        clock.now += LOOK_EVERY_S
        keys.identify(NEW)
    assert len(logs) == 2
    assert key_line("acme", OLD).split(":")[1] not in str(logs)
    assert NEW not in str(logs)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(KeyFileError) as error:
            KeyFile(path)
        assert str(error.value).startswith(f"{path}")
        return str(error.value)

    assert "No such file" in refused(tmp_path / "nowhere")
    assert "not a regular file" in refused(tmp_path)
    fifo, binary, large = tmp_path / "fifo", tmp_path / "binary", tmp_path / "large"
    os.mkfifo(fifo)
    assert "not a regular file" in refused(fifo)
    binary.write_bytes(b"acme \xff")
    assert "UTF-8" in refused(binary)
    large.write_bytes(b"#" * (LARGEST_KEY_FILE + 1))
    assert "larger" in refused(large)
