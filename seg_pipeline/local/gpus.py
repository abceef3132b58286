"""The GPUs of this machine, how many workers keep them busy, and a worker's claim on one of them.

A worker uses one GPU. Where it sees several it takes one that the fewest others have, and hides the
rest from CUDA. The claim is a lock on a file, which ends with the process however that ends.
Containers that share the folder share the GPUs so.
"""

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ANY_GPU = ("auto", "cuda")
"""Values of DEVICE that leave open which GPU it is."""

MOST_WORKERS = 64
CORES_A_WORKER = 3
"""So many cores a worker keeps busy around a model that answers at once, its encoders' included."""

MIB_A_WORKER = 8 * 1024
"""A GPU's memory for each worker: the peak of the largest model, and what CUDA takes itself."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_QUERY = ("nvidia-smi", "--format=csv,noheader,nounits")
_REPORT = (sys.executable, "-m", "seg_pipeline.segmenters.gpu_report")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuClaim:
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
    names = _lines([*_QUERY, "--query-gpu=uuid"]) if named is None else named.split(",")
    return [name.strip() for name in names if re.fullmatch(r"\w[\w/-]*", name.strip())]


def workers_for(gpus: Sequence[str], cores: int) -> int:
    """The workers that keep these GPUs busy: one for each, more where cores and memory allow.

    There is one alone for each if it is not known that torch can use them.
    """
    each = cores // CORES_A_WORKER // len(gpus)
    if each > 1:
        each = min(each, min(_memory_that_torch_sees(), default=0) // MIB_A_WORKER)
    return min(max(each, 1) * len(gpus), MOST_WORKERS)


def _memory_that_torch_sees() -> list[int]:
    """The MiB of each GPU that torch can use, which takes seconds to ask; none if it can use none.

    Of a GPU that is cut into slices (MIG) torch has one slice, and the driver names the whole.
    """
    try:
        return [int(size) for size in json.loads(_lines(_REPORT)[-1])["memory_mib"]]
    except (IndexError, ValueError, KeyError, TypeError):
        return []


def _lines(command: Sequence[str]) -> list[str]:
    """What the command prints; nothing if it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()


def claim_gpu(device: str, folder: Path) -> GpuClaim | None:
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
                return GpuClaim(gpu, file)
    return None


def take_gpu(device: str, folder: Path) -> GpuClaim | None:
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
