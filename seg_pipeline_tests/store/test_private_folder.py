"""Nobody else on the machine reads pictures, logs and databases."""

import os
import stat
from pathlib import Path

import pytest

from seg_pipeline.store.private_folder import make_private


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    assert mode(make_private(tmp_path / "data")) == 0o700


@pytest.mark.parametrize("before", [0o755, 0o777, 0o1777, 0o750, 0o700, 0o500])
def test_a_folder_that_is_there_is_closed_to_others(tmp_path: Path, before: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(before)
    make_private(folder)
    assert mode(folder) & 0o077 == 0
    (folder / "made").mkdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user takes root")
def test_another_users_folder_in_it_can_still_be_reached(tmp_path: Path) -> None:
    """A Postgres that root starts keeps its files there as a user of its own."""
    folder = tmp_path / "data"
    for name in ("logs", "postgres"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o755)
    os.chown(folder / "postgres", 65534, 65534)
    make_private(folder)
    assert (mode(folder), mode(folder / "logs"), mode(folder / "postgres")) == (0o711, 0o700, 0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user takes root")
def test_a_folder_of_another_user_is_theirs_to_close(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    os.chown(folder, 65534, 65534)
    make_private(folder)
    assert mode(folder) == 0o755
