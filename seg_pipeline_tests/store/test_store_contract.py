"""What every kind of store promises; each test runs against a folder, memory and S3."""

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from api.spool import open_nameless
from seg_pipeline.errors import InvalidKey, ObjectNotFound
from seg_pipeline.store import Store

KEY = "assets/job-1/original.webp"
BAD_KEYS = [
    "", "/", "/assets/a", "assets/", "assets//a", "../a", "assets/../state/inbox/a", "assets/a/..",
    "./a", "a/./b",
    "assets/a\\b", "a\0b", "a b", "a\nb", "assets/a#1", "assets/.hidden", "assets/a%2e%2e", "ä",
    "a" * 1000, "a\n",
]  # fmt: skip


def test_what_is_put_is_got(store: Store) -> None:
    store.put(KEY, b"picture")
    assert store.get(KEY) == b"picture"


def test_a_second_put_replaces_the_first(store: Store) -> None:
    store.put(KEY, b"long picture")
    store.put(KEY, b"short")
    assert store.get(KEY) == b"short"


def test_a_file_becomes_an_object_and_replaces_another(store: Store, tmp_path: Path) -> None:
    """In parts too, where it is large; the file that was given has nothing to do with it any
    more."""
    for data in (b"", b"picture", bytes(range(256)) * 80_000):
        with open_nameless(tmp_path / "uploads") as file:
            file.write(data)
            store.put_file(KEY, file)
            store.put_file(KEY, file)
        assert store.get(KEY) == data
    assert [*(tmp_path / "uploads").iterdir()] == []


def test_a_file_with_a_name_becomes_an_object_too(store: Store, tmp_path: Path) -> None:
    (tmp_path / "named").write_bytes(b"picture")
    with (tmp_path / "named").open("rb") as file:
        store.put_file(KEY, file)
    (tmp_path / "named").unlink()
    assert store.get(KEY) == b"picture"


def test_objects_are_counted_without_those_in_folders_below(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.put(f"inbox/{name}", b"")
    assert (store.count("inbox/"), store.count("inflight/")) == (3, 0)


def test_an_object_may_be_empty(store: Store) -> None:
    store.put("inbox/job-1", b"")
    assert store.get("inbox/job-1") == b""
    assert [*store.stream("inbox/job-1")] == []
    assert [info.size for info in store.list("inbox/")] == [0]


def test_create_writes_once(store: Store) -> None:
    assert store.create("assets/job-1/request.json", b"first")
    assert not store.create("assets/job-1/request.json", b"second")
    assert store.get("assets/job-1/request.json") == b"first"


def test_create_does_not_replace_what_was_put(store: Store) -> None:
    store.put(KEY, b"put")
    assert not store.create(KEY, b"created")
    assert store.get(KEY) == b"put"


def test_create_works_again_after_a_delete(store: Store) -> None:
    store.create(KEY, b"1")
    store.delete(KEY)
    assert store.create(KEY, b"2")


@pytest.mark.parametrize(
    "key", ["assets/job-1/nothing", "assets/none", "inbox/none", "nowhere/at/all"]
)
def test_a_missing_object_is_told_from_a_broken_store(store: Store, key: str) -> None:
    store.put(KEY, b"1")
    with pytest.raises(ObjectNotFound):
        store.get(key)
    with pytest.raises(ObjectNotFound):
        store.stream(key)
    assert store.head(key) is None


def test_a_folder_is_no_object(store: Store) -> None:
    store.put(KEY, b"1")
    with pytest.raises(ObjectNotFound):
        store.get("assets/job-1")
    with pytest.raises(ObjectNotFound):
        store.stream("assets/job-1")
    assert store.head("assets/job-1") is None


def test_nothing_is_below_an_object(store: Store) -> None:
    store.put(KEY, b"1")
    assert store.head(f"{KEY}/x") is None
    assert store.list(f"{KEY}/") == []
    with pytest.raises(ObjectNotFound):
        store.get(f"{KEY}/x")


def test_a_large_object_streams_in_small_pieces(store: Store) -> None:
    data = bytes(range(256)) * 12_000
    store.put(KEY, data)
    pieces = [*store.stream(KEY)]
    assert b"".join(pieces) == data
    assert len(pieces) > 1


def test_a_stream_may_be_left_unread(store: Store) -> None:
    """A client may hang up: nothing stays open, which would be a ResourceWarning and so an error
    here."""
    store.put(KEY, bytes(3_000_000))
    next(store.stream(KEY))
    store.stream(KEY)


def test_an_object_that_is_replaced_while_it_is_read_is_read_whole(store: Store) -> None:
    store.put(KEY, b"1" * 3_000_000)
    pieces = store.stream(KEY)
    first = next(pieces)
    store.put(KEY, b"2" * 3_000_000)
    assert set(first + b"".join(pieces)) == {ord("1")}


def test_head_tells_size_time_and_a_tag_that_changes_with_the_bytes(store: Store) -> None:
    before = datetime.now(UTC)
    store.put(KEY, b"12345")
    info = store.head(KEY)
    assert info is not None
    assert (info.key, info.size) == (KEY, 5)
    assert abs(info.last_modified - before) < timedelta(minutes=1)
    assert info.last_modified.utcoffset() == timedelta(0)
    assert info.etag
    assert re.fullmatch(r'"[!#-~]+"', info.etag if info.etag.startswith('"') else f'"{info.etag}"')
    store.put(KEY, b"67890")
    again = store.head(KEY)
    assert again is not None
    assert again.etag != info.etag


def test_a_listing_says_the_same_as_head(store: Store) -> None:
    store.put(KEY, b"12345")
    assert store.list("assets/") == [store.head(KEY)]


def test_lists_are_sorted_by_key_whatever_the_order_of_writing(store: Store) -> None:
    """`-` sorts before `/` and digits after it: `job-1/…` comes before `job/…`, and `job0/…` behind
    it."""
    names = [
        "job/b",
        "job0/a",
        "job-1/a",
        "job/a/z",
        "job/a-b",
        "job",
        "Job/a",
        "job/a.json",
        "job_1/a",
    ]
    for name in names:
        if name != "job":  # a folder cannot also be a file
            store.put(f"assets/{name}", b"1")
    expected = sorted(f"assets/{name}" for name in names if name != "job")
    assert [info.key for info in store.list("assets/")] == expected


def test_a_list_goes_on_after_any_key(store: Store) -> None:
    for name in ["a-b/1", "a/1", "a/2", "a/c/3", "a0/1", "b/1"]:
        store.put(f"assets/{name}", b"1")
    everything = [info.key for info in store.list("assets/")]
    for after in [*everything, "assets/a", "assets/a/b", "assets/a/c", "assets/zz", "assets/0"]:
        assert [info.key for info in store.list("assets/", after)] == [
            key for key in everything if key > after
        ], after


def test_a_list_stops_at_its_limit(store: Store) -> None:
    for name in "edcba":
        store.put(f"inbox/{name}", b"")
    assert [info.key for info in store.list("inbox/", limit=2)] == ["inbox/a", "inbox/b"]
    assert [info.key for info in store.list("inbox/", after="inbox/b", limit=2)] == [
        "inbox/c",
        "inbox/d",
    ]
    assert store.list("inbox/", limit=0) == []
    assert len(store.list("inbox/", limit=9)) == 5


def test_a_list_keeps_to_its_prefix(store: Store) -> None:
    for key in ["assets/a/1", "assets/ab/1", "inbox/a", "inflight/a"]:
        store.put(key, b"1")
    assert [info.key for info in store.list("assets/a/")] == ["assets/a/1"]
    assert [info.key for info in store.list("inbox/")] == ["inbox/a"]
    assert store.list("nothing/") == []


def test_folders_are_listed_by_name_once_each(store: Store) -> None:
    for key in [
        "assets/b/1",
        "assets/b/2",
        "assets/b/masks/3",
        "assets/a-1/1",
        "assets/a/1",
        "assets/c/deep/1",
    ]:
        store.put(key, b"1")
    store.put("assets/file", b"1")
    names = ["a-1", "a", "b", "c"]  # the order of `assets/a-1/` and `assets/a/`
    assert store.list_folders("assets/") == names
    for limit in range(6):
        assert store.list_folders("assets/", limit=limit) == names[:limit]
        for index, name in enumerate(names):
            assert (
                store.list_folders("assets/", after=name, limit=limit) == names[index + 1 :][:limit]
            )
    assert store.list_folders("assets/", after="a") == ["b", "c"]
    assert store.list_folders("nothing/") == []


def test_a_folder_without_objects_is_not_listed(store: Store) -> None:
    store.put("assets/a/masks/1", b"1")
    store.delete("assets/a/masks/1")
    assert store.list_folders("assets/") == []


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.delete(KEY)
    store.put(KEY, b"1")
    store.delete(KEY)
    store.delete(KEY)
    assert store.head(KEY) is None


def test_a_folder_is_deleted_with_all_that_is_in_it_and_nothing_else(store: Store) -> None:
    for key in [
        "assets/a/1",
        "assets/a/masks/2",
        "assets/a/masks/3",
        "assets/ab/1",
        "assets/a-b/1",
    ]:
        store.put(key, b"1")
    assert store.delete_folder("assets/a/") == 3
    assert [info.key for info in store.list("assets/")] == ["assets/a-b/1", "assets/ab/1"]
    assert store.delete_folder("assets/a/") == 0


def test_deleting_a_folder_keeps_what_it_is_told_to(store: Store) -> None:
    for key in (
        "assets/a/keep.json",
        "assets/a/go.json",
        "assets/a/b/keep.png",
        "assets/a/b/go.png",
        "assets/a/c/go",
    ):
        store.put(key, b"x")
    assert store.delete_folder("assets/a/", keep=lambda key: "keep" in key) == 3
    assert [info.key for info in store.list("assets/a/")] == [
        "assets/a/b/keep.png",
        "assets/a/keep.json",
    ]


def test_more_objects_than_one_page_are_listed_and_deleted(store: Store) -> None:
    """S3 gives and takes a thousand at a time."""
    keys = [f"done/completed/{number:04}" for number in range(1005)]
    for key in keys:
        store.put(key, b"")
    assert [info.key for info in store.list("done/completed/")] == keys
    assert [info.key for info in store.list("done/completed/", after=keys[2], limit=1001)] == keys[
        3:1004
    ]
    assert store.delete_folder("done/completed/") == 1005


@pytest.mark.parametrize("key", BAD_KEYS)
def test_no_key_leaves_its_place_or_hides(store: Store, key: str) -> None:
    calls = [
        lambda: store.put(key, b"1"), lambda: store.create(key, b"1"), lambda: store.get(key),
        lambda: store.stream(key),
        lambda: store.list(f"{key}/"), lambda: store.list_folders(f"{key}/"),
        lambda: store.delete_folder(f"{key}/"),
        lambda: store.url(key, "http://localhost"), lambda: store.file_name(key),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InvalidKey):
            call()
    assert store.head(key) is None
    store.delete(key)


@pytest.mark.parametrize("prefix", ["", "assets", "/", "../", "assets/../", "assets//"])
def test_a_prefix_is_a_key_with_a_slash(store: Store, prefix: str) -> None:
    for call in (store.list, store.list_folders, store.delete_folder):
        with pytest.raises(InvalidKey):
            call(prefix)


def test_a_healthy_store_passes_its_check_and_is_left_as_it_was(store: Store) -> None:
    store.check()
    store.check()
    assert store.list("checks/") == []
    assert store.list("assets/") == []


def test_calls_at_once_answer_in_their_order(store: Store) -> None:
    numbers = range(40)
    store.at_once([partial(store.put, f"inbox/{number}", b"%d" % number) for number in numbers])
    assert [*store.at_once([partial(store.get, f"inbox/{number}") for number in numbers])] == [
        b"%d" % number for number in numbers
    ]


def test_calls_at_once_may_make_calls_at_once(store: Store) -> None:
    """As many of them as there are threads for requests: none may wait for a thread that waits for
    it."""
    store.put("inbox/a", b"a")
    pair = [partial(store.get, "inbox/a")] * 2
    assert [*store.at_once([partial(store.at_once, pair)] * 40)] == [[b"a", b"a"]] * 40


def test_of_calls_at_once_that_fail_the_first_is_told(store: Store) -> None:
    store.put("inbox/a", b"a")
    with pytest.raises(ObjectNotFound, match="inbox/b"):
        store.at_once([partial(store.get, f"inbox/{name}") for name in "abc"])


def test_a_copy_has_the_bytes_and_each_goes_without_the_other(store: Store) -> None:
    store.put("assets/a/one.png", b"first")
    store.put("assets/b/two.png", b"old")
    store.copy("assets/a/one.png", "assets/b/two.png")
    store.put("assets/a/one.png", b"second")
    assert store.get("assets/b/two.png") == b"first"
    store.copy("assets/b/two.png", "assets/c/three.png")
    store.delete("assets/b/two.png")
    assert store.get("assets/c/three.png") == b"first"
    with pytest.raises(ObjectNotFound):
        store.copy("assets/b/two.png", "assets/c/four.png")
    assert store.head("assets/c/four.png") is None
