"""`pull`: a whole model from a hub, or nothing. Owns the lock, the check of free space, and the last step: one rename.

What a pull that was stopped has fetched stays in the store's staging directory; the next one goes on from there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from transom.config.json_file import read_json_object
from transom.errors import ConfigError, HubError
from transom.hub.download import Sleep, download, partial_path
from transom.hub.file_choice import Choice, HubFile, choose_files
from transom.hub.model_reference import ModelReference
from transom.hub.model_store import ModelStore, check_name
from transom.hub.repository import Hub

ORIGIN_FILE = "transom-pull.json"
"""In each pulled model: where it comes from."""
_SPARE_BYTES = 16 * 2**20


class PullWatcher(Protocol):
    """Who is told how a pull goes on."""

    def begins(self, name: str, commit: str, choice: Choice) -> None:
        """It is known what is to be fetched."""
        ...

    def advances(self, file: HubFile, num_bytes: int) -> None:
        """So much of a file is here."""
        ...


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is here."""

    name: str
    directory: Path
    commit: str
    was_there: bool
    """It was, and nothing was fetched."""


def pull(
    reference: ModelReference,
    hub: Hub,
    store: ModelStore,
    watcher: PullWatcher,
    *,
    name: str | None = None,
    sleep: Sleep = time.sleep,
) -> Pulled:
    """Fetches a model; one that is there already in the same revision is left alone, in another one it is replaced.

    Blocks. Raises `HubError`, `ConfigError` for a name that cannot be or that another model has, OSError.
    """
    commit, files = hub.list_files(reference)
    choice = choose_files(reference, files)
    name = choice.name if name is None else check_name(name)
    with _only_one(store, name):
        home = store.home(name)
        if home.exists() or home.is_symlink():
            origin = _origin_of(home)
            if origin.get("repository") != reference.repository:
                raise ConfigError(f"{home} is there already, and is not {reference.repository}; give --name another")
            if origin.get("commit") == commit and origin.get("files") == _described(choice):
                return Pulled(name, home, commit, was_there=True)
        watcher.begins(name, commit, choice)
        _fetch(reference, commit, choice, hub, store.staging(name), watcher, sleep)
        _finish(reference, commit, choice, store, name)
    return Pulled(name, home, commit, was_there=False)


def _fetch(
    reference: ModelReference,
    commit: str,
    choice: Choice,
    hub: Hub,
    staging: Path,
    watcher: PullWatcher,
    sleep: Sleep,
) -> None:
    staging.mkdir(parents=True, exist_ok=True)
    places = {staging / place: file for file, place in choice.files}
    _remove_others(staging, places)
    _check_space(staging, places)
    for target, file in places.items():
        target.parent.mkdir(exist_ok=True)
        fetch = partial(hub.reading, reference, commit, file)
        download(file, target, fetch, partial(watcher.advances, file), sleep)


def _remove_others(staging: Path, places: dict[Path, HubFile]) -> None:
    """What another choice or revision left behind."""
    kept = set(places) | {partial_path(target, file) for target, file in places.items()}
    for path in sorted(staging.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # it holds something that is kept
                path.rmdir()
        elif path not in kept:
            path.unlink()


def _check_space(staging: Path, places: dict[Path, HubFile]) -> None:
    """Raises `HubError` before a byte is fetched in vain."""
    here = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed = sum(file.size for file in places.values()) - here
    free = shutil.disk_usage(staging).free
    if needed > 0 and needed + _SPARE_BYTES > free:
        raise HubError(f"{needed} bytes are to be fetched, and {staging.parent.parent} has room for {free}")


def _finish(reference: ModelReference, commit: str, choice: Choice, store: ModelStore, name: str) -> None:
    """The model takes its place, an older one gives it up."""
    staging, home, outdated = store.staging(name), store.home(name), store.outdated(name)
    origin = {"repository": reference.repository, "commit": commit, "files": _described(choice)}
    _write(staging / ORIGIN_FILE, json.dumps(origin, indent=2) + "\n")
    for directory in (path for path in staging.rglob("*") if path.is_dir()):
        _sync_directory(directory)
    _sync_directory(staging)
    if home.exists():
        shutil.rmtree(outdated, ignore_errors=True)
        home.rename(outdated)
    staging.rename(home)
    _sync_directory(store.root)
    shutil.rmtree(outdated, ignore_errors=True)


def _described(choice: Choice) -> dict[str, str]:
    return {place: file.sha256 or file.git_sha1 or "" for file, place in choice.files}


def _origin_of(home: Path) -> dict[str, object]:
    """What a directory says of where it comes from; nothing where it is no pulled model."""
    try:
        return read_json_object(home / ORIGIN_FILE)
    except ConfigError:
        return {}


@contextmanager
def _only_one(store: ModelStore, name: str) -> Generator[None]:
    """Raises `HubError` while another process pulls the same model."""
    path = store.lock(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HubError(f"{store.root} cannot hold models: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise HubError(f"{name} is being pulled by another process") from None
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
