"""The GPUs of this machine, and a worker's claim on one of them.

A worker uses one GPU. Where it sees several it takes one that the fewest others have, and hides the
rest from CUDA. The claim is a lock on a file, which ends with the process however that ends.
Containers that share the folder share the GPUs so.
"""

import fcntl
import logging
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ANY_GPU = ("auto", "cuda")
"""Values of DEVICE that leave open which GPU it is."""

MOST_WORKERS = 64
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_QUERY = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """A claimed GPU, as CUDA_VISIBLE_DEVICES names it, until the file is closed."""

    gpu: str
    file: IO[bytes]


def usable_gpus(device: str) -> list[str]:
    """The GPUs that DEVICE leaves open, as CUDA_VISIBLE_DEVICES names them; without CUDA none.

    If that variable is set, they are those that it names.
    """
    if device not in ANY_GPU:
        return []
    named = os.environ.get(_VISIBLE)
    names = _by_the_driver() if named is None else named.split(",")
    return [name.strip() for name in names if re.fullmatch(r"\w[\w/-]*", name.strip())]


def _by_the_driver() -> list[str]:
    try:
        answer = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()


def claim_gpu(device: str, folder: Path) -> Claim | None:
    """Claims one of several GPUs; None where there is no choice. Raises OSError."""
    gpus = usable_gpus(device)
    if len(gpus) < 2:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(MOST_WORKERS):
        for gpu in gpus:
            file = (folder / f"{gpu.replace('/', '_')}-{rank}.lock").open("wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return Claim(gpu, file)
    return None


def take_gpu(device: str, folder: Path) -> Claim | None:
    """Claims a GPU and hides the others from this process, which must not have used CUDA yet.

    Where nothing can be claimed, CUDA takes its first.
    """
    try:
        claim = claim_gpu(device, folder)
    except OSError as error:
        logger.warning("which GPUs other workers have is not known: %s", error)
        return None
    if claim:
        os.environ[_VISIBLE] = claim.gpu
        logger.info("this worker has GPU %s", claim.gpu)
    return claim
