"""Directories of cold tiers as `transom cache` finds them: which there are, what lies in them, whether that is sound.

Reads without locking and changes nothing, but for `purge`, which takes the lock.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from transom.cache.cold_file import FINGERPRINT_NAME, remove_leftovers
from transom.cache.cold_format import FORMAT_NAME, ColdFormat, ColdLayout
from transom.cache.file_system import RealFileSystem
from transom.cache.prefix_database import DATABASE_FILES
from transom.cli.options import ModelOptions
from transom.cli.published import Published, count_wrong_blocks, read_published, remove_tenant
from transom.cli.sources import load_registry
from transom.config.engine_config import MIB
from transom.config.registry_config import ModelEntry
from transom.errors import ConfigError

LOCK_NAME = "lock"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class ColdPlace:
    """Where the cold tier of a model lies, or would."""

    model: str
    directory: Path
    max_bytes: int | None
    """Its budget; None where nobody said it."""


@dataclass(frozen=True, slots=True)
class ColdContent:
    """What lies there."""

    place: ColdPlace
    exists: bool
    in_use: bool
    """A server holds the lock."""
    physical_bytes: int
    """Of everything in the directory."""
    cold_files: tuple[str, ...]
    foreign_files: tuple[str, ...]
    """Files that Transom did not make; they count against the budget."""
    problems: tuple[str, ...]
    published: Published | None = None
    """What is there for the next run; None while a server uses it, or where it cannot be told."""


def find_places(config: Path | None, ssd_path: Path | None, model: str | None) -> tuple[ColdPlace, ...]:
    """The places below `ssd_path`, or those of a registry file; of one model alone if it is named.

    Raises `ConfigError` for a model without such a place.
    """
    places = _of_registry(config) if ssd_path is None else _below(ssd_path)
    chosen = tuple(place for place in places if model in (None, place.model))
    if model is not None and not chosen:
        known = ", ".join(place.model for place in places) or "none"
        raise ConfigError(f"no cold tier of a model {model} is known (models with one: {known})")
    return chosen


def find_leftovers(config: Path | None) -> tuple[ColdPlace, ...]:
    """What models that a registry file names no longer have left beside its cold tiers; nothing that a server uses."""
    entries = load_registry(ModelOptions(config=config)).models
    named = {entry.tier_config.ssd_path / entry.id for entry in entries if entry.tier_config.ssd_path is not None}
    return tuple(place for place in _idle_places_beside(entries) if place.directory not in named)


def unclaimed_bytes(entries: Iterable[ModelEntry]) -> int:
    """Physical bytes beside the cold tiers of `entries` that belong to none of them, nor to a running server."""
    entries = tuple(entries)
    claimed = {
        tiers.ssd_path / entry.id
        for entry in entries
        if (tiers := entry.tier_config).ssd_path is not None and tiers.enable_tiering and tiers.max_ssd_mb > 0
    }
    places = (place for place in _idle_places_beside(entries) if place.directory not in claimed)
    return sum(RealFileSystem().physical_bytes(place.directory) for place in places)


def inspect(place: ColdPlace, *, read_blocks: bool = False) -> ColdContent:
    """Reads names, sizes, modes and records; with `read_blocks` all published keys and values, too.

    Raises `OSError` where it may not look.
    """
    directory = place.directory
    if not os.path.lexists(directory):
        return ColdContent(place, False, False, 0, (), (), ())
    if directory.is_symlink() or not directory.is_dir():
        return ColdContent(place, True, False, 0, (), (), (f"{directory} is not a directory",))
    names = sorted(entry.name for entry in directory.iterdir())
    content = ColdContent(
        place=place,
        exists=True,
        in_use=_is_locked(directory),
        physical_bytes=RealFileSystem().physical_bytes(directory),
        cold_files=tuple(name for name in names if ColdLayout.is_file_name(name)),
        foreign_files=tuple(name for name in names if not _is_ours(name)),
        problems=(),
    )
    problems = [*_mode_problems(directory, names), *_format_problems(content), *_budget_problems(content)]
    published = None
    if not content.in_use and not problems:
        try:
            cold_format = ColdFormat.from_json((directory / FORMAT_NAME).read_bytes())
            published = read_published(directory, cold_format)
            problems += _published_problems(directory, cold_format, published, read_blocks)
        except FileNotFoundError:
            published = Published()
        except ConfigError as error:
            problems.append(str(error))
    return replace(content, problems=tuple(problems), published=published)


def purge(place: ColdPlace, tenant: str | None = None) -> int:
    """Removes what a model's servers left, or what of it is one tenant's; the bytes that were given back.

    Raises `ConfigError` when a server uses it, or somebody else's files lie there.
    """
    if not os.path.lexists(place.directory):
        return 0
    file_system = RealFileSystem()
    locked = file_system.prepare_directory(place.directory)
    try:
        before = file_system.physical_bytes(place.directory)
        if tenant is None:
            remove_leftovers(file_system, locked)
            for name in (FORMAT_NAME, FINGERPRINT_NAME):
                file_system.remove(place.directory / name)
        else:
            remove_tenant(file_system, place.directory, tenant)
        return max(0, before - file_system.physical_bytes(place.directory))
    finally:
        locked.close()


def remove(place: ColdPlace) -> int:
    """As `purge`, and removes the directory itself unless somebody else's files lie there."""
    freed = purge(place)
    if [entry.name for entry in place.directory.iterdir()] == [LOCK_NAME]:
        (place.directory / LOCK_NAME).unlink()
        place.directory.rmdir()
    return freed


def _idle_places_beside(entries: Iterable[ModelEntry]) -> Iterator[ColdPlace]:
    """All directories below the entries' `ssd_path` that some server has made, and none uses now."""
    for ssd_path in sorted({path for entry in entries if (path := entry.tier_config.ssd_path) is not None}):
        if ssd_path.is_dir():
            yield from (place for place in _below(ssd_path) if not _is_locked(place.directory))


def _of_registry(config: Path | None) -> tuple[ColdPlace, ...]:
    return tuple(
        ColdPlace(entry.id, tiers.ssd_path / entry.id, tiers.max_ssd_mb * MIB or None)
        for entry in load_registry(ModelOptions(config=config)).models
        if (tiers := entry.tier_config).ssd_path is not None
    )


def _below(ssd_path: Path) -> tuple[ColdPlace, ...]:
    """Directories that a server has made; others are not ours to judge."""
    if not ssd_path.is_dir():
        raise ConfigError(f"{ssd_path} is not a directory")
    directories = sorted(entry for entry in ssd_path.iterdir() if entry.is_dir() and (entry / LOCK_NAME).exists())
    return tuple(ColdPlace(directory.name, directory, None) for directory in directories)


def _is_ours(name: str) -> bool:
    return name in (LOCK_NAME, FORMAT_NAME, FINGERPRINT_NAME, *DATABASE_FILES) or ColdLayout.is_file_name(name)


def _is_locked(directory: Path) -> bool:
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _mode_problems(directory: Path, names: list[str]) -> Iterator[str]:
    for path in (directory, *(directory / name for name in names if _is_ours(name))):
        try:
            status = path.lstat()
        except FileNotFoundError:  # a server has just removed it
            continue
        if path != directory and not stat.S_ISREG(status.st_mode):
            yield f"{path} is not a regular file"
        elif stat.S_IMODE(status.st_mode) & _OTHERS:
            yield f"{path} can be used by others (mode {stat.S_IMODE(status.st_mode):04o})"


def _format_problems(content: ColdContent) -> Iterator[str]:
    directory = content.place.directory
    try:
        raw = (directory / FORMAT_NAME).read_bytes()
        ColdFormat.check(raw, directory)
        layouts = {layout.file_name: layout for layout in ColdFormat.from_json(raw).layouts}
    except FileNotFoundError:
        if content.cold_files:
            yield f"{directory} holds cold files, but no {FORMAT_NAME}"
        return
    except (ConfigError, ValueError) as error:
        yield str(error)
        return
    for name in content.cold_files:
        if name not in layouts:
            yield f"{directory / name} is not named in {FORMAT_NAME}"
        else:
            yield from _size_problems(directory / name, layouts[name].num_bytes)
    if content.in_use:
        yield from (f"{directory / name} is missing" for name in layouts if name not in content.cold_files)


def _size_problems(path: Path, num_bytes: int) -> Iterator[str]:
    with suppress(FileNotFoundError):  # a server has just removed it
        size = path.lstat().st_size
        if size != num_bytes:
            yield f"{path} has {size} bytes, must have {num_bytes}"


def _budget_problems(content: ColdContent) -> Iterator[str]:
    directory, max_bytes = content.place.directory, content.place.max_bytes
    if max_bytes is not None and content.physical_bytes > max_bytes:
        yield f"{directory} takes {content.physical_bytes} bytes on disk, max_ssd_mb allows {max_bytes}"


def _published_problems(
    directory: Path, cold_format: ColdFormat, published: Published, read_blocks: bool
) -> Iterator[str]:
    if published.num_damaged:
        yield f"{directory} holds {published.num_damaged} damaged records; their blocks will not be found"
    if read_blocks and (num_wrong := count_wrong_blocks(directory, cold_format, published)):
        yield (
            f"{directory}: {num_wrong} of {len(published.records)} published blocks are not what was recorded; "
            "they will be computed again"
        )
