"""An upload's bytes on their way in: counted, hashed, without a name, and gone with the spool."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from api.error_responses import Busy
from api.spool import CHECK_EVERY_BYTES, Spool, open_nameless
from seg_pipeline.errors import StoreError


def anything_fits(_size: int) -> None:
    """Enough space for whatever comes."""


def test_what_is_written_is_counted_hashed_and_in_the_file(tmp_path: Path) -> None:
    with Spool(tmp_path, anything_fits) as spool:
        spool.write(b"one")
        spool.write(b"two")
        spool.file.seek(0)
        assert spool.file.read() == b"onetwo"
        assert (spool.size, spool.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())


def test_an_upload_of_nothing_makes_no_file(tmp_path: Path) -> None:
    with Spool(tmp_path / "uploads", anything_fits) as spool:
        assert (spool.size, spool.sha256) == (0, hashlib.sha256().hexdigest())
    assert not (tmp_path / "uploads").exists()


def test_the_file_has_no_name_and_is_closed_with_the_spool(tmp_path: Path) -> None:
    """Nothing is left behind, however the process ends."""
    with Spool(tmp_path / "uploads", anything_fits) as spool:
        spool.write(b"data")
        file = spool.file
        assert os.listdir(tmp_path / "uploads") == []
    assert file.closed
    assert os.listdir(tmp_path / "uploads") == []


def test_space_is_asked_for_at_the_start_and_every_few_megabytes(tmp_path: Path) -> None:
    asked: list[int] = []
    with Spool(tmp_path, asked.append) as spool:
        for size in (10, CHECK_EVERY_BYTES - 1, 1, 20):
            spool.write(bytes(size))
    assert asked == [10, 1]


def test_what_finds_no_space_is_not_written(tmp_path: Path) -> None:
    def refuse(_size: int) -> None:
        raise Busy("full.")

    with Spool(tmp_path, refuse) as spool, pytest.raises(Busy):
        spool.write(b"data")
    assert spool.size == 0


def test_a_folder_that_cannot_be_written_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file")
    with Spool(tmp_path / "uploads", anything_fits) as spool, pytest.raises(StoreError):
        spool.write(b"data")


def test_where_the_system_knows_no_nameless_files_one_is_made_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_open = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return system_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with open_nameless(tmp_path) as file:
        file.write(b"data")
        file.seek(0)
        assert file.read() == b"data"
        assert os.listdir(tmp_path) == []
