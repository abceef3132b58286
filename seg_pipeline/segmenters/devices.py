"""What all torch models share: devices, errors and the release of memory."""

import ctypes
import gc
import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from seg_pipeline.errors import (
    DeviceBroken,
    JobCancelled,
    ModelError,
    ModelFailed,
    ModelOutOfMemory,
    without_folders,
)

FIRST_WITH_BF16 = (8, 0)
"""The compute capability of the first GPUs with bf16: Ampere's."""

logger = logging.getLogger(__name__)

T = TypeVar("T")

capturing = threading.Lock()
"""Held while a CUDA graph is captured. Until then no thread may give memory back to the device."""


def pick_device(device: str) -> str:
    """The device as torch spells it. `auto` takes CUDA if there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def kernel_or_plain(
    device: torch.device, kernel: Callable[[], T], check: Callable[[T], None], plain: T, done: str
) -> T:
    """The kernel on CUDA, where it loads and passes the check, else what does it by torch alone.

    Such a machine loses speed, and nothing else. The log says once why masks are `done` slower.
    """
    if device.type != "cuda":
        return plain
    try:
        made = kernel()
        check(made)
    except Exception as error:
        raise_if_broken(error)
        logger.warning("masks are %s without a kernel of our own, slower: %s", done, error)
        return plain
    return made


def keep_compiled_in(folder: Path) -> None:
    """Lets torch and Triton keep what they compile in the folder: the next process need not.

    They take folders from the environment alone. One that an operator has set there stays. Where
    nothing can be written, they take folders of their own, which may end with the machine.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.resolve()))
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder.resolve() / "triton"))


def describe_device(device: str) -> str:
    """The device's model name and capabilities. Devices of one description round alike."""
    if device.startswith("cuda"):
        return f"{device}: {torch.cuda.get_device_name(device)}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{device}: {next(iter(names), platform.machine())},"
        f" {capability}{', bf16' if has_bf16() else ''}"
    )


def has_bf16(device: str = "cpu") -> bool:
    """Whether the device multiplies bf16 in hardware (AVX512-BF16, AMX; GPUs since Ampere).

    Elsewhere bf16 is slower than fp32.
    """
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= FIRST_WITH_BF16
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@contextmanager
def running_errors(name: str) -> Iterator[None]:
    """Turns errors of torch and a model's library into ours.

    Raises ModelOutOfMemory, DeviceBroken or ModelFailed. A cancel is no error of theirs.
    """
    try:
        yield
    except (JobCancelled, ModelError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            give_memory_back()
            raise ModelOutOfMemory(
                f"the memory did not suffice for {name}; try a smaller model."
            ) from error
        raise_if_broken(error)
        raise ModelFailed(
            f"{name} failed on the picture: {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def loading_errors(weights_path: Path, kind: str, device: str) -> Iterator[None]:
    """Turns errors of loading into ours.

    Raises ModelError if the file is not of this kind, ModelOutOfMemory if it does not fit, or
    DeviceBroken.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelOutOfMemory(
                f"the memory did not suffice to load {weights_path.name} on {device}."
            ) from error
        raise_if_broken(error)
        raise ModelError(
            f"{weights_path.name} cannot be loaded as {kind} weights: {first_line(error)}"
        ) from error


_OF_THE_DEVICE = (
    "CUDA error",
    "CUDA driver error",
    "Triton Error [CUDA]",
    "CUDNN_STATUS_EXECUTION_FAILED",
)
"""Errors of the device begin so, or name this."""

_PASSING = (
    "captur",
    "invalid argument",
    "invalid configuration",
    "invalid device function",
    "no kernel image",
    "kernel image is invalid",
    "too many resources",
)
"""Of these the one call fails. After any other, CUDA refuses all that the process asks of it."""


def raise_if_broken(error: Exception) -> None:
    """Raises DeviceBroken after an error that breaks CUDA for the rest of the process.

    Want of memory is none, however CUDA words it.
    """
    text = str(error)
    of_the_device = any(words in text for words in _OF_THE_DEVICE)
    passing = is_out_of_memory(error) or any(words in text for words in _PASSING)
    if of_the_device and not passing:
        raise DeviceBroken(f"this process can use the GPU no more: {first_line(error)}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the device or the host. Torch reports it in several ways."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def first_line(error: Exception) -> str:
    """The first line of the error, shortened and without our folders: clients read it."""
    return without_folders(next(iter(str(error).splitlines()), "no message"))[:200]


def on_device(device: str) -> AbstractContextManager[Any]:
    """Makes a GPU this thread's: Triton and CUDA graphs do not look where the tensors are."""
    return torch.cuda.device(device) if device.startswith("cuda") else nullcontext()


def free_memory(device: str) -> int | None:
    """The bytes of the GPU that this process could take; None for a CPU, or if it does not say."""
    if not device.startswith("cuda"):
        return None
    try:
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    except RuntimeError as error:
        raise_if_broken(error)
        return None
    return int(free + kept)


def give_memory_back() -> None:
    """Returns freed memory to the device and to the system. The log says if the device refuses."""
    gc.collect()
    if torch.cuda.is_available():
        try:
            with capturing:
                torch.cuda.empty_cache()
        except RuntimeError as error:
            logger.warning("the GPU takes no memory back: %s", first_line(error))
    # glibc keeps freed memory; others have no such call.
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
