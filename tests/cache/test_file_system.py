"""The seam to the disk: whose directory it is, what is refused in one line, what is measured and given back."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from transom.cache.file_system import PAGE_BYTES, OpenFile, RealFileSystem
from transom.errors import ConfigError
from transom.kernels import IOFault


@pytest.fixture
def file_system() -> RealFileSystem:
    return RealFileSystem()


@pytest.fixture
def cold_file(tmp_path: Path, file_system: RealFileSystem) -> Iterator[OpenFile]:
    with closing(file_system.open_cold_file(tmp_path / "cold-full.kv", 100 * PAGE_BYTES)) as file:
        yield file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_a_missing_directory_is_made_with_its_parents_and_for_us_alone(
    tmp_path: Path, file_system: RealFileSystem
) -> None:
    path = tmp_path / "some" / "where" / "model"
    with closing(file_system.prepare_directory(path)):
        assert mode_of(path) == 0o700
        assert mode_of(path / "lock") == 0o600


def test_a_directory_that_others_could_read_is_closed_to_them(tmp_path: Path, file_system: RealFileSystem) -> None:
    path = tmp_path / "model"
    path.mkdir(mode=0o755)
    with closing(file_system.prepare_directory(path)):
        assert mode_of(path) == 0o700


def test_a_second_server_is_refused_until_the_first_is_gone(tmp_path: Path, file_system: RealFileSystem) -> None:
    path = tmp_path / "model"
    first = file_system.prepare_directory(path)
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"ssd_path {path} is locked by another server"):
            file_system.prepare_directory(path)
    first.close()
    file_system.prepare_directory(path).close()


def test_a_server_that_was_killed_leaves_no_lock(tmp_path: Path, file_system: RealFileSystem) -> None:
    path = tmp_path / "model"
    program = (
        "import sys, time, pathlib; from transom.cache.file_system import RealFileSystem\n"
        "RealFileSystem().prepare_directory(pathlib.Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match="locked"):
            file_system.prepare_directory(path)
        other.send_signal(signal.SIGKILL)
        other.wait(10)
    file_system.prepare_directory(path).close()


@pytest.mark.parametrize("below", ["", "model", "model/deeper"])
def test_a_file_in_the_place_of_the_directory_is_said_in_one_line(
    tmp_path: Path, file_system: RealFileSystem, below: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"something")
    with pytest.raises(ConfigError) as caught:
        file_system.prepare_directory(file / below)
    assert str(caught.value) == f"ssd_path {file} is a file, must be a directory"
    assert file.read_bytes() == b"something"


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_symbolic_link_to_a_directory_is_refused(tmp_path: Path, file_system: RealFileSystem, target: str) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    link = tmp_path / "model"
    link.symlink_to(tmp_path / target)
    with pytest.raises(ConfigError, match=f"ssd_path {link} is a symbolic link, must be a directory"):
        file_system.prepare_directory(link)
    assert mode_of(tmp_path / "elsewhere") == 0o755


def test_a_place_where_nothing_can_be_written_is_said_in_one_line(file_system: RealFileSystem) -> None:
    if not Path("/sys/kernel").is_dir():
        pytest.skip("needs /sys, where nobody can make directories")
    with pytest.raises(ConfigError) as caught:
        file_system.prepare_directory(Path("/sys/kernel/transom"))
    assert str(caught.value).startswith("ssd_path /sys/kernel/transom is not writable: ")
    assert "\n" not in str(caught.value)


def test_another_user_s_directory_is_refused(tmp_path: Path, file_system: RealFileSystem) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of other users")
    path = tmp_path / "model"
    path.mkdir()
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        file_system.prepare_directory(path)
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("name", ["lock", "cold-full.kv", "format.json"])
@pytest.mark.parametrize("trap", ["link", "hard link", "fifo", "directory"])
def test_files_that_are_not_plainly_ours_are_not_touched(
    tmp_path: Path, file_system: RealFileSystem, name: str, trap: str
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "model" / name
    path.parent.mkdir()
    victim.write_bytes(b"precious")
    victim.chmod(0o644)
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(victim),
        "hard link": lambda: path.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
    }
    touch: dict[str, Callable[[], object]] = {
        "lock": lambda: file_system.prepare_directory(path.parent),
        "cold-full.kv": lambda: file_system.open_cold_file(path, PAGE_BYTES),
        "format.json": lambda: file_system.read(path),
    }
    make[trap]()
    before = open_descriptors()
    with pytest.raises(ConfigError, match=r"^ssd_path .*model[^\n]*$"):
        touch[name]()
    assert victim.read_bytes() == b"precious" and mode_of(victim) == 0o644
    assert open_descriptors() == before


def test_a_cold_file_is_sparse_zeros_for_us_alone(tmp_path: Path, file_system: RealFileSystem) -> None:
    path = tmp_path / "cold-full.kv"
    path.write_bytes(b"left by an earlier run" * 10_000)
    path.chmod(0o666)
    with closing(file_system.open_cold_file(path, 1 << 40)) as file:
        assert mode_of(path) == 0o600
        assert path.stat().st_size == 1 << 40
        assert path.stat().st_blocks == 0
        assert os.pread(file.descriptor, 0, 0) == b""
        with path.open("rb") as again:
            assert again.read(1 << 16) == bytes(1 << 16)


def test_direct_io_is_used_where_it_works_and_said(cold_file: OpenFile) -> None:
    flags = fcntl.fcntl(cold_file.descriptor, fcntl.F_GETFL)
    assert cold_file.is_direct == bool(flags & os.O_DIRECT)


def test_a_file_system_without_direct_io_falls_back_visibly(tmp_path: Path) -> None:
    with closing(RealFileSystem(direct_io=False).open_cold_file(tmp_path / "cold-full.kv", PAGE_BYTES)) as file:
        assert not file.is_direct
        assert not fcntl.fcntl(file.descriptor, fcntl.F_GETFL) & os.O_DIRECT
        assert os.pwrite(file.descriptor, b"odd", 1) == 3


def test_a_size_that_no_file_can_have_is_said_in_one_line(tmp_path: Path, file_system: RealFileSystem) -> None:
    before = open_descriptors()
    with pytest.raises(ConfigError, match=r"^ssd_path .* file of \d+ MiB .* max_ssd_mb [^\n]+$") as refusal:
        file_system.open_cold_file(tmp_path / "cold-full.kv", 2**63 - 1)
    assert open_descriptors() == before
    [largest] = re.findall(r"at most (\d+) MiB", str(refusal.value))
    file_system.open_cold_file(tmp_path / "cold-full.kv", int(largest) * 2**20).close()


def test_the_limit_of_the_process_for_files_is_said_in_one_line(tmp_path: Path, file_system: RealFileSystem) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * 2**20, before[1]))
    try:
        with pytest.raises(ConfigError, match=r"file of 100 MiB .* at most 20 MiB .*ulimit -f"):
            file_system.open_cold_file(tmp_path / "cold-full.kv", 100 * 2**20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_small_files_are_replaced_as_a_whole(tmp_path: Path, file_system: RealFileSystem) -> None:
    path = tmp_path / "format.json"
    assert file_system.read(path) is None
    (tmp_path / "format.json.tmp").symlink_to(tmp_path / "victim")
    for content in (b"one", b"two, longer", b""):
        file_system.replace(path, content)
        assert file_system.read(path) == content
        assert mode_of(path) == 0o600
    assert file_system.names(tmp_path) == ["format.json"]


def test_removing_takes_the_link_and_not_its_target(tmp_path: Path, file_system: RealFileSystem) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    file_system.remove(tmp_path / "link")
    file_system.remove(tmp_path / "link")
    assert file_system.names(tmp_path) == ["target"]


def test_names_of_a_directory_that_is_gone_are_an_error(tmp_path: Path, file_system: RealFileSystem) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        file_system.names(tmp_path / "gone")


def test_physical_bytes_count_everything_once_and_no_holes(tmp_path: Path, file_system: RealFileSystem) -> None:
    path = tmp_path / "model"
    (path / "below").mkdir(parents=True)
    empty = file_system.physical_bytes(path)
    (path / "sparse").write_bytes(b"")
    os.truncate(path / "sparse", 1 << 30)
    (path / "data").write_bytes(os.urandom(100_000))
    (path / "below" / "data").write_bytes(os.urandom(50_000))
    (path / "same").hardlink_to(path / "data")
    (path / "link").symlink_to("/")
    os.sync()
    expected = subprocess.run(["du", "-s", "-B1", path], capture_output=True, check=True, text=True).stdout
    assert file_system.physical_bytes(path) == int(expected.split()[0])
    assert file_system.physical_bytes(path) - empty >= 150_000


def test_physical_bytes_of_a_directory_that_is_gone_are_an_error(tmp_path: Path, file_system: RealFileSystem) -> None:
    with pytest.raises(FileNotFoundError):
        file_system.physical_bytes(tmp_path / "gone")


def test_a_punched_hole_lowers_the_physical_bytes(
    tmp_path: Path, file_system: RealFileSystem, cold_file: OpenFile
) -> None:
    before = file_system.physical_bytes(tmp_path)
    with cold_file.path.open("r+b") as file:
        file.write(os.urandom(64 * PAGE_BYTES))
        os.fsync(file.fileno())
    assert file_system.physical_bytes(tmp_path) >= before + 64 * PAGE_BYTES
    file_system.punch(cold_file, 0, 64 * PAGE_BYTES)
    assert file_system.physical_bytes(tmp_path) <= before + PAGE_BYTES
    assert cold_file.path.stat().st_size == 100 * PAGE_BYTES


def test_faults_count_reads_writes_and_punches_together(cold_file: OpenFile) -> None:
    fault = IOFault(2, "EIO")
    file_system = RealFileSystem(fault)
    file_system.punch(cold_file, 0, PAGE_BYTES)
    with pytest.raises(OSError, match="Input/output error"):
        file_system.punch(cold_file, 0, PAGE_BYTES)
    assert fault.num_calls == 2


# ---- what outlives a run


@pytest.mark.parametrize("direct_io", [True, False])
def test_a_kept_file_has_its_bytes_and_is_as_large_as_before(tmp_path: Path, direct_io: bool) -> None:
    file_system, path = RealFileSystem(direct_io=direct_io), tmp_path / "cold-full.kv"
    first = file_system.open_cold_file(path, 8 * PAGE_BYTES)
    with path.open("r+b") as file:
        file.seek(5 * PAGE_BYTES)
        file.write(b"precious")
    file_system.sync(first)
    first.close()
    with closing(file_system.open_cold_file(path, 8 * PAGE_BYTES, keep=True)) as second:
        assert second.is_direct == first.is_direct
    content = path.read_bytes()
    assert (len(content), content.strip(b"\0")) == (8 * PAGE_BYTES, b"precious")
    assert file_system.file_size(path) == 8 * PAGE_BYTES
    assert PAGE_BYTES <= file_system.file_bytes(path) <= 2 * PAGE_BYTES


def test_a_file_that_is_not_there_has_no_size_and_takes_nothing(tmp_path: Path, file_system: RealFileSystem) -> None:
    assert file_system.file_size(tmp_path / "nowhere") is None
    assert file_system.file_size(tmp_path) is None
    assert file_system.file_bytes(tmp_path / "nowhere") == 0


def test_a_database_is_for_us_alone_and_no_link(tmp_path: Path, file_system: RealFileSystem) -> None:
    path = tmp_path / "prefix.sqlite"
    with closing(file_system.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert mode_of(path) == 0o600
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="symbolic link"):
        file_system.connect(path)
    assert not (tmp_path / "elsewhere").exists()
