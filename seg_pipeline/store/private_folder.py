"""Keeps the data folder for its owner alone: it holds pictures, logs and databases."""

import logging
import os
import stat
from pathlib import Path

OWNER_ONLY = 0o700
MAY_PASS = 0o711
"""Others may pass to a folder of theirs below, such as a database server's, but see no names."""

logger = logging.getLogger(__name__)


def make_private(folder: Path) -> Path:
    """Makes the folder, or closes it to others if it exists and is ours.

    If another user owns one of its folders, others may pass, and the remaining folders are closed
    one by one.
    """
    folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    with os.scandir(folder) as entries:
        inside = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    is_shared = any(entry.stat(follow_symlinks=False).st_uid != os.geteuid() for entry in inside)
    _restrict(folder, MAY_PASS if is_shared else OWNER_ONLY)
    for entry in inside if is_shared else ():
        _restrict(Path(entry.path), OWNER_ONLY)
    return folder


def _restrict(folder: Path, allowed: int) -> None:
    """Removes the permissions that are not allowed. A folder of another user is left alone."""
    state = folder.stat()
    mode = stat.S_IMODE(state.st_mode)
    if state.st_uid == os.geteuid() and mode & 0o777 & ~allowed:
        folder.chmod(mode & ~0o777 | allowed)
        logger.info("%s was open to others (%o) and is closed now", folder, mode)
