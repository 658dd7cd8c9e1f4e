"""What `transom doctor` looks at, one function for each thing. Reads what the system tells; changes nothing."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from transom import kernels
from transom.cli.banner import size_text
from transom.cli.measured_machine import processor_name
from transom.engine.disk_speed import MAX_FILE_BYTES, measure_disk, nearest_directory
from transom.engine.machine_speed import measure_memory
from transom.errors import TransomError
from transom.kernels import _native

__all__ = ["Finding", "Verdict", "findings"]

GIB = 2**30

_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8")
_PIECES = (65536, 131072, 262144, 524288)
_DISK_SECONDS = 0.4
_SLOW_MEMORY = 5e9
_SLOW_DISK = 200e6
_FEW_FILES = 1024
_LEAST_FILES = 128
_NO_DISKS = ("tmpfs", "ramfs")
_NETWORKS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph")


class Verdict(StrEnum):
    """What a finding means."""

    OK = "ok"
    NOTE = "note"
    """It works, and could be better."""
    PROBLEM = "problem"
    """It keeps Transom from serving, or from what was asked about."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""
    """What to do, unless all is well."""


def findings(path: Path, port: int) -> Iterator[Finding]:
    """All of them, in order, each as soon as it is known; some are measured for up to a second."""
    yield _processor()
    yield _threads()
    yield _memory()
    yield _memory_speed()
    yield _huge_pages()
    yield from _limits()
    yield _python()
    yield _native_module()
    yield _packages()
    yield _file_system(path)
    yield from _disk(path)
    yield _port(port)


def _ok(name: str, text: str) -> Finding:
    return Finding(name, Verdict.OK, text)


def _read(path: str) -> str:
    """Empty where the system has no such file."""
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""


# ---- Processor and memory ------------------------------------------------------------------------------------------


def _processor() -> Finding:
    flags = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags")), "")
    known = set(flags.split())
    features = [name for name in _FEATURES if name in known] or ["none of those that kernels use"]
    text = f"{processor_name()}; {', '.join(features)}; kernels take {kernels.best_isa()}"
    if kernels.best_isa() == "portable":
        return Finding("processor", Verdict.NOTE, text, "without AVX2 everything is several times as slow")
    return _ok("processor", text)


def _threads() -> Finding:
    usable, cores = len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False) or os.cpu_count()
    text = f"{usable} threads are used, of {os.cpu_count()} on {cores} cores"
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(quota) < usable * int(period):
        share = int(quota) / int(period)
        advice = f"this container may use {share:.3g} processors: --threads {max(1, int(share))}"
        return Finding("threads", Verdict.NOTE, text, advice)
    return _ok("threads", text)


def _memory() -> Finding:
    memory, text = psutil.virtual_memory(), ""
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and int(limit) < memory.total:
        text = f"; this container may use {size_text(int(limit))}"
    text = f"{size_text(memory.total)}, of which {size_text(memory.available)} are free{text}"
    if memory.available < GIB:
        return Finding("memory", Verdict.NOTE, text, "only small models fit; transom plan MODEL says which")
    return _ok("memory", text)


def _memory_speed() -> Finding:
    try:
        rate = measure_memory()
    except MemoryError:
        return Finding("memory speed", Verdict.NOTE, "not enough free memory to measure it", "end other programs")
    text = (
        f"{rate / 1e9:.1f} GB/s are read by all threads: a token of a model of 1 GB takes {1e12 / rate:.0f} ms or more"
    )
    if rate < _SLOW_MEMORY:
        return Finding("memory speed", Verdict.NOTE, text, "decoding is bound by it; are other programs busy?")
    return _ok("memory speed", text)


def _huge_pages() -> Finding:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    match = re.search(r"\[(\w+)\]", _read(path))
    if match is None:
        return Finding("huge pages", Verdict.NOTE, "the system does not tell", "weights in small pages are read slower")
    if match[1] == "never":
        advice = f"as root: echo madvise > {path} (weights in small pages are read slower)"
        return Finding("huge pages", Verdict.NOTE, "switched off", advice)
    return _ok("huge pages", match[1])


# ---- Limits of this process ----------------------------------------------------------------------------------------


def _limits() -> Iterator[Finding]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY or files >= _FEW_FILES:
        yield _ok("open files", _limit_text(files, 1, ""))
    else:
        verdict = Verdict.PROBLEM if files < _LEAST_FILES else Verdict.NOTE
        yield Finding("open files", verdict, str(files), f"ulimit -n {_FEW_FILES}: every connection is one")
    yield _ok(
        "locked memory", f"{_limit_text(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], 1, ' bytes')}; not needed"
    )
    for name, limit, flag in (("address space", resource.RLIMIT_AS, "-v"), ("file size", resource.RLIMIT_FSIZE, "-f")):
        soft = resource.getrlimit(limit)[0]
        if soft == resource.RLIM_INFINITY:
            yield _ok(name, "unlimited")
        else:
            advice = f"ulimit {flag} unlimited, or models and cold tiers may not fit"
            yield Finding(name, Verdict.NOTE, size_text(soft), advice)


def _limit_text(limit: int, unit: int, words: str) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit // unit}{words}"


# ---- The installation ----------------------------------------------------------------------------------------------


def _python() -> Finding:
    return _ok("python", f"{platform.python_implementation()} {platform.python_version()} in {sys.prefix}")


def _native_module() -> Finding:
    path = Path(_native.__file__ or "")
    compilers = sorted({match.decode() for match in re.findall(rb"(?:GCC: |clang version )[ -~]{3,60}", _bytes(path))})
    return _ok("kernels", f"{path.name}, by {', '.join(compilers) or 'a compiler that left no name'}")


def _bytes(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _packages() -> Finding:
    names = [re.split(r"[^\w.-]", line)[0] for line in requires("transom") or () if "extra ==" not in line]
    versions, missing = [f"transom {version('transom')}"], []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        advice = "install Transom again: pip install --force-reinstall THE.whl, or make serve in a checkout"
        return Finding("packages", Verdict.PROBLEM, f"missing: {', '.join(missing)}", advice)
    return _ok("packages", ", ".join(versions))


# ---- The cold tier's disk ------------------------------------------------------------------------------------------


def _file_system(path: Path) -> Finding:
    try:
        place = nearest_directory(path)
        kind, free = _kind_of(place), shutil.disk_usage(place).free
    except OSError as error:
        return Finding("file system", Verdict.PROBLEM, f"{path}: {error.strerror}", "--path DIR of another disk")
    text = f"{kind} under {place}, {size_text(free)} free"
    if kind in _NO_DISKS:
        return Finding("file system", Verdict.NOTE, text, "this is memory, not a disk: --path DIR on an SSD")
    if kind in _NETWORKS:
        return Finding("file system", Verdict.NOTE, text, "a disk of this machine is faster: --path DIR")
    if free < GIB:
        return Finding("file system", Verdict.NOTE, text, "too full for KV on SSD to be of use")
    return _ok("file system", text)


def _kind_of(place: Path) -> str:
    """By the last mount that is above the place."""
    mounts = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mounts[before.split()[4].replace("\\040", " ")] = after.split()[0]
    place = place.resolve()
    return next((mounts[str(each)] for each in (place, *place.parents) if str(each) in mounts), "unknown")


def _disk(path: Path) -> Iterator[Finding]:
    try:
        num_bytes = min(MAX_FILE_BYTES, shutil.disk_usage(nearest_directory(path)).free // 4)
        speed = measure_disk(path, _PIECES, num_bytes=max(_PIECES[-1], num_bytes), seconds=_DISK_SECONDS)
    except (TransomError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        yield Finding("disk", Verdict.PROBLEM, f"{path.absolute()}: {reason}", "--path DIR that can be written to")
        return
    if speed.is_direct:
        yield _ok("direct I/O", "yes (O_DIRECT)")
    else:
        advice = "bytes go through the page cache, which takes memory and time; other file systems can do it"
        yield Finding("direct I/O", Verdict.NOTE, "no", advice)
    if speed.punches_holes:
        yield _ok("punching holes", "yes: space of files is given back piece by piece")
    else:
        yield Finding("punching holes", Verdict.NOTE, "no", "space on SSD is given back only at the end of a run")
    pieces = ", ".join(f"{rate / 1e6:.0f} by {size_text(size)}" for size, rate in speed.random_bytes_per_second.items())
    text = (
        f"reads {speed.read_bytes_per_second / 1e6:.0f} MB/s in order; at random {pieces}; "
        f"writes {speed.write_bytes_per_second / 1e6:.0f}"
    )
    if speed.random_bytes_per_second[_PIECES[1]] < _SLOW_DISK:
        yield Finding(
            "disk speed", Verdict.NOTE, text, "KV on such a disk is slow to attend to; an SSD gives 1000 or more"
        )
    else:
        yield _ok("disk speed", text)


# ---- The network ---------------------------------------------------------------------------------------------------


def _port(port: int) -> Finding:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1)
        except OSError as error:
            text = f"{port}: {error.strerror}{_holder(port)}"
            return Finding("port", Verdict.PROBLEM, text, "end that program, or serve with another --port")
    return _ok("port", f"{port} is free")


def _holder(port: int) -> str:
    """Who listens there, as far as one may know."""
    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
                return f" (process {each.pid}, {psutil.Process(each.pid).name()})"
    return " (by another user's process)"
