"""Keys: which are keys at all, what is called what, and what follows from a name."""

import pytest

from seg_pipeline.errors import InvalidKey
from seg_pipeline.store import keys


@pytest.mark.parametrize(
    "key", ["a", "assets/job-1/source.png", "inbox/A_b", "a/b@2.json", "0/" + "x" * 200]
)
def test_segments_of_letters_digits_and_a_few_signs_are_a_key(key: str) -> None:
    assert keys.check_key(key) == key
    assert keys.check_prefix(f"{key}/") == f"{key}/"


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/a", "a/", "a//b", "..", "a/../b", "a/.hidden", ".a", "-a", "a b", "a\n"),
        *("a\\b", "ä", "a\0", "a%2fb", "0/" + "x" * 201, "/".join(["x" * 100] * 10)),
    ],
)
def test_what_could_leave_its_folder_or_hide_in_it_is_no_key(key: str) -> None:
    assert not keys.is_key(key)
    with pytest.raises(InvalidKey):
        keys.check_key(key)
    with pytest.raises(InvalidKey):
        keys.check_prefix(f"{key}/")


def test_a_prefix_ends_in_a_slash() -> None:
    with pytest.raises(InvalidKey):
        keys.check_prefix("assets")


def test_a_key_is_900_characters_at_most() -> None:
    longest = "/".join(["x" * 179] * 5) + "x"
    assert len(longest) == 900
    assert keys.is_key(longest)
    assert not keys.is_key(f"{longest}x")


def every_key() -> dict[str, str]:
    """One of each kind, by the function that makes it."""
    return {
        "request": keys.request("u"),
        "source": keys.source("u", "png"),
        "source_info": keys.source_info("u"),
        "segments": keys.segments("u"),
        "mask": keys.mask("u", 7),
        "original": keys.original("u"),
        "crop": keys.crop("u", 7),
        "overlay": keys.overlay("u"),
        "result": keys.result("u"),
        "delivery": keys.delivery("u"),
        "evidence": keys.evidence("u"),
        "fetched": keys.fetched("u", "r"),
        "fetch_record": keys.fetch_record("u", "r"),
        "fetching": keys.fetching("u"),
        "inbox": keys.inbox("u"),
        "inflight": keys.inflight("u"),
        "cancel": keys.cancel("u"),
        "done": keys.done("completed", "u"),
        "expiry": keys.expiry(5, "u"),
        "outbox": keys.outbox(5, "u"),
        "worker": keys.worker("w"),
        "fetcher": keys.fetcher("f"),
        "parked": keys.parked(keys.parked_callback("u")),
        "metrics": keys.metrics("api-1"),
        "metrics_past": keys.metrics_past(3),
    }


def test_every_kind_of_key_is_one_of_its_own_and_below_a_known_prefix() -> None:
    """What is below no prefix of ours would be left behind in a bucket that others share."""
    found = every_key()
    assert len(set(found.values())) == len(found)
    assert all(keys.is_key(key) and key.startswith(keys.PREFIXES) for key in found.values())


def test_names_on_disk_stay_what_they_are() -> None:
    """Another version reads what this one has written."""
    assert keys.mask("u", 7) == "assets/u/mask_images/mask_007.png"
    assert keys.mask("u", 1234) == "assets/u/mask_images/mask_1234.png"
    assert keys.done("failed", "u") == "done/failed/u"
    assert keys.expiry(5, "u") == "expiry/000000000005-u"
    assert keys.outbox(5, "u") == "outbox/00000000000000005-u"
    assert keys.metrics_past(3) == "metrics-past/000000000003"
    assert keys.fetched("u", "r") == "assets/u/source.fetched-r"
    assert keys.run_logs("run") == "run-logs/run/"


@pytest.mark.parametrize("name", [keys.expiry, keys.outbox])
def test_names_that_begin_with_a_time_are_sorted_by_it(name: object) -> None:
    made = [name(moment, "u") for moment in (9, 10, 1_700_000_000)]  # type: ignore[operator]
    assert made == sorted(made)


def test_masks_and_cut_outs_lie_below_the_prefixes_of_segments() -> None:
    masks, crops = keys.of_segments("u")
    assert keys.mask("u", 0).startswith(masks)
    assert keys.crop("u", 0).startswith(crops)


def test_a_cut_out_is_named_by_32_hex_digits_of_its_own_and_the_same_again() -> None:
    assert keys.crop("job-1", 0) == "assets/job-1/crops/9e3964e8bada6fb896000fc8574ff610.webp"
    names = {keys.crop(uuid, index) for uuid in ("a", "b", "a1", "a-1") for index in range(50)}
    assert len({name.rpartition("/")[2] for name in names}) == 200


@pytest.mark.parametrize("key", [keys.outbox(7, "a-b"), keys.webhook("0af", 7, "a-b")])
def test_the_time_and_the_name_of_a_delivery_can_be_read_from_its_marker(key: str) -> None:
    assert keys.due_of(key) == (7, "a-b")


@pytest.mark.parametrize("key", ["outbox/7-u", "outbox/00000000000000007", "inbox/u", "webhooks/x"])
def test_what_is_no_marker_of_a_delivery_says_nothing(key: str) -> None:
    assert keys.due_of(key) is None


def test_the_time_and_the_uuid_of_an_expiry_can_be_read_from_its_marker() -> None:
    assert keys.expiry_of(keys.expiry(7, "a-b")) == (7, "a-b")
    assert keys.expiry_of("expiry/soon-u") is None
    assert keys.expiry_of("expiry/000000000007") is None


def test_what_comes_with_acceptance_is_the_request_and_the_source() -> None:
    found = {name for name, key in every_key().items() if keys.comes_with_acceptance(key)}
    assert found == {"request", "source", "source_info", "fetched", "fetch_record"}
    assert not keys.comes_with_acceptance("assets/u/crops/source.png/x")
    assert not keys.comes_with_acceptance("assets/u/source.d/x")


def test_what_a_fetch_left_is_told_from_a_source() -> None:
    found = {name for name, key in every_key().items() if keys.is_fetched(key)}
    assert found == {"fetched", "fetch_record"}


def test_a_parked_callback_is_told_from_a_message() -> None:
    assert keys.parked(keys.parked_callback("u")) == "parked/callback-u"
    assert keys.is_parked_callback("parked/callback-u")
    assert not keys.is_parked_callback(keys.parked("message-u"))


@pytest.mark.parametrize(
    ("key", "content_type"),
    [
        ("assets/u/source.avif", "image/avif"),
        ("assets/u/source.JPG", "image/jpeg"),
        ("assets/u/a.b.tif", "image/tiff"),
        ("assets/u/result.json", "application/json"),
        ("assets/u.png/source", "application/octet-stream"),
        ("assets/u/source.exe", "application/octet-stream"),
    ],
)
def test_the_media_type_follows_from_the_extension(key: str, content_type: str) -> None:
    assert keys.content_type(key) == content_type
