"""A model from a hub, whole or not at all: dropped connections, wrong bytes, full disks, refusals, two at once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.hub.fake_hub import COMMIT, REPOSITORY, FakeHub, running
from transom.errors import ConfigError, HubError
from transom.hub.file_choice import Choice, HubFile
from transom.hub.model_reference import ModelReference
from transom.hub.model_store import ModelStore
from transom.hub.pull import Pulled, pull
from transom.hub.repository import Hub

WEIGHTS = os.urandom(300_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"code",
    "README.md": b"words",
}
NAME = "tiny-model"
WEIGHTS_NAME = "model.safetensors"


class Watcher:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.seen: dict[str, list[int]] = {}

    def begins(self, name: str, commit: str, choice: Choice) -> None:
        self.begun.append((name, choice.num_bytes))

    def advances(self, file: HubFile, num_bytes: int) -> None:
        self.seen.setdefault(file.path, []).append(num_bytes)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running(FakeHub(dict(FILES), small_files=frozenset({"config.json"}))) as hub:
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def fetch(
    hub: FakeHub,
    store: ModelStore,
    *,
    model: str = REPOSITORY,
    name: str | None = None,
    token: str | None = None,
    watcher: Watcher | None = None,
    sleeps: list[float] | None = None,
) -> Pulled:
    with closing(Hub(hub.endpoint, token)) as client:
        return pull(
            ModelReference.parse(model),
            client,
            store,
            watcher or Watcher(),
            name=name,
            sleep=([] if sleeps is None else sleeps).append,
        )


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "transom-pull.json"}


def test_a_model_arrives_whole_and_without_what_is_never_fetched(hub: FakeHub, store: ModelStore) -> None:
    watcher = Watcher()
    pulled = fetch(hub, store, watcher=watcher)
    assert (pulled.name, pulled.commit, pulled.was_there) == (NAME, COMMIT, False)
    assert store.names() == [NAME]
    wanted = {name: FILES[name] for name in ("config.json", "tokenizer.json", WEIGHTS_NAME)}
    assert contents(pulled.directory) == wanted
    assert watcher.begun == [(NAME, sum(map(len, wanted.values())))]
    assert watcher.seen[WEIGHTS_NAME][-1] == len(WEIGHTS)


def test_a_model_that_is_here_is_left_alone_and_another_revision_of_it_takes_its_place(
    hub: FakeHub, store: ModelStore
) -> None:
    fetch(hub, store)
    assert fetch(hub, store).was_there
    assert len(hub.ranges()) == 3
    hub.commit, hub.files["config.json"] = "d" * 40, b'{"model_type": "qwen3"}'
    pulled = fetch(hub, store)
    assert not pulled.was_there
    assert contents(pulled.directory)["config.json"] == hub.files["config.json"]
    assert store.names() == [NAME]


def test_a_connection_that_drops_is_taken_up_where_it_broke(hub: FakeHub, store: ModelStore) -> None:
    hub.drops[WEIGHTS_NAME] = [100_000, 50_000]
    sleeps: list[float] = []
    pulled = fetch(hub, store, sleeps=sleeps)
    assert contents(pulled.directory)[WEIGHTS_NAME] == WEIGHTS
    assert hub.ranges()[-3:] == [None, "bytes=100000-", "bytes=150000-"]
    assert sleeps == [1.0, 1.0]


def test_a_connection_that_keeps_breaking_is_given_up_and_the_next_pull_goes_on(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.drops[WEIGHTS_NAME] = [100_000, *[0] * 6]
    with pytest.raises(HubError, match="100000 of 300000 bytes are here, the same command goes on"):
        fetch(hub, store)
    assert store.names() == []
    pulled = fetch(hub, store)
    assert contents(pulled.directory)[WEIGHTS_NAME] == WEIGHTS
    assert hub.ranges()[-1] == "bytes=100000-"


def test_a_hub_without_ranges_begins_again(hub: FakeHub, store: ModelStore) -> None:
    hub.drops[WEIGHTS_NAME], hub.ignores_ranges = [100_000], True
    assert contents(fetch(hub, store).directory)[WEIGHTS_NAME] == WEIGHTS


@pytest.mark.parametrize("name", [WEIGHTS_NAME, "config.json"])
def test_a_file_with_a_wrong_checksum_is_removed(hub: FakeHub, store: ModelStore, name: str) -> None:
    hub.corrupted.add(name)
    with pytest.raises(HubError, match=f"{name} does not have the checksum that the hub names; it was removed"):
        fetch(hub, store)
    assert store.names() == []
    assert not [path for path in store.root.rglob("*") if path.name.startswith(name)]
    hub.corrupted.clear()
    assert contents(fetch(hub, store).directory)[name] == FILES[name]


def test_what_came_so_far_counts_for_its_own_content_only(hub: FakeHub, store: ModelStore) -> None:
    hub.drops[WEIGHTS_NAME] = [100_000, *[0] * 6]
    with pytest.raises(HubError):
        fetch(hub, store)
    hub.files[WEIGHTS_NAME] = WEIGHTS[::-1]
    hub.commit = "e" * 40
    assert contents(fetch(hub, store).directory)[WEIGHTS_NAME] == WEIGHTS[::-1]


def test_part_of_a_file_that_was_changed_here_is_found_out(hub: FakeHub, store: ModelStore) -> None:
    hub.drops[WEIGHTS_NAME] = [100_000, *[0] * 6]
    with pytest.raises(HubError):
        fetch(hub, store)
    [part] = store.staging(NAME).glob("*.part")
    part.write_bytes(b"x" * 100_000)
    with pytest.raises(HubError, match="checksum"):
        fetch(hub, store)
    assert contents(fetch(hub, store).directory)[WEIGHTS_NAME] == WEIGHTS


@pytest.mark.parametrize("claim", [299_999, 300_001])
def test_s14_a_hub_that_lies_about_a_size_is_refused(hub: FakeHub, store: ModelStore, claim: int) -> None:
    hub.claims[WEIGHTS_NAME] = claim
    with pytest.raises(HubError, match=f"has {claim} bytes, and the hub wants to send 300000"):
        fetch(hub, store)
    assert store.names() == []


def test_s14_a_size_beyond_the_free_space_is_refused_before_anything_is_fetched(
    hub: FakeHub, store: ModelStore
) -> None:
    hub.claims[WEIGHTS_NAME] = 2**60
    with pytest.raises(HubError, match=r"are to be fetched, and .* has room for"):
        fetch(hub, store)
    assert hub.ranges() == []


def test_a_disk_that_fills_up_keeps_what_fits_and_the_next_pull_goes_on(
    hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transom.hub.download import _Partial

    write_all = _Partial._write_all

    def full_at_the_end(self: Any, data: bytes) -> None:
        if self.size + len(data) == len(WEIGHTS):
            write_all(self, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(self, data)

    with monkeypatch.context() as disk:
        disk.setattr(_Partial, "_write_all", full_at_the_end)
        with pytest.raises(HubError, match=r"the disk is full: \d+ of 300000 bytes of model.safetensors are here"):
            fetch(hub, store)
    assert contents(fetch(hub, store).directory)[WEIGHTS_NAME] == WEIGHTS


def test_s14_a_token_goes_to_its_own_hub_and_to_nobody_behind_a_redirect(hub: FakeHub, store: ModelStore) -> None:
    with running(FakeHub(dict(FILES))) as elsewhere:
        hub.token, hub.redirects_to = "hf_secret", elsewhere.endpoint
        pulled = fetch(hub, store, token="hf_secret")
    assert contents(pulled.directory)[WEIGHTS_NAME] == WEIGHTS
    assert {headers.get("authorization") for _, headers in hub.requests} == {"Bearer hf_secret"}
    assert len(elsewhere.requests) == 3
    assert not [headers for _, headers in elsewhere.requests if "authorization" in headers]


@pytest.mark.parametrize(
    "target", ["file:///etc", "ftp://127.0.0.1", "http://127.0.0.1:1", "http://127.0.0.1:99999", "http://["]
)
def test_s14_a_redirect_to_somewhere_strange_fails_in_one_line(hub: FakeHub, store: ModelStore, target: str) -> None:
    hub.redirects_to = target
    with pytest.raises(HubError) as refused:
        fetch(hub, store)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "http://[", "ftp://127.0.0.1", "", "http://hub?x=y"])
def test_s14_an_address_of_no_hub_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a hub"):
        Hub(endpoint)


@pytest.mark.parametrize("siblings", [7, ["x"], [[1]], [None], {"a": 1}, [{"rfilename": "config.json", "lfs": "x"}]])
def test_s14_a_listing_of_something_else_is_one_clear_error(hub: FakeHub, store: ModelStore, siblings: object) -> None:
    hub.siblings = siblings
    with pytest.raises(HubError, match="does not answer as a Hugging Face hub does"):
        fetch(hub, store)


def test_a_redirect_in_a_circle_ends(hub: FakeHub, store: ModelStore) -> None:
    hub.redirects_to = hub.endpoint
    with pytest.raises(HubError, match="redirects again and again"):
        fetch(hub, store)


@pytest.mark.parametrize(
    ("status", "headers", "token", "reason"),
    [
        (401, {"x-error-code": "RepoNotFound"}, None, "no public model Org/Tiny-Model; for a private one set HF_TOKEN"),
        (401, {}, "hf_old", "does not accept HF_TOKEN for Org/Tiny-Model"),
        (
            403,
            {"x-error-code": "GatedRepo"},
            None,
            r"gated: accept its terms at http.*/Org/Tiny-Model, and set HF_TOKEN",
        ),
        (401, {"x-error-code": "GatedRepo"}, "hf_x", r"gated: accept its terms at .*, with the account of HF_TOKEN"),
        (404, {"x-error-code": "RepoNotFound"}, None, "has no model Org/Tiny-Model"),
        (404, {"x-error-code": "RevisionNotFound"}, None, "Org/Tiny-Model has no main on"),
        (400, {"x-error-message": "bad \x1b[31mthing"}, None, r"answered 400 \(bad +\[31mthing\)"),
        (503, {}, None, "answered 503"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: FakeHub, store: ModelStore, status: int, headers: dict[str, str], token: str | None, reason: str
) -> None:
    hub.refusal = (status, headers)
    with pytest.raises(HubError, match=reason) as refused:
        fetch(hub, store, token=token)
    assert str(refused.value).isprintable()


def test_two_pulls_of_one_model_do_not_meet(hub: FakeHub, store: ModelStore) -> None:
    hub.holds = threading.Event()
    failures: list[Exception] = []

    def first() -> None:
        try:
            fetch(hub, store)
        except Exception as error:  # noqa: BLE001 - the test shows it
            failures.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    while not hub.ranges():
        thread.join(0.005)
    with pytest.raises(HubError, match="tiny-model is being pulled by another process"):
        fetch(hub, store)
    hub.holds.set()
    thread.join()
    assert failures == []
    assert store.names() == [NAME]


def test_a_directory_that_is_no_pull_of_this_model_is_never_replaced(hub: FakeHub, store: ModelStore) -> None:
    store.home(NAME).mkdir(parents=True)
    with pytest.raises(ConfigError, match="is there already, and is not Org/Tiny-Model; give --name another"):
        fetch(hub, store)
    assert fetch(hub, store, name="other").directory == store.home("other")


def test_s14_links_in_the_place_of_files_are_not_followed(hub: FakeHub, store: ModelStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    staging = store.staging(NAME)
    staging.mkdir(parents=True)
    (staging / "config.json").symlink_to(outside)
    (staging / "stranger").symlink_to(tmp_path)
    pulled = fetch(hub, store)
    assert outside.read_bytes() == b"precious"
    assert contents(pulled.directory)["config.json"] == FILES["config.json"]
    store.home("linked").symlink_to(tmp_path)
    assert store.names() == [NAME]
    with pytest.raises(ConfigError, match="is there already"):
        fetch(hub, store, name="linked")


def test_a_quantisation_is_chosen_by_its_name_and_brings_all_its_parts(hub: FakeHub, store: ModelStore) -> None:
    parts = {f"Q8_0/Tiny-Q8_0-0000{n}-of-00002.gguf": bytes([n]) * 10 for n in (1, 2)}
    hub.files = {**parts, "Tiny-Q4_K_M.gguf": b"GGUF", "mmproj-Tiny-f16.gguf": b"eyes", "config.json": b"{}"}
    assert contents(fetch(hub, store, model=f"{REPOSITORY}:q8_0").directory) == {
        name.rpartition("/")[2]: data for name, data in parts.items()
    }
    assert contents(fetch(hub, store).directory) == {"Tiny-Q4_K_M.gguf": b"GGUF"}
    assert store.names() == ["tiny-q4_k_m", "tiny-q8_0"]
    with pytest.raises(HubError, match="has no GGUF file of type Q5_K; there are :Q8_0, :Q4_K_M"):
        fetch(hub, store, model=f"{REPOSITORY}:Q5_K")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m none {place} 2>/dev/null") != 0:
        pytest.skip("may not mount a file system")
    yield place
    os.system(f"umount {place}")


class Hoarder(Watcher):
    """Fills the disk while a pull is on its way."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self._place = place

    def advances(self, file: HubFile, num_bytes: int) -> None:
        super().advances(file, num_bytes)
        if file.path != WEIGHTS_NAME:
            return
        with suppress(OSError), (self._place / "hoard").open("wb", buffering=0) as hoard:
            for _ in range(200):
                hoard.write(bytes(4096))


def test_a_file_system_that_fills_up_meanwhile_keeps_what_fits(
    hub: FakeHub, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transom.hub.pull._SPARE_BYTES", 0)
    store = ModelStore(small_disk)
    hub.files[WEIGHTS_NAME] = WEIGHTS + WEIGHTS
    with pytest.raises(HubError, match=r"the disk is full: \d+ of 600000 bytes of model.safetensors are here"):
        fetch(hub, store, watcher=Hoarder(small_disk))
    assert store.names() == []
    (small_disk / "hoard").unlink()
    assert contents(fetch(hub, store).directory)[WEIGHTS_NAME] == WEIGHTS + WEIGHTS


def test_a_small_file_system_is_too_small_and_said_so(hub: FakeHub, small_disk: Path) -> None:
    with pytest.raises(HubError, match=r"are to be fetched, and .* has room for"):
        fetch(hub, ModelStore(small_disk))
    assert hub.ranges() == []
