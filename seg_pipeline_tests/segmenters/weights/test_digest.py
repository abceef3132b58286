"""The hash of weights, and the record that a download leaves beside them."""

import hashlib
import os
from pathlib import Path

import pytest

from seg_pipeline.errors import WeightsMissing
from seg_pipeline.segmenters.weights.digest import record_of, verified, weights_sha256


def test_the_hash_is_computed_once_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    assert weights_sha256(file) == weights_sha256(file) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    os.utime(file, ns=(2, 2))
    assert weights_sha256(file) == hashlib.sha256(b"two").hexdigest()


def test_a_file_without_a_record_is_the_operators_own(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    assert verified(file) == file


def test_a_file_that_is_the_recorded_one_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    record_of(file).write_text(f"{weights_sha256(file)}  a.pt\n")
    assert record_of(file) == tmp_path / "a.pt.sha256"
    assert verified(file) == file


@pytest.mark.parametrize("record", ["", "0" * 64, "no hash at all"])
def test_a_file_that_is_not_the_recorded_one_is_refused(record: str, tmp_path: Path) -> None:
    """Weights are a pickle: what has been put in their place may not be opened."""
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    record_of(file).write_text(record)
    with pytest.raises(WeightsMissing, match=r"a\.pt is not the file that was downloaded") as error:
        verified(file)
    assert str(tmp_path) not in str(error.value)
