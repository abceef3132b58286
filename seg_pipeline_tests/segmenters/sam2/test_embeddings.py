import hashlib
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg_pipeline.domain import RgbImage
from seg_pipeline.segmenters.sam2.embeddings import (
    Embedding,
    EmbeddingCache,
    EmbeddingFolder,
    embedding_key,
)
from seg_pipeline_tests.builders import make_picture


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_embedding(fill: float = 1.0, dtype: torch.dtype = torch.float32) -> Embedding:
    shapes = ((1, 8, 4, 4), (1, 2, 16, 16), (1, 4, 8, 8))
    tensors = [torch.full(shape, fill, dtype=dtype) for shape in shapes]
    return Embedding(tensors[0], tuple(tensors[1:]))


SIZE = make_embedding().nbytes


def make_folder(
    path: Path, clock: Clock, embeddings: float = 10, seconds: float = 60
) -> EmbeddingFolder:
    return EmbeddingFolder(path / "embeddings", int(embeddings * (SIZE + 2000)), seconds, clock)


def same(one: Embedding | None, other: Embedding) -> bool:
    return one is not None and all(
        a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip((one.image, *one.fine), (other.image, *other.fine), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_worker_finds_what_one_has_kept(
    tmp_path: Path, clock: Clock, dtype: torch.dtype
) -> None:
    make_folder(tmp_path, clock).put("a", make_embedding(0.3, dtype))
    assert same(make_folder(tmp_path, clock).get("a"), make_embedding(0.3, dtype))
    assert make_folder(tmp_path, clock).get("b") is None


def test_time_begins_anew_with_each_use_and_ends(tmp_path: Path, clock: Clock) -> None:
    folder = make_folder(tmp_path, clock, seconds=60)
    folder.put("a", make_embedding())
    clock.now += 50
    assert folder.get("a")
    clock.now += 50
    assert folder.get("a")
    clock.now += 61
    assert folder.get("a") is None
    folder.prune()
    assert list((tmp_path / "embeddings").iterdir()) == []


def test_beyond_the_limit_the_longest_unused_goes(tmp_path: Path, clock: Clock) -> None:
    folder = make_folder(tmp_path, clock, embeddings=2)
    for key in ("a", "b"):
        folder.put(key, make_embedding())
        clock.now += 1
    assert folder.get("a")
    clock.now += 1
    folder.put("c", make_embedding())
    assert [key for key in "abc" if folder.get(key)] == ["a", "c"]


def test_what_a_killed_worker_left_half_written_is_pruned(tmp_path: Path, clock: Clock) -> None:
    folder = make_folder(tmp_path, clock)
    folder.put("a", make_embedding())
    (tmp_path / "embeddings" / "left.part").write_bytes(b"half")
    clock.now = 10**10
    folder.prune()
    assert list((tmp_path / "embeddings").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickled"])
def test_a_damaged_file_is_removed_and_nothing_in_it_is_run(
    tmp_path: Path, clock: Clock, damage: str
) -> None:
    folder = make_folder(tmp_path, clock)
    folder.put("a", make_embedding())
    (path,) = (tmp_path / "embeddings").iterdir()
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "empty": b"",
            "pickled": b"",
        }[damage]
    )
    if damage == "pickled":
        with path.open("wb") as file:
            arrays: dict[str, Any] = {"0-float32": np.array([{"a": 1}], dtype=object)}
            np.savez(file, **arrays)
    clock.now = path.stat().st_mtime
    assert folder.get("a") is None
    assert not path.exists()


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path, clock: Clock) -> None:
    folder = EmbeddingFolder(tmp_path / "missing" / "embeddings", 10**9, 60, clock)
    folder.put("a", make_embedding())
    assert folder.get("a") is None
    assert not (tmp_path / "missing").exists(), "only an existing data folder is used"


def test_a_limit_of_nothing_keeps_nothing(tmp_path: Path, clock: Clock) -> None:
    make_folder(tmp_path, clock, embeddings=0).put("a", make_embedding())
    assert not (tmp_path / "embeddings").exists()


def test_it_comes_from_memory_then_from_disk_then_from_the_encoder(
    tmp_path: Path, clock: Clock
) -> None:
    folder = make_folder(tmp_path, clock)
    cache, made = EmbeddingCache(folder), list[int]()

    def make() -> Embedding:
        made.append(1)
        return make_embedding()

    origins = [cache.get("a", "cpu", make)[1], cache.get("a", "cpu", make)[1]]
    cache.clear()
    origins.append(cache.get("a", "cpu", make)[1])
    assert origins == ["encoder", "memory", "disk"]
    assert EmbeddingCache().get("a", "cpu", make)[1] == "encoder", "without a folder"
    assert len(made) == 2


def test_memory_is_bounded_and_the_longest_unused_goes() -> None:
    cache = EmbeddingCache(memory_bytes=2 * SIZE)
    for key in ("a", "b", "a", "c"):
        cache.get(key, "cpu", make_embedding)
    origins = {key: cache.get(key, "cpu", make_embedding)[1] for key in ("a", "c")}
    assert origins == {"a": "memory", "c": "memory"}
    assert cache.get("b", "cpu", make_embedding)[1] == "encoder"


def test_an_embedding_larger_than_memory_is_used_and_not_remembered() -> None:
    cache = EmbeddingCache(memory_bytes=1)
    assert same(cache.get("a", "cpu", make_embedding)[0], make_embedding())
    assert cache.get("a", "cpu", make_embedding)[1] == "encoder"


def test_a_key_is_of_the_pixels_their_shape_and_the_model() -> None:
    picture = make_picture()
    key = embedding_key(picture, "demo-sam2", "ab")
    assert key == embedding_key(picture.copy(), "demo-sam2", "ab")
    assert key == embedding_key(np.asfortranarray(picture), "demo-sam2", "ab")
    other = picture.copy()
    other[-1, -1, -1] ^= 1
    different = [
        embedding_key(other, "demo-sam2", "ab"),
        embedding_key(picture, "demo-sam2", "cd"),
        embedding_key(picture.reshape(picture.shape[1], picture.shape[0], 3), "demo-sam2", "ab"),
    ]
    assert len({key, *different}) == 4


def key_by_its_definition(image: RgbImage, *made_by: str) -> str:
    """SHA-256 of the shape and of the maker, then of four digests, each of a quarter."""
    whole = hashlib.sha256(repr((image.shape, made_by)).encode())
    for quarter in np.array_split(np.frombuffer(image.tobytes(), np.uint8), 4):
        whole.update(hashlib.sha256(quarter.tobytes()).digest())
    return whole.hexdigest()


@pytest.mark.parametrize("side", [1, 50, 418, 419, 700])
def test_a_key_stays_as_it_is_so_that_what_is_kept_is_found(side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    expected = key_by_its_definition(pixels, "demo-sam2", "ab")
    assert embedding_key(pixels, "demo-sam2", "ab") == expected


def test_keys_take_no_thread_for_a_small_picture_and_four_for_all_large_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def count(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", count)
    embedding_key(np.zeros((400, 400, 3), np.uint8))
    assert not started
    for _ in range(5):
        embedding_key(np.zeros((500, 500, 3), np.uint8))
    assert len(started) <= 4


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    picture = np.zeros((500, 500, 3), np.uint8)
    expected = embedding_key(picture)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as forked:
        assert forked.submit(embedding_key, picture).result(timeout=60) == expected


def test_the_folders_limits_hold_for_memory_too(tmp_path: Path, clock: Clock) -> None:
    none = EmbeddingCache(make_folder(tmp_path, clock, embeddings=0), clock=clock)
    assert [none.get("a", "cpu", make_embedding)[1] for _ in range(2)] == ["encoder", "encoder"]
    cache = EmbeddingCache(make_folder(tmp_path, clock, seconds=60), clock=clock)
    assert cache.get("a", "cpu", make_embedding)[1] == "encoder"
    clock.now += 50
    assert cache.get("a", "cpu", make_embedding)[1] == "memory"
    clock.now += 61
    assert cache.get("a", "cpu", make_embedding)[1] == "encoder"
