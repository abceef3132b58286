"""Turns the errors of obstore and of the operating system into ours."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from seg_pipeline.errors import ObjectNotFound, StoreError, StoreFull, StoreUnavailable

# A limit on file size (EFBIG) ends a write just as a full disk does.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A link where a file should be (ELOOP, with O_NOFOLLOW) is no object.
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
# What S3-compatible servers say when their disks are full (HTTP 507; MinIO, Ceph).
_FULL_WORDS = ("507 Insufficient Storage", "StorageFull", "QuotaExceeded")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises ObjectNotFound, StoreFull or StoreUnavailable for any error inside.

    `what` names the object.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise _of_os_error(what, error) from error
    except Exception as error:
        if not type(error).__module__.startswith(("obstore", "botocore")):
            raise
        raise _of_remote_error(what, error) from error


def _of_os_error(what: str, error: OSError) -> StoreError:
    if error.errno in _FULL:
        return StoreFull(
            f"no space left to write {what}: {error.strerror}; free some, or raise the limit."
        )
    if error.errno in _MISSING:
        return ObjectNotFound(f"no object {what}.")
    if error.errno is None:
        return _of_remote_error(what, error)  # obstore raises built-in errors without a number
    return StoreUnavailable(f"the store cannot read or write {what}: {error.strerror}.")


def _of_remote_error(what: str, error: Exception) -> StoreError:
    text = str(error)
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
        return ObjectNotFound(f"no object {what}.")
    kind = StoreFull if any(words in text for words in _FULL_WORDS) else StoreUnavailable
    return kind(f"the store cannot read or write {what}: {text.strip().splitlines()[0][:300]}")
