"""The hash of weights, and the record that a download leaves beside them."""

import hashlib
import os
from pathlib import Path

from seg_pipeline.segmenters.weights.digest import weights_sha256


def test_the_hash_is_computed_once_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    assert weights_sha256(file) == weights_sha256(file) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    os.utime(file, ns=(2, 2))
    assert weights_sha256(file) == hashlib.sha256(b"two").hexdigest()
