"""What only folders can get wrong: links, leftovers, full disks, killed writers, forks."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import pytest

from seg_pipeline.errors import ObjectNotFound, StoreFull, StoreUnavailable
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, open_store
from seg_pipeline.store.folder_store import FolderStore
from seg_pipeline_tests.store.writers import write_for_ever, write_past_a_limit

MEGABYTE = 2**20
SPAWN = get_context("spawn")
KEY = "assets/job-1/mask_images/mask_000.png"


def test_files_of_jobs_lie_in_the_assets_folder_and_markers_beside_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "public", tmp_path / "state")
    store.put("assets/job-1/original.webp", b"1")
    store.put("inbox/job-1", b"")
    assert (tmp_path / "public/job-1/original.webp").read_bytes() == b"1"
    assert (tmp_path / "state/inbox/job-1").exists()
    assert [info.key for info in store.list("assets/")] == ["assets/job-1/original.webp"]


def test_reading_a_store_that_nobody_wrote_to_makes_no_folders(folder_settings: Settings) -> None:
    store = open_store(folder_settings)
    assert store.list("inbox/") == []
    assert store.list_folders("assets/") == []
    assert store.delete_folder("assets/job-1/") == 0
    assert not folder_settings.data_dir.exists()


def test_urls_are_the_apis(folder_store: Store) -> None:
    assert folder_store.file_name("assets/job-1/original.webp") == "job-1/original.webp"
    url = "http://localhost:8000/assets/job-1/original.webp"
    assert folder_store.url("assets/job-1/original.webp", "http://localhost:8000") == url
    assert folder_store.url("assets/job-1/original.webp", "http://localhost:8000/") == url


def test_a_store_stays_in_its_place_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative DATA_DIR means the folder in which the process was started."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store(Settings(_env_file=None, data_dir=Path("data")))
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put(KEY, b"1")
    assert (tmp_path / "data/assets/job-1/mask_images/mask_000.png").exists()


def test_a_deleted_folder_leaves_no_empty_ones(folder_settings: Settings) -> None:
    store = open_store(folder_settings)
    store.put(KEY, b"1")
    store.put("assets/job-2/a", b"1")
    store.delete_folder("assets/job-1/")
    assert os.listdir(folder_settings.assets_path) == ["job-2"]


def test_half_a_file_is_no_object_and_goes_with_its_folder(folder_settings: Settings) -> None:
    """A writer that was killed leaves its hidden file behind."""
    store = open_store(folder_settings)
    store.put(KEY, b"1")
    folder = folder_settings.assets_path / "job-1/mask_images"
    (folder / ".mask_001.png.0123456789ab").write_bytes(b"hal")
    (folder / "mask_002.png#1").write_bytes(b"hal")  # as obstore would call it
    assert [info.key for info in store.list("assets/job-1/")] == [KEY]
    assert store.delete_folder("assets/job-1/") == 1
    assert os.listdir(folder_settings.assets_path) == []


def test_a_folder_with_half_a_file_alone_is_not_listed_but_goes_too(
    folder_settings: Settings,
) -> None:
    store = open_store(folder_settings)
    (folder_settings.assets_path / "job-1").mkdir(parents=True)
    (folder_settings.assets_path / "job-1/.request.json.0123456789ab").write_bytes(b"{")
    assert store.list_folders("assets/") == []
    assert store.delete_folder("assets/job-1/") == 0
    assert os.listdir(folder_settings.assets_path) == []


def test_a_failed_write_leaves_the_old_object_and_no_trace(
    folder_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(folder_settings)
    store.put(KEY, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        store.put(KEY, b"new")
    assert store.get(KEY) == b"old"
    assert os.listdir(folder_settings.assets_path / "job-1/mask_images") == ["mask_000.png"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the store's business, with a secret in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.json").write_bytes(b"secret")
    return folder


def test_links_to_files_are_no_objects(folder_settings: Settings, outside: Path) -> None:
    """Nobody who can make a link in the assets folder may read other files through the API."""
    store = open_store(folder_settings)
    store.put("assets/job-1/a.json", b"1")
    (folder_settings.assets_path / "job-1/link.json").symlink_to(outside / "secret.json")
    (folder_settings.assets_path / "job-1/broken.json").symlink_to(outside / "nothing")
    for name in ("link.json", "broken.json"):
        with pytest.raises(ObjectNotFound):
            store.get(f"assets/job-1/{name}")
        with pytest.raises(ObjectNotFound):
            store.stream(f"assets/job-1/{name}")
        assert store.head(f"assets/job-1/{name}") is None
    assert [info.key for info in store.list("assets/")] == ["assets/job-1/a.json"]


def test_links_to_folders_lead_nowhere(folder_settings: Settings, outside: Path) -> None:
    store = open_store(folder_settings)
    store.put("assets/job-1/a.json", b"1")
    (folder_settings.assets_path / "job-2").symlink_to(outside)
    (folder_settings.assets_path / "job-1/sub").symlink_to(outside)
    for key in ("assets/job-2/secret.json", "assets/job-1/sub/secret.json"):
        with pytest.raises(ObjectNotFound):
            store.get(key)
        assert store.head(key) is None
        with pytest.raises(StoreUnavailable, match="symbolic link"):
            store.put(key, b"overwritten")
        with pytest.raises(StoreUnavailable, match="symbolic link"):
            store.create(key, b"created")
        store.delete(key)
    assert [info.key for info in store.list("assets/")] == ["assets/job-1/a.json"]
    assert store.list_folders("assets/") == ["job-1"]
    assert (outside / "secret.json").read_bytes() == b"secret"


def test_deleting_a_folder_does_not_follow_its_links(
    folder_settings: Settings, outside: Path
) -> None:
    store = open_store(folder_settings)
    store.put("assets/job-1/a.json", b"1")
    (folder_settings.assets_path / "job-1/sub").symlink_to(outside)
    (folder_settings.assets_path / "job-2").symlink_to(outside)
    assert store.delete_folder("assets/job-1/") == 1
    assert store.delete_folder("assets/job-2/") == 0
    assert not (folder_settings.assets_path / "job-1").exists()
    assert (outside / "secret.json").exists()


def test_the_assets_folder_itself_may_be_a_link(tmp_path: Path, outside: Path) -> None:
    """An operator may put it on another disk."""
    (tmp_path / "assets").symlink_to(outside)
    store = open_store(
        Settings(_env_file=None, data_dir=tmp_path / "data", assets_dir=tmp_path / "assets")
    )
    store.put("assets/job-1/a.json", b"1")
    assert (outside / "job-1/a.json").exists()
    assert [info.key for info in store.list("assets/job-1/")] == ["assets/job-1/a.json"]


def test_a_pipe_is_no_object_and_keeps_nobody_waiting(folder_settings: Settings) -> None:
    store = open_store(folder_settings)
    store.put("assets/job-1/a.json", b"1")
    os.mkfifo(folder_settings.assets_path / "job-1/pipe")
    with pytest.raises(ObjectNotFound):
        store.get("assets/job-1/pipe")
    assert [info.key for info in store.list("assets/")] == ["assets/job-1/a.json"]


def test_a_file_where_a_folder_should_be_is_told(folder_settings: Settings) -> None:
    store = open_store(folder_settings)
    store.put("assets/job-1", b"1")
    with pytest.raises(StoreUnavailable):
        store.put("assets/job-1/a.json", b"1")
    with pytest.raises(StoreUnavailable):
        store.create("assets/job-1/a.json", b"1")


def test_a_folder_without_permission_is_told(folder_settings: Settings) -> None:
    folder_settings.data_dir.mkdir(mode=0o500)
    with as_somebody(), pytest.raises(StoreUnavailable, match="Permission denied"):
        open_store(folder_settings).check()


@contextmanager
def as_somebody() -> Iterator[None]:
    """Root may do everything, so it becomes another user."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_data_folder_that_is_a_file_fails_the_check(folder_settings: Settings) -> None:
    folder_settings.data_dir.write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        open_store(folder_settings).check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone, and not in every container")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_harms_nothing(small_disk: Path) -> None:
    """The API answers that the store is full; what was there stays readable, and room made is used
    again."""
    store = FolderStore(small_disk / "assets", small_disk / "state")
    store.put("assets/job-1/a.png", b"1" * 100_000)
    for write in (store.put, store.create):
        with pytest.raises(StoreFull):
            write("assets/job-1/b.png", b"2" * 300_000)
    with pytest.raises(StoreFull):
        store.put("assets/job-1/a.png", b"3" * 200_000)
    assert store.get("assets/job-1/a.png") == b"1" * 100_000
    assert [info.key for info in store.list("assets/")] == ["assets/job-1/a.png"]
    assert os.listdir(small_disk / "assets/job-1") == ["a.png"]
    store.delete_folder("assets/job-1/")
    store.put("assets/job-1/b.png", b"2" * 200_000)


def test_a_full_disk_fails_the_check(small_disk: Path) -> None:
    store = FolderStore(small_disk / "assets", small_disk / "state")
    store.check()
    with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(b"0" * 4096):
            pass
    with pytest.raises(StoreFull):
        store.check()


@pytest.mark.process
def test_a_limit_on_file_size_is_a_full_store(folder_settings: Settings) -> None:
    writer = SPAWN.Process(target=write_past_a_limit, args=(folder_settings, KEY), daemon=True)
    writer.start()
    writer.join(60)
    assert writer.exitcode == 0
    assert open_store(folder_settings).get(KEY) == b"1" * 1000


@pytest.mark.process
def test_a_writer_killed_at_any_moment_leaves_a_whole_object(folder_settings: Settings) -> None:
    store = open_store(folder_settings)
    for _ in range(3):
        writer = SPAWN.Process(
            target=write_for_ever, args=(folder_settings, KEY, MEGABYTE), daemon=True
        )
        writer.start()
        _wait_for(store, KEY)
        for _ in range(20):
            assert _is_whole(store.get(KEY))
        assert writer.pid
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
        assert _is_whole(store.get(KEY))
        assert [info.key for info in store.list("assets/")] == [KEY]
        assert store.delete_folder("assets/job-1/") == 1
        assert os.listdir(folder_settings.assets_path) == []


@pytest.mark.process
def test_a_forked_process_uses_its_parents_store(folder_settings: Settings) -> None:
    """Celery's workers are forked."""
    store = open_store(folder_settings)
    store.put(KEY, b"parent")
    child = get_context("fork").Process(target=store.put, args=(KEY, b"child"), daemon=True)
    child.start()
    child.join(60)
    assert store.get(KEY) == b"child"


@pytest.mark.process
def test_a_folder_that_is_deleted_while_others_write_into_it_goes_in_the_end(
    folder_settings: Settings,
) -> None:
    store = open_store(folder_settings)
    writer = SPAWN.Process(target=write_for_ever, args=(folder_settings, KEY, 10), daemon=True)
    writer.start()
    _wait_for(store, KEY)
    for _ in range(50):
        store.delete_folder("assets/job-1/")
    assert writer.is_alive()
    writer.kill()
    writer.join(60)
    store.delete_folder("assets/job-1/")
    assert store.list("assets/") == []


def _wait_for(store: Store, key: str) -> None:
    deadline = time.monotonic() + 60
    while store.head(key) is None:
        assert time.monotonic() < deadline, f"{key} was never written"
        time.sleep(0.01)


def _is_whole(data: bytes) -> bool:
    return len(data) == MEGABYTE == data.count(data[:1])
