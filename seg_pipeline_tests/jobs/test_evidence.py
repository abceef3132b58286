"""What a run leaves about a job that it had alone, on every kind of store."""

from seg_pipeline.jobs.evidence import Evidence, read_evidence, remove_evidence, write_evidence
from seg_pipeline.store import Store, keys

DECODING = Evidence("run-1", "source_image")


def test_what_was_written_is_read_back_until_it_is_removed(store: Store) -> None:
    assert read_evidence(store, "a") is None
    write_evidence(store, "a", DECODING)
    write_evidence(store, "a", Evidence("run-2", "segments", error="model_failed"))
    assert read_evidence(store, "a") == Evidence("run-2", "segments", error="model_failed")
    remove_evidence(store, "a")
    remove_evidence(store, "a")
    assert read_evidence(store, "a") is None


def test_what_cannot_be_read_blames_nobody(store: Store) -> None:
    """A power cut may leave an empty file."""
    for data in [b"", b"{", b"[]", b"null", b'"x"', b"\xff"]:
        store.put(keys.evidence("a"), data)
        assert read_evidence(store, "a") is None


def test_a_newer_versions_fields_are_ignored(store: Store) -> None:
    store.put(
        keys.evidence("a"),
        b'{"run_id": "run-1", "stage": "source_image", "error": null, "weather": "fine"}',
    )
    assert read_evidence(store, "a") == DECODING
