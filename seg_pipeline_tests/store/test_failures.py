"""The errors of the system and of obstore become ours, and a bug stays a bug."""

import errno
import os

import pytest
from obstore.exceptions import GenericError

from seg_pipeline.errors import ObjectNotFound, StoreError, StoreFull, StoreUnavailable
from seg_pipeline.store.failures import translated


def raised(error: Exception) -> StoreError:
    """What comes out where this goes in."""
    with pytest.raises(StoreError) as failure, translated("inbox/a"):
        raise error
    return failure.value


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EFBIG, StoreFull),
        (errno.ENOENT, ObjectNotFound),
        (errno.ENOTDIR, ObjectNotFound),
        (errno.EISDIR, ObjectNotFound),
        (errno.ELOOP, ObjectNotFound),
        (errno.EACCES, StoreUnavailable),
        (errno.EIO, StoreUnavailable),
    ],
)
def test_an_error_of_the_system_is_told_by_its_number(number: int, kind: type[StoreError]) -> None:
    error = raised(OSError(number, os.strerror(number), "/srv/secret/a"))
    assert type(error) is kind
    assert "inbox/a" in str(error)
    assert "/srv/secret" not in str(error)


@pytest.mark.parametrize("words", ["507 Insufficient Storage", "StorageFull", "QuotaExceeded"])
def test_a_bucket_says_in_words_that_it_is_full(words: str) -> None:
    assert type(raised(GenericError(f"PUT failed: {words}"))) is StoreFull


def test_a_bucket_that_does_not_answer_is_unavailable_and_the_first_line_is_kept() -> None:
    error = raised(GenericError("timed out\nbacktrace " + "x" * 5_000))
    assert type(error) is StoreUnavailable
    assert str(error) == "the store cannot read or write inbox/a: timed out"


def test_a_missing_bucket_is_no_missing_object() -> None:
    """Else each job of a store that was named wrongly would look deleted."""
    assert type(raised(FileNotFoundError("404 NoSuchKey"))) is ObjectNotFound
    assert type(raised(FileNotFoundError("404 NoSuchBucket"))) is StoreUnavailable


def test_an_error_of_ours_goes_through_as_it_is() -> None:
    error = StoreFull("full.")
    assert raised(error) is error


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(ValueError, match="a bug"), translated("inbox/a"):
        raise ValueError("a bug")
