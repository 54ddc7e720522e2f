import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.admission.callers import LARGEST_KEY_FILE, Caller, KeyRing, key_line, new_key
from service.admission.key_file import read_key_file
from tokenstream_cli import keys
from tokenstream_cli.settings import USAGE_ERROR


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


class Run:
    """Runs `tokenstream keys`, and keeps what it wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, command: str, file: Path, *argv: str) -> int:
        status = keys.main([command, "--file", str(file), *argv])
        self.out, self.err = self._capsys.readouterr()
        return status


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def added(run: Run, file: Path, tenant: str) -> str:
    assert run("add", file, tenant) == 0
    (key,) = run.out.splitlines()
    return key


def test_a_new_key_is_all_of_the_output_and_only_its_hash_is_in_the_file(
    run: Run, file: Path
) -> None:
    key = added(run, file, "acme")
    assert read_key_file(file).identify(key) == Caller("acme")
    assert key not in file.read_text()
    assert key not in run.err


def test_a_new_file_is_its_owners_alone(run: Run, file: Path) -> None:
    before = os.umask(0)
    try:
        added(run, file, "acme")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_key_is_added_to_what_is_there_whatever_it_ends_with(run: Run, file: Path) -> None:
    first = new_key()
    for there in (f"# ours\n{key_line('acme', first)}", "# ours\r\n", "# ours\n\n"):
        file.write_bytes(there.encode())
        file.chmod(0o640)
        second = added(run, file, "acme")
        assert file.read_bytes().startswith(there.encode())
        assert read_key_file(file).identify(second) == Caller("acme")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.write_text(key_line("acme", first))
    added(run, file, "other")
    assert read_key_file(file).identify(first) == Caller("acme")


def test_a_link_to_the_file_stays_a_link(run: Run, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    added(run, file, "acme")
    added(run, link, "acme")
    assert link.is_symlink()
    assert read_key_file(file).tenants == {"acme": 2}


def test_a_file_that_root_adds_a_key_to_stays_its_owners(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(run, file, "acme")
    given: list[tuple[int, int]] = []
    really_stat = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        known = really_stat(path, **options)
        if path != file:
            return known
        return os.stat_result([*known[:4], 12345, 12346, *known[6:10]])

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "fchown", lambda _, owner, group: given.append((owner, group)))
    added(run, file, "acme")
    assert given == [(12345, 12346)]


def test_nothing_but_the_file_is_left_in_its_folder(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(run, file, "acme")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    content = file.read_bytes()
    assert run("add", file, "acme") == 1
    assert run.out == ""
    assert "No space left on device" in run.err
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() == content


def test_keys_added_at_the_same_time_are_all_there(file: Path) -> None:
    program = "import sys; from tokenstream_cli.keys import main; sys.exit(main(sys.argv[1:]))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, "add", "acme", "--file", file],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(4)
    ]
    made = [process.communicate()[0].strip() for process in running]
    read = read_key_file(file)
    assert [read.identify(key) for key in made] == [Caller("acme")] * 4


def test_the_list_has_each_tenant_with_its_number_of_keys(run: Run, file: Path) -> None:
    for tenant in ("research", "acme", "research"):
        added(run, file, tenant)
    assert run("list", file) == 0
    assert run.out == "research  2\nacme      1\n"


def test_the_list_of_a_file_without_keys_is_empty(run: Run, file: Path) -> None:
    file.write_text("# nobody yet\n")
    assert run("list", file) == 0
    assert run.out == ""


def test_removing_a_tenant_takes_all_of_its_keys_and_nothing_else(run: Run, file: Path) -> None:
    file.write_text("# ours\n\n")
    one, other, two = (added(run, file, tenant) for tenant in ("acme", "other", "acme"))
    assert run("remove", file, "acme") == 0
    assert run.out == ""
    assert "2 of acme's keys removed" in run.err
    read = read_key_file(file)
    assert [read.identify(key) for key in (one, other, two)] == [None, Caller("other"), None]
    assert file.read_text().startswith("# ours\n\nother ")
    assert run("remove", file, "other") == 0
    assert file.read_text() == "# ours\n\n"


def test_removing_all_but_the_newest_ends_a_change_of_keys(run: Run, file: Path) -> None:
    old, older, new = (added(run, file, "acme") for _ in range(3))
    assert run("remove", file, "acme", "--but-newest") == 0
    read = read_key_file(file)
    assert [read.identify(key) for key in (old, older, new)] == [None, None, Caller("acme")]


@pytest.mark.parametrize("command", ["add", "list", "remove"])
def test_a_broken_file_is_told_with_its_line_and_left_as_it_is(
    run: Run, file: Path, command: str
) -> None:
    file.write_text("# ours\nacme\n")
    assert run(command, file, *(() if command == "list" else ("acme",))) == 1
    assert run.out == ""
    assert run.err.startswith(f"tokenstream keys: {file}, line 2: ")
    assert file.read_text() == "# ours\nacme\n"


@pytest.mark.parametrize("command", ["list", "remove"])
def test_a_file_that_is_not_there_is_told_and_not_made(run: Run, file: Path, command: str) -> None:
    assert run(command, file, *(() if command == "list" else ("acme",))) == 1
    assert run.err == f"tokenstream keys: {file}: No such file or directory\n"
    assert not file.exists()


def test_a_folder_that_is_not_there_is_told(run: Run, tmp_path: Path) -> None:
    assert run("add", tmp_path / "no" / "keys.txt", "acme") == 1
    assert run.err == f"tokenstream keys: {tmp_path / 'no'}: No such file or directory\n"


def test_a_bad_tenant_is_refused_and_no_key_is_made(run: Run, file: Path) -> None:
    assert run("add", file, "Acme Inc") == 1
    assert run.out == ""
    assert "a tenant's name is" in run.err
    assert not file.exists()


def test_a_tenant_without_keys_cannot_be_removed(run: Run, file: Path) -> None:
    added(run, file, "acme")
    assert run("remove", file, "other") == 1
    assert "no key of 'other'" in run.err


def test_a_full_file_takes_no_more_keys(run: Run, file: Path) -> None:
    full = "#" * (LARGEST_KEY_FILE - 1) + "\n"
    file.write_text(full)
    assert run("add", file, "acme") == 1
    assert run.out == ""
    assert "larger than" in run.err
    assert file.read_text() == full


@pytest.mark.parametrize("argv", [[], ["ad"], ["add"], ["add", "acme"], ["list"]])
def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert keys.main(argv) == USAGE_ERROR
    out, err = capsys.readouterr()
    assert "tokenstream keys" in out + err


def test_what_is_written_is_what_the_service_reads(run: Run, file: Path) -> None:
    added(run, file, "acme")
    (line,) = file.read_text().splitlines()
    assert KeyRing.parse(line, "x").tenants == {"acme": 1}
    assert "  # made 20" in line
